"""The calls of llama-cpp-python that tests/every_call.py makes twice, on the bundled model."""

from __future__ import annotations

import tempfile
from itertools import islice
from typing import Any

import numpy as np
from llama_cpp import (
    Llama,
    LlamaDiskCache,
    LlamaGrammar,
    LlamaRAMCache,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding

from support.calls import Case
from support.llama_models import CHAT, PROMPT, open_llama

ALL = {"logits_all": True}
SHORT = {"max_tokens": 24, "temperature": 0.0}
DIGITS = 'root ::= [0-9 ]+ "\\n"'
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
CHOICE = {"type": "function", "function": {"name": "add"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

COMPLETION: dict[str, dict[str, Any]] = {
    "greedy": {},
    "max_tokens=1": {"max_tokens": 1},
    "max_tokens=None": {"max_tokens": None},
    "max_tokens=-1": {"max_tokens": -1},
    "top_k=1": {"temperature": 0.8, "top_k": 1},
    "top_p=0": {"temperature": 0.8, "top_p": 0.0},
    "min_p=1": {"temperature": 0.8, "min_p": 1.0},
    "stop text": {"stop": "b"},
    "stop list": {"stop": ["zzz", "\n\n", "-6"]},
    "echo": {"echo": True},
    "repeat_penalty": {"repeat_penalty": 1.3},
    "frequency_penalty": {"frequency_penalty": 0.7},
    "presence_penalty": {"presence_penalty": 0.7},
    "all penalties": {"repeat_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.2},
    "logit_bias": {"logit_bias": {47: 3.0, 55: -100.0}},
    "logit_bias of text": {"logit_bias": {"47": 3.0}},
    "seed": {"seed": 5},
    "model": {"model": "another name"},
    "suffix": {"suffix": " end"},
    "temperature=0 with mirostat": {"mirostat_mode": 2},
    "tfs_z": {"tfs_z": 0.5},
    "typical_p": {"typical_p": 0.5},
}
LOGPROBS: dict[str, dict[str, Any]] = {
    "logprobs=0": {"logprobs": 0},
    "logprobs=1": {"logprobs": 1},
    "logprobs=5": {"logprobs": 5},
    "logprobs and echo": {"logprobs": 2, "echo": True},
    "logprobs and stop": {"logprobs": 2, "stop": ["-6"]},
    "logprobs and top_k=1": {"logprobs": 2, "temperature": 0.8, "top_k": 1},
    "logprobs and penalties": {"logprobs": 3, "repeat_penalty": 1.3},
    "logprobs and bias": {"logprobs": 3, "logit_bias": {47: 3.0}},
}
RANDOM: dict[str, dict[str, Any]] = {
    "defaults": {},
    "temperature=0.8": {"temperature": 0.8},
    "temperature=-1": {"temperature": -1.0},
    "top_k and top_p": {"temperature": 1.0, "top_k": 9, "top_p": 0.7},
    "typical_p": {"temperature": 1.0, "typical_p": 0.6},
    "mirostat 1": {"temperature": 1.0, "mirostat_mode": 1},
    "mirostat 2": {"temperature": 1.0, "mirostat_mode": 2},
    "seed": {"temperature": 1.0, "seed": 3},
}
CHATS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "max_tokens=1": {"max_tokens": 1},
    "max_tokens=None": {"max_tokens": None},
    "top_k=1": {"temperature": 0.8, "top_k": 1},
    "stop": {"stop": ["-6"]},
    "repeat_penalty": {"repeat_penalty": 1.3},
    "logit_bias": {"logit_bias": {"47": 3.0}},
    "model": {"model": "another name"},
    "json": {"response_format": {"type": "json_object"}},
    "json schema": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "tools": {"tools": [TOOL]},
    "tools auto": {"tools": [TOOL], "tool_choice": "auto"},
    "tools none": {"tools": [TOOL], "tool_choice": "none"},
    "tool by name": {"tools": [TOOL], "tool_choice": CHOICE},
    "functions": {"functions": [TOOL["function"]]},
    "function by name": {"functions": [TOOL["function"]], "function_call": {"name": "add"}},
    "present": {"present_penalty": 0.1, "presence_penalty": 0.5},
}
CHAT_LOGPROBS: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": True},
    "top_logprobs=1": {"logprobs": True, "top_logprobs": 1},
    "top_logprobs=4": {"logprobs": True, "top_logprobs": 4},
}


def _complete(llm: Llama, stream: bool = False, **more: Any) -> Any:
    return llm.create_completion(PROMPT, stream=stream, **(SHORT | more))


def _chat(llm: Llama, stream: bool = False, **more: Any) -> Any:
    return llm.create_chat_completion(CHAT, stream=stream, **(SHORT | more))


def _ids(llm: Llama, text: str = PROMPT) -> list[int]:
    return llm.tokenize(text.encode(), special=True)


def _generate(llm: Llama, n: int = 12, **more: Any) -> list[int]:
    return list(islice(llm.generate(_ids(llm), temp=0.0, **more), n))


def _record(llm: Llama) -> Any:
    """What a Llama says of its cache."""
    return [
        llm.n_tokens,
        llm.input_ids[: llm.n_tokens].tolist(),
        list(llm.eval_tokens),
        *([llm._scores.copy()] if llm._logits_all else []),
    ]


def _products(
    kind: str, call: Any, sets: dict[str, dict[str, Any]], opening: dict[str, Any], random: bool = False
) -> list[Case]:
    return [
        Case(f"{kind}, {name}{', stream' if stream else ''}", _bound(call, stream, more), opening, random)
        for name, more in sets.items()
        for stream in (False, True)
    ]


def _bound(call: Any, stream: bool, more: dict[str, Any]) -> Any:
    return lambda llm: call(llm, stream=stream, **more)


def _biased(ids: Any, scores: Any) -> Any:
    scores = np.array(scores)
    scores[47] += 2.0
    return scores


def _stopped(ids: Any, scores: Any) -> bool:
    return len(ids) > 22


class Guess(LlamaDraftModel):
    """A draft model of the user's own: it proposes the last token again."""

    def __call__(self, input_ids: Any, /, **named: Any) -> Any:
        return np.repeat(input_ids[-1:], 3)


def _objects() -> list[Case]:
    """Calls with objects of the library."""
    processors = LogitsProcessorList([_biased])
    criteria = StoppingCriteriaList([_stopped])
    plain, spoken = {"max_tokens": 12}, {"messages": CHAT} | SHORT
    template = Jinja2ChatFormatter("{{ messages[0].content }}<think>\n", "<eos>", "")
    return [
        Case("grammar", lambda llm: _complete(llm, grammar=LlamaGrammar.from_string(DIGITS, verbose=False))),
        Case("grammar, chat", lambda llm: _chat(llm, grammar=LlamaGrammar.from_string(DIGITS, verbose=False))),
        Case("grammar, stream", lambda llm: _complete(llm, True, grammar=LlamaGrammar.from_string(DIGITS, False))),
        Case("logits_processor", lambda llm: _complete(llm, logits_processor=processors)),
        Case("logits_processor, stream", lambda llm: _complete(llm, True, logits_processor=processors)),
        Case("logits_processor, chat", lambda llm: _chat(llm, logits_processor=processors)),
        Case("stopping_criteria", lambda llm: _complete(llm, stopping_criteria=criteria)),
        Case("stopping_criteria, stream", lambda llm: _complete(llm, True, stopping_criteria=criteria)),
        Case("processor and criteria", lambda llm: _complete(llm, logits_processor=processors, **_c(criteria)), ALL),
        Case("token ids", lambda llm: llm.create_completion(_ids(llm), **SHORT)),
        Case("token ids, stream", lambda llm: llm.create_completion(_ids(llm), stream=True, **SHORT)),
        Case("empty prompt", lambda llm: llm("", **plain, temperature=0.0)),
        Case("prompt of one token", lambda llm: llm([47], **SHORT)),
        Case("prompt that fills the context", lambda llm: llm([47] * 256, **SHORT)),
        Case("prompt beyond the context", lambda llm: llm([47] * 300, **SHORT)),
        Case("prompt up to the context's last token", lambda llm: llm([47] * 255, **SHORT)),
        Case("__call__", lambda llm: llm(PROMPT, **SHORT)),
        Case("__call__, stream", lambda llm: llm(PROMPT, stream=True, **SHORT)),
        Case("create_chat_completion_openai_v1", lambda llm: _no_openai(llm, spoken)),
        Case("chat handler", lambda llm: _handled(llm, template)),
        Case("chat_format of another model", _chat, {"chat_format": "chatml"}),
        Case("chat_format of another model, stream", lambda llm: _chat(llm, True), {"chat_format": "llama-2"}),
        Case("chat_format for functions", lambda llm: _chat(llm, **CHATS["tools auto"]), _FUNCTIONS),
        Case("chat_format for functions, by name", lambda llm: _chat(llm, **CHATS["tool by name"]), _FUNCTIONS),
        Case("chat_format for functions, none", lambda llm: _chat(llm), _FUNCTIONS),
        Case("chat_format for functions, stream", lambda llm: _chat(llm, True, **CHATS["tool by name"]), _FUNCTIONS),
        Case("chat with a picture and no handler", lambda llm: _pictured(llm)),
        Case("chat of several messages", lambda llm: llm.create_chat_completion(_TALK, **SHORT)),
        Case("chat of several messages, stream", lambda llm: llm.create_chat_completion(_TALK, stream=True, **SHORT)),
    ]


_FUNCTIONS = {"chat_format": "chatml-function-calling"}
_TALK = [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "assistant", "content": "49"}, *CHAT]


def _c(criteria: Any) -> dict[str, Any]:
    return {"stopping_criteria": criteria}


def _pictured(llm: Llama) -> Any:
    parts: Any = [{"type": "text", "text": "what?"}, PICTURE]
    return llm.create_chat_completion([{"role": "user", "content": parts}], **SHORT)


def _no_openai(llm: Llama, spoken: dict[str, Any]) -> Any:
    return llm.create_chat_completion_openai_v1(**spoken).model_dump()


def _handled(llm: Llama, formatter: Jinja2ChatFormatter) -> Any:
    llm.chat_handler = formatter.to_chat_handler()
    return _chat(llm)


def _cached(llm: Llama, cache: Any) -> Any:
    llm.set_cache(cache)
    return [_complete(llm), llm("Q: 1 b+1", **SHORT), _complete(llm), list(_complete(llm, True)), _record(llm)]


def _disk(llm: Llama) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        cache = LlamaDiskCache(folder)
        try:
            return _cached(llm, cache)
        finally:
            cache.cache.close()


def _saved(llm: Llama) -> Any:
    first = _complete(llm)
    state = llm.save_state()
    other = llm("Q: 1 b+1", **SHORT)
    llm.load_state(state)
    more = llm(PROMPT + first["choices"][0]["text"], **SHORT)
    llm.load_state(state)
    return [first, other, more, llm.n_tokens, _complete(llm)]


def _moved(llm: Llama) -> Any:
    """A state that another Llama has saved."""
    other = open_llama(n_ctx=llm.n_ctx(), logits_all=llm._logits_all)
    first = other(PROMPT, **SHORT)
    llm.load_state(other.save_state())
    other.close()
    return [first, llm(PROMPT + first["choices"][0]["text"], **SHORT), _record(llm)]


def _sent(llm: Llama) -> list[int]:
    """Tokens sent into generate: a draft that the library verifies, right ones and wrong ones."""
    run = llm.generate(_ids(llm), temp=0.0)
    found = [next(run) for _ in range(3)]
    found.append(run.send(llm.tokenize(b" b-6", add_bos=False)))
    found += [next(run) for _ in range(3)]
    found.append(run.send([9, 10]))
    return found + [next(run) for _ in range(4)]


def _fed(llm: Llama) -> Any:
    """The low-level way: eval and sample by hand, and generate from there."""
    llm.reset()
    llm.eval(_ids(llm))
    token = llm.sample(temp=0.0)
    llm.eval([token])
    return [token, list(islice(llm.generate([47], temp=0.0, reset=False), 6)), _record(llm)]


def _many(llm: Llama) -> Any:
    """Calls in a row share prefixes of the cache."""
    texts = (PROMPT, PROMPT + "52 a", "Q: 1 b+1", PROMPT)
    return [[llm(text, **SHORT), _record(llm)] for text in texts]


def _abandoned(llm: Llama) -> Any:
    stream = _complete(llm, True)
    first = [next(stream) for _ in range(3)]
    stream.close()
    return [first, _complete(llm), _record(llm)]


def _states() -> list[Case]:
    """Calls in a row, and what a Llama keeps between them."""
    lookup = {"draft_model": LlamaPromptLookupDecoding()}
    guess = {"draft_model": Guess()}
    text = {"runs": False}
    return [
        Case("calls in a row", _many),
        Case("calls in a row, logits_all", _many, ALL),
        Case("a stream left early", _abandoned),
        Case("reset", lambda llm: [_complete(llm), llm.reset(), llm.n_tokens, _complete(llm)]),
        Case("set_seed", lambda llm: [llm.set_seed(7), _complete(llm, temperature=1.0)], {}, True),
        Case("set_seed, greedy", lambda llm: [llm.set_seed(7), _complete(llm)]),
        Case("save_state and load_state", _saved),
        Case("save_state and load_state, logits_all", _saved, ALL),
        Case("a state of another Llama", _moved),
        Case("RAM cache", lambda llm: _cached(llm, LlamaRAMCache())),
        Case("RAM cache, logits_all", lambda llm: _cached(llm, LlamaRAMCache()), ALL),
        Case("RAM cache that forgets", lambda llm: _cached(llm, LlamaRAMCache(capacity_bytes=1))),
        Case("disk cache", _disk),
        Case("disk cache, logits_all", _disk, ALL),
        Case("generate", _generate),
        Case("generate, logits_all", lambda llm: [_generate(llm), _record(llm)], ALL),
        Case("generate, top_k=1", lambda llm: _generate(llm, top_k=1)),
        Case("generate, penalties", lambda llm: _generate(llm, repeat_penalty=1.3)),
        Case("generate, criteria", lambda llm: _generate(llm, stopping_criteria=StoppingCriteriaList([_stopped]))),
        Case("generate, reset=False", lambda llm: [llm.eval(_ids(llm)), _generate(llm, reset=False)]),
        Case("generate, random", lambda llm: list(islice(llm.generate(_ids(llm)), 5)), {}, True),
        Case("tokens sent into generate", _sent, ALL),
        Case("eval and sample, then generate", _fed),
        Case("eval and sample, then generate, logits_all", _fed, ALL),
        Case("eval_logits", lambda llm: [_complete(llm), np.array(llm.eval_logits)], ALL),
        Case("draft_model", _complete, lookup),
        Case("draft_model, stream", lambda llm: _complete(llm, True), lookup),
        Case("draft_model, chat", _chat, lookup),
        Case("draft_model, generate", _generate, lookup),
        Case("draft_model, logprobs", lambda llm: _rounded(_complete(llm, logprobs=2)), lookup),
        Case("draft_model of the user's own", _complete, guess),
        Case("draft_model, random", lambda llm: _complete(llm, temperature=1.0), lookup, True),
        Case("n_batch=1", _complete, {"n_batch": 1}),
        Case("n_batch=1, stream", lambda llm: _complete(llm, True), {"n_batch": 1}),
        Case("n_batch=1, chat", _chat, {"n_batch": 1}),
        Case("n_batch=1, logprobs", lambda llm: _complete(llm, logprobs=2), {"n_batch": 1, **ALL}),
        Case("n_batch=2", _complete, {"n_batch": 2}),
        Case("n_batch=8, a longer prompt", _many, {"n_batch": 8}),
        Case("n_ubatch=4", _many, {"n_ubatch": 4}),
        Case("flash_attn", _complete, {"flash_attn": True}),
        Case("type_k", _complete, {"type_k": 8, "flash_attn": True}),
        Case("last_n_tokens_size=4", lambda llm: _complete(llm, repeat_penalty=1.3), {"last_n_tokens_size": 4}),
        Case("n_ctx=32", lambda llm: _complete(llm, max_tokens=None), {"n_ctx": 32}),
        Case("embedding=True", _complete, {"embedding": True}),
        Case("create_embedding", lambda llm: llm.create_embedding("a b"), {"embedding": True}, **text),
        Case("create_embedding of a Llama without", lambda llm: llm.create_embedding("a b"), **text),
        Case("tokenize and detokenize", lambda llm: llm.detokenize(_ids(llm)), **text),
        Case("metadata", lambda llm: [llm.metadata, llm.n_ctx(), llm.n_vocab(), llm.token_eos()], **text),
    ]


def _logprobs(answer: Any) -> Any:
    return answer["choices"][0]["logprobs"]


def _rounded(answer: Any) -> Any:
    """Log-probabilities to one decimal: a verified draft's rows come from a batch of another shape."""
    found = _logprobs(answer)
    for row in found["top_logprobs"]:
        row.update({text: round(value, 1) for text, value in row.items()})
    found["token_logprobs"] = [round(value, 1) for value in found["token_logprobs"]]
    return answer


CASES = [
    *_products("completion", _complete, COMPLETION, {}),
    *_products("completion", _complete, LOGPROBS, ALL),
    *_products("completion, random", _complete, RANDOM, {}, True),
    *_products("chat", _chat, CHATS, {}),
    *_products("chat", _chat, CHAT_LOGPROBS, ALL),
    Case("logprobs of a Llama without logits_all", lambda llm: _complete(llm, logprobs=2)),
    Case("logits_all", _complete, ALL),
    Case("logits_all, stream", lambda llm: _complete(llm, True), ALL),
    Case("logprobs, random", lambda llm: sorted(_logprobs(_complete(llm, temperature=1.0, logprobs=2))), ALL, True),
    *_objects(),
    *_states(),
]
