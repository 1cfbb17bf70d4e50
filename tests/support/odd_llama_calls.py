"""Calls of llama-cpp-python with odd arguments: other types, several options together, objects in unusual places."""

from __future__ import annotations

import pickle
from itertools import islice
from typing import Any

import numpy as np
from llama_cpp import Llama, LlamaGrammar, LogitsProcessorList, StoppingCriteriaList
from llama_cpp.llama_tokenizer import LlamaTokenizer

from support.calls import Case
from support.llama_models import CHAT, PROMPT

ALL = {"logits_all": True}
SHORT = {"max_tokens": 20, "temperature": 0.0}
OBJECT = '{"type": "object"}'
DIGITS = 'root ::= [0-9 ]+ "\\n"'

GREEDY: dict[str, dict[str, Any]] = {
    "max_tokens=0": {"max_tokens": 0},
    "max_tokens=-7": {"max_tokens": -7},
    "max_tokens of numpy": {"max_tokens": np.int64(9)},
    "max_tokens beyond the context": {"max_tokens": 10_000},
    "temperature of numpy": {"temperature": np.float32(0.0)},
    "temperature=0 as an integer": {"temperature": 0},
    "top_k=1 and top_p and min_p": {"temperature": 1.0, "top_k": 1, "top_p": 0.3, "min_p": 0.3},
    "top_k=1 of numpy": {"temperature": 1.0, "top_k": np.int32(1)},
    "stop=None": {"stop": None},
    "stop=''": {"stop": ""},
    "stop=[]": {"stop": []},
    "stop of a tuple": {"stop": ("b", "c")},
    "stop that overlaps": {"stop": ["b-6 c", "b-6"]},
    "stop at once": {"stop": ["5", "4", " "]},
    "stop of four characters and more": {"stop": ["\n", "Ω", "a+3 b-6 c+8"]},
    "echo and stop": {"echo": True, "stop": ["b"]},
    "echo and suffix": {"echo": True, "suffix": "!"},
    "echo and max_tokens=0": {"echo": True, "max_tokens": 0},
    "suffix of nothing": {"suffix": ""},
    "logit_bias of nothing": {"logit_bias": {}},
    "logit_bias=None": {"logit_bias": None},
    "logit_bias of numpy ids": {"logit_bias": {np.int64(47): np.float32(2.5)}},
    "logit_bias of -inf": {"logit_bias": {47: float("-inf")}},
    "logit_bias of most tokens": {"logit_bias": {token: -50.0 for token in range(40)}},
    "logit_bias and penalties": {"logit_bias": {47: 3.0}, "repeat_penalty": 1.3, "presence_penalty": 0.4},
    "logit_bias and stop": {"logit_bias": {47: 3.0}, "stop": ["-6"]},
    "penalties below 0": {"frequency_penalty": -0.5, "presence_penalty": -0.5},
    "repeat_penalty below 1": {"repeat_penalty": 0.8},
    "seed of numpy": {"seed": np.int64(3)},
    "seed=-1": {"seed": -1},
    "seed of 64 bits": {"seed": 2**40 + 3},
    "logprobs=None": {"logprobs": None},
    "logits_processor of a plain list": {"logits_processor": [lambda ids, scores: scores]},
    "logits_processor of nothing": {"logits_processor": LogitsProcessorList()},
    "stopping_criteria of nothing": {"stopping_criteria": StoppingCriteriaList()},
    "two processors": {"logits_processor": LogitsProcessorList([lambda i, s: s - 1.0, lambda i, s: s * 2.0])},
    "processor and penalties": {"logits_processor": LogitsProcessorList([lambda i, s: s * 0.5]), "repeat_penalty": 1.3},
    "min_p=0 and typical_p=1": {"min_p": 0.0, "typical_p": 1.0},
}
LOGPROBS: dict[str, dict[str, Any]] = {
    "logprobs of numpy": {"logprobs": np.int64(2)},
    "logprobs of all tokens": {"logprobs": 10_000},
    "logprobs and max_tokens=0": {"logprobs": 2, "max_tokens": 0, "echo": True},
    "logprobs and suffix": {"logprobs": 2, "suffix": "!"},
    "logprobs, echo and stop": {"logprobs": 2, "echo": True, "stop": ["b"]},
}
RANDOM: dict[str, dict[str, Any]] = {
    "min_p": {"temperature": 1.0, "min_p": 0.2, "top_k": 0, "top_p": 1.0},
    "typical_p=0": {"temperature": 1.0, "typical_p": 0.0},
    "top_k=-1": {"temperature": 1.0, "top_k": -1},
    "temperature=5": {"temperature": 5.0},
    "mirostat 2 and penalties": {"temperature": 1.0, "mirostat_mode": 2, "mirostat_tau": 2.0, "repeat_penalty": 1.2},
    "mirostat 1 and bias": {"temperature": 1.0, "mirostat_mode": 1, "mirostat_eta": 0.3, "logit_bias": {47: 1.0}},
    "mirostat_mode=3": {"temperature": 1.0, "mirostat_mode": 3},
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "best_of": {"best_of": 2},
    "xtc_probability": {"xtc_probability": 0.5},
    "dry_multiplier": {"dry_multiplier": 0.8},
    "grammar of text": {"grammar": DIGITS},
    "temperature of text": {"temperature": "0.7"},
}
CHATS: dict[str, dict[str, Any]] = {
    "max_tokens=0": {"max_tokens": 0},
    "stop=None": {"stop": None},
    "stop of a tuple": {"stop": ("b",)},
    "seed": {"seed": 5},
    "response_format of text": {"response_format": {"type": "text"}},
    "response_format=None": {"response_format": None},
    "json and stop": {"response_format": {"type": "json_object"}, "stop": ["}"]},
    "json and bias": {"response_format": {"type": "json_object"}, "logit_bias": {47: 2.0}},
    "json and penalties": {"response_format": {"type": "json_object"}, "repeat_penalty": 1.2},
    "json, tools none": {"response_format": {"type": "json_object"}, "tools": [], "tool_choice": "none"},
    "tools of nothing": {"tools": []},
    "function_call none": {"functions": [], "function_call": "none"},
    "functions of another kind": {"function_call": "auto"},
    "top_logprobs without logprobs": {"top_logprobs": 2},
    "unknown": {"n": 2},
}
_CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TALKS: dict[str, list[dict[str, Any]]] = {
    "no message": [],
    "no content": [{"role": "user", "content": None}],
    "content of parts": [{"role": "user", "content": [{"type": "text", "text": "52 a+3"}]}],
    "a name": [{"role": "user", "name": "ann", "content": "52 a+3"}],
    "system alone": [{"role": "system", "content": "Add."}],
    "ends in the assistant": [*CHAT, {"role": "assistant", "content": "49"}],
    "a tool's answer": [*CHAT, {"role": "assistant", "tool_calls": [_CALL]}, {"role": "tool", "content": "1"}],
    "an unknown role": [{"role": "narrator", "content": "52 a+3"}],
    "no role": [{"content": "52 a+3"}],
    "marks of thinking": [{"role": "user", "content": "<think>a</think> 52 a+3"}],
}
OPENED: dict[str, dict[str, Any]] = {
    "use_mmap=False": {"use_mmap": False},
    "offload_kqv=False": {"offload_kqv": False},
    "op_offload=False": {"op_offload": False},
    "swa_full": {"swa_full": True},
    "seed": {"seed": 7},
    "n_threads=2": {"n_threads": 2, "n_threads_batch": 2},
    "n_ctx=0": {"n_ctx": 0},
    "n_ctx=100": {"n_ctx": 100},
    "last_n_tokens_size=0": {"last_n_tokens_size": 0},
    "rope_freq_base": {"rope_freq_base": 20_000.0},
    "type_k and type_v": {"type_k": 8, "type_v": 8, "flash_attn": True},
    "no_perf": {"no_perf": True},
    "chat_format alpaca": {"chat_format": "alpaca"},
    "chat_format vicuna": {"chat_format": "vicuna"},
    "chat_format mistral-instruct": {"chat_format": "mistral-instruct"},
    "n_batch above n_ctx": {"n_batch": 1024},
    "n_batch=3 and n_ubatch=2": {"n_batch": 3, "n_ubatch": 2},
}


def _complete(llm: Llama, stream: bool = False, prompt: Any = PROMPT, **more: Any) -> Any:
    return llm.create_completion(prompt, stream=stream, **(SHORT | more))


def _chat(llm: Llama, stream: bool = False, messages: Any = CHAT, **more: Any) -> Any:
    return llm.create_chat_completion(messages, stream=stream, **(SHORT | more))


def _bound(call: Any, **more: Any) -> Any:
    return lambda llm: call(llm, **more)


def _grammar(text: str = DIGITS) -> LlamaGrammar:
    return LlamaGrammar.from_string(text, verbose=False)


def _ids(llm: Llama) -> list[int]:
    return llm.tokenize(PROMPT.encode(), special=True)


def _first(llm: Llama, n: int, run: Any) -> list[int]:
    """Tokens of a generator, up to the end of the sequence: the library goes on after it."""
    found = list(islice(run, n))
    return found[: found.index(llm.token_eos()) + 1] if llm.token_eos() in found else found


def _copied(llm: Llama) -> Any:
    """A Llama that was pickled is opened anew."""
    other = pickle.loads(pickle.dumps(llm))
    try:
        return _complete(other)
    finally:
        other.close()


def _prompts() -> list[Case]:
    wrong = {"runs": False}
    return [
        Case("prompt of a numpy array", lambda llm: _complete(llm, prompt=np.array(_ids(llm)))),
        Case("prompt of numpy ids", lambda llm: _complete(llm, prompt=[np.int32(token) for token in _ids(llm)])),
        Case("prompt of a tuple", lambda llm: _complete(llm, prompt=tuple(_ids(llm)))),
        Case("prompt of bytes", lambda llm: _complete(llm, prompt=PROMPT.encode())),
        Case("prompt of texts", lambda llm: _complete(llm, prompt=[PROMPT, "a"])),
        Case("prompt of nothing", lambda llm: _complete(llm, prompt=[]), **wrong),
        Case("prompt with special tokens", lambda llm: _complete(llm, prompt="<think>\n5</think>\n")),
        Case("prompt of signs outside of the vocabulary", lambda llm: _complete(llm, prompt="Ω≈ç√ 5 a+3")),
        Case("prompt of white space", lambda llm: _complete(llm, prompt="   ")),
        Case("generate of numpy ids", lambda llm: _first(llm, 9, llm.generate(np.array(_ids(llm)), temp=0.0))),
        Case("generate by position", lambda llm: _first(llm, 9, llm.generate(_ids(llm), 40, 0.9, 0.0, 1.0, 0.0))),
        Case("generate and close", lambda llm: [_closed(llm), _complete(llm)]),
        Case("generate and send nothing", lambda llm: _sent_nothing(llm)),
        Case("generate twice", lambda llm: [_first(llm, 5, llm.generate(_ids(llm), temp=0.0)) for _ in range(2)]),
        Case("generate under a grammar", lambda llm: _first(llm, 9, llm.generate([47], temp=0.0, grammar=_grammar()))),
    ]


def _closed(llm: Llama) -> list[int]:
    run = llm.generate(_ids(llm), temp=0.0)
    found = [next(run) for _ in range(3)]
    run.close()
    return found


def _sent_nothing(llm: Llama) -> list[Any]:
    run = llm.generate(_ids(llm), temp=0.0)
    return [next(run), run.send(None), next(run)]


def _together() -> list[Case]:
    """Grammars with other options, streams, calls in a row."""

    def digits(**more: Any) -> Any:
        return lambda llm: _complete(llm, grammar=_grammar(), **more)

    return [
        Case("grammar and bias", digits(logit_bias={47: 2.0, 50: -1.0})),
        Case("grammar and stop, stream", digits(stop=["3"], stream=True)),
        Case("grammar and penalties", digits(repeat_penalty=1.3, frequency_penalty=0.3)),
        Case("grammar and top_k=1", digits(temperature=1.0, top_k=1)),
        Case("grammar and logprobs", digits(logprobs=2), ALL),
        Case("grammar and processor", digits(logits_processor=LogitsProcessorList([lambda i, s: s * 0.5]))),
        Case("grammar and echo", digits(echo=True)),
        Case("grammar, random", digits(temperature=1.0), random=True),
        Case("grammar and mirostat", digits(temperature=1.0, mirostat_mode=2), random=True),
        Case("grammar of two calls", lambda llm: [_complete(llm, grammar=grammar) for grammar in [_grammar()] * 2]),
        Case("grammar of JSON", lambda llm: _complete(llm, grammar=LlamaGrammar.from_json_schema(OBJECT))),
        Case("stream after stream", lambda llm: [list(_complete(llm, True)) for _ in range(2)]),
        Case("a stream that nobody reads", lambda llm: [_complete(llm, True) and None, _complete(llm)]),
        Case("a call after one that fails", lambda llm: [_failed(llm), _complete(llm)]),
        Case("set_cache(None)", lambda llm: [llm.set_cache(None), _complete(llm)]),
        Case("pickled", _copied, runs=False),
        Case("create_chat_completion and completion", lambda llm: [_chat(llm), _complete(llm), _chat(llm)]),
        Case("tokenizer object", lambda llm: LlamaTokenizer(llm).encode("a+3"), runs=False),
        Case("from_pretrained's arguments", lambda llm: [llm.model_path.endswith("gguf"), llm.chat_format], runs=False),
        Case("longest_token_prefix", lambda llm: llm.longest_token_prefix([1, 2], [1, 3]), runs=False),
        Case("logits_to_logprobs", lambda llm: llm.logits_to_logprobs(np.arange(3.0)), runs=False),
    ]


def _failed(llm: Llama) -> str:
    try:
        return str(_complete(llm, prompt=[47] * 999))
    except ValueError as error:
        return type(error).__name__


def _products(kind: str, call: Any, sets: dict[str, dict[str, Any]], opening: Any, random: bool = False) -> list[Case]:
    return [
        Case(f"{kind}, {name}{', stream' if stream else ''}", _bound(call, stream=stream, **more), opening, random)
        for name, more in sets.items()
        for stream in (False, True)
    ]


CASES = [
    *_products("completion", _complete, GREEDY, {}),
    *_products("completion", _complete, LOGPROBS, ALL),
    *_products("completion, random", _complete, RANDOM, {}, True),
    *(Case(f"completion, {name}", _bound(_complete, **more), runs=False) for name, more in UNKNOWN.items()),
    *_products("chat", _chat, CHATS, {}),
    *(Case(f"chat, {name}", _bound(_chat, messages=talk)) for name, talk in TALKS.items()),
    *(Case(f"opened with {name}", lambda llm: [_complete(llm), _chat(llm)], given) for name, given in OPENED.items()),
    *_prompts(),
    *_together(),
]
