"""The calls of transformers that tests/every_call.py makes twice, on the bundled model."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    pipeline,
)

from reasonctl.backends import attach
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import Controller
from support.calls import Case
from support.llama_models import CHAT

TOKENIZER = AutoTokenizer.from_pretrained(tiny_folder(), padding_side="left")
TEXTS = ["Q: 52 a+3 b-6 c+8\n<think>\n", "Q: 1 b+1\n<think>\n", "Q: 7\n"]
ONE = dict(TOKENIZER(TEXTS[:1], return_tensors="pt"))
BATCH = dict(TOKENIZER(TEXTS, return_tensors="pt", padding=True))
GREEDY = {"max_new_tokens": 14, "do_sample": False}
DICT = {"return_dict_in_generate": True}
EVERYTHING = DICT | {"output_scores": True, "output_logits": True, "output_hidden_states": True}
SEEN = {"attn_implementation": "eager"}


@functools.cache
def _loaded(**arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder(), **arguments).eval()


def opened(fresh: bool = False, **arguments: Any) -> Any:
    """The bundled model; `fresh`: one that the call may change."""
    return _loaded.__wrapped__(**arguments) if fresh else _loaded(**arguments)


class Favours(LogitsProcessor):  # type: ignore[misc]
    """A processor of the user's own."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        scores[:, 47] += 2.0
        return scores


class Ends(StoppingCriteria):  # type: ignore[misc]
    """A criterion of the user's own."""

    def __call__(self, input_ids: Any, scores: Any, **named: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] > 24)


PLAIN: dict[str, dict[str, Any]] = {
    "greedy": {},
    "max_new_tokens=1": {"max_new_tokens": 1},
    "max_length": {"max_new_tokens": None, "max_length": 40},
    "min_new_tokens": {"min_new_tokens": 12},
    "min_length": {"min_length": 30},
    "eos_token_id": {"eos_token_id": [47, 49]},
    "pad_token_id": {"pad_token_id": 5, "eos_token_id": 47},
    "stop_strings": {"stop_strings": ["-6"], "tokenizer": TOKENIZER},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[47], [49, 58]]},
    "sequence_bias": {"sequence_bias": [[[47], 3.0]]},
    "suppress_tokens": {"suppress_tokens": [47, 49]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [47]},
    "forced_bos_token_id": {"forced_bos_token_id": 47},
    "forced_eos_token_id": {"forced_eos_token_id": 47},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.5)},
    "renormalize_logits": {"renormalize_logits": True},
    "remove_invalid_values": {"remove_invalid_values": True},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: list(range(40, 60))},
    "guidance_scale": {"guidance_scale": 1.5},
    "logits_processor": {"logits_processor": LogitsProcessorList([Favours()])},
    "stopping_criteria": {"stopping_criteria": StoppingCriteriaList([Ends()])},
    "max_time": {"max_time": 100.0},
    "generation_config": {"generation_config": GenerationConfig(max_new_tokens=9, eos_token_id=1)},
    "return_dict_in_generate": DICT,
    "output_scores": DICT | {"output_scores": True},
    "output_logits": DICT | {"output_logits": True},
    "output_hidden_states": DICT | {"output_hidden_states": True},
    "output_attentions": DICT | {"output_attentions": True},
    "output_scores without a dictionary": {"output_scores": True},
    "all outputs": EVERYTHING,
    "scores under a penalty": DICT | {"output_scores": True, "repetition_penalty": 1.3},
    "use_cache=False": {"use_cache": False},
    "use_cache=False and scores": EVERYTHING | {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "offloaded cache": {"cache_implementation": "offloaded"},
    "dynamic cache": {"cache_implementation": "dynamic"},
    "prefill_chunk_size": {"prefill_chunk_size": 4},
    "num_beams": {"num_beams": 3},
    "num_beams and scores": {"num_beams": 3, **DICT, "output_scores": True},
    "num_beams and num_return_sequences": {"num_beams": 3, "num_return_sequences": 2},
    "num_beams and length_penalty": {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True},
    "num_beam_groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "high"},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "synced_gpus": {"synced_gpus": True},
    "an unknown argument": {"colour": "red"},
    "watermarking_config": {"watermarking_config": {"greenlist_ratio": 0.3, "bias": 2.0}},
}
OTHER_LOOPS = ("num_beam", "penalty_alpha", "dola", "lookup", "early_exit", "beams")
SAMPLED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "temperature": {"temperature": 0.7},
    "top_p": {"top_p": 0.8, "top_k": 0},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.7},
    "epsilon_cutoff": {"epsilon_cutoff": 0.01},
    "eta_cutoff": {"eta_cutoff": 0.01},
    "num_return_sequences": {"num_return_sequences": 3},
    "all outputs": EVERYTHING,
    "use_cache=False": {"use_cache": False},
    "beams": {"num_beams": 2},
}


def _generate(inputs: Any, more: dict[str, Any]) -> Any:
    return lambda model: model.generate(**inputs, **(GREEDY | more))


def _made(kind: str, inputs: Any) -> list[Case]:
    found = []
    for name, more in PLAIN.items():
        opening = SEEN if "output_attentions" in more else {}
        runs = not any(part in name for part in OTHER_LOOPS)
        found.append(Case(f"{kind}, {name}", _generate(inputs, more), opening, runs=runs))
    for name, more in SAMPLED.items():
        beams = name == "beams"
        sampled = {"do_sample": True} | more
        found.append(Case(f"{kind}, sampled, {name}", _generate(inputs, sampled), random=not beams, runs=not beams))
    return found


def _one_candidate(more: dict[str, Any]) -> Any:
    return lambda model: model.generate(**BATCH, **({"max_new_tokens": 9, "do_sample": True, "top_k": 1} | more))


def _streamed(model: Any, **more: Any) -> Any:
    streamer = TextIteratorStreamer(TOKENIZER, timeout=60)
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(model.generate(**ONE, **GREEDY, streamer=streamer, **more)))
    thread.start()
    pieces = list(streamer)
    thread.join()
    return [pieces, out]


def _transitions(model: Any, inputs: Any, **more: Any) -> Any:
    out = model.generate(**inputs, **(GREEDY | DICT | {"output_scores": True} | more))
    kept = {"beam_indices": out.beam_indices} if more.get("num_beams") else {}
    return model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True, **kept)


def _embedded(model: Any, inputs: Any, **more: Any) -> Any:
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    return model.generate(inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **(GREEDY | more))


def _both_inputs(model: Any) -> Any:
    return model.generate(**ONE, inputs_embeds=model.get_input_embeddings()(ONE["input_ids"]), **GREEDY)


def _continued(model: Any, cache: Any, **more: Any) -> Any:
    """Two calls over one cache of the user's own."""
    first = model.generate(**ONE, **GREEDY, past_key_values=cache, **more)
    second = model.generate(first, attention_mask=torch.ones_like(first), **GREEDY, past_key_values=cache, **more)
    return [first, second, int(cache.get_seq_length())]


def _static(model: Any, inputs: Any, **more: Any) -> Any:
    return model.generate(**inputs, **(GREEDY | more), past_key_values=StaticCache(model.config, max_cache_len=128))


def _piped(model: Any, text: Any, **more: Any) -> Any:
    return pipeline("text-generation", model=model, tokenizer=TOKENIZER)(text, **(GREEDY | more))


def _assisted(model: Any, **more: Any) -> Any:
    return model.generate(**ONE, **GREEDY, assistant_model=_loaded(**SEEN), **more)


def _assists(model: Any) -> Any:
    """The attached model as the assistant of another one."""
    return _loaded(**SEEN).generate(**ONE, **GREEDY, assistant_model=model)


def _attached_twice(model: Any) -> Any:
    """An attached model whose assistant is attached too."""
    assistant = opened(fresh=True)
    with attach(assistant, Controller()):
        return model.generate(**ONE, **GREEDY, assistant_model=assistant)


def _compiled(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model.generate(**ONE, **GREEDY)


def _offloaded(model: Any) -> Any:
    from accelerate import cpu_offload

    cpu_offload(model, execution_device="cpu")
    return model.generate(**ONE, **GREEDY)


def _places() -> torch.Tensor:
    return torch.arange(ONE["input_ids"].shape[1])[None]


def _chat() -> Any:
    return TOKENIZER.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)


def _objects() -> list[Case]:
    """Calls with streamers, embeddings and caches."""
    ids = ONE["input_ids"]
    own = {"past_key_values": DynamicCache()}
    return [
        Case("positional inputs", lambda model: model.generate(ids, max_new_tokens=5, do_sample=False)),
        Case("no inputs", lambda model: model.generate(max_new_tokens=5, do_sample=False, bos_token_id=47)),
        Case("no mask", lambda model: model.generate(input_ids=ids, **GREEDY)),
        Case("position_ids", lambda model: model.generate(**ONE, **GREEDY, position_ids=_places())),
        Case("TextIteratorStreamer", _streamed),
        Case("TextIteratorStreamer and scores", lambda model: _streamed(model, **EVERYTHING)),
        Case("TextIteratorStreamer, a penalty", lambda model: _streamed(model, repetition_penalty=1.2)),
        Case("compute_transition_scores", lambda model: _transitions(model, ONE)),
        Case("compute_transition_scores, batch", lambda model: _transitions(model, BATCH)),
        Case("compute_transition_scores, beams", lambda model: _transitions(model, ONE, num_beams=2), runs=False),
        Case("inputs_embeds", lambda model: _embedded(model, ONE)),
        Case("inputs_embeds, batch", lambda model: _embedded(model, BATCH)),
        Case("inputs_embeds, all outputs", lambda model: _embedded(model, ONE, **EVERYTHING)),
        Case("inputs_embeds, sampled", lambda model: _embedded(model, ONE, do_sample=True), random=True),
        Case("inputs_embeds and input_ids", _both_inputs),
        Case("a DynamicCache", lambda model: _continued(model, DynamicCache(config=model.config))),
        Case("a DynamicCache of a batch", lambda model: model.generate(**BATCH, **GREEDY, **own)),
        Case("a StaticCache", lambda model: _static(model, ONE)),
        Case("a StaticCache, batch", lambda model: _static(model, BATCH)),
        Case("a StaticCache, sampled", lambda model: _static(model, ONE, do_sample=True), random=True),
        Case("a StaticCache over two calls", lambda model: _continued(model, StaticCache(model.config, 128))),
        Case("num_return_sequences, one candidate", _one_candidate({"num_return_sequences": 2})),
        Case("sampled, one candidate", _one_candidate({})),
        Case("sampled, one candidate, all outputs", _one_candidate(EVERYTHING)),
    ]


def _others() -> list[Case]:
    """Calls that are made for the user, and models that aren't plain."""
    fresh = {"fresh": True}
    chat = [{"role": "user", "content": "52 a+3"}]
    return [
        Case("pipeline", lambda model: _piped(model, TEXTS[0])),
        Case("pipeline, batch", lambda model: _piped(model, TEXTS, batch_size=3)),
        Case("pipeline, chat", lambda model: _piped(model, chat)),
        Case("pipeline, stop_sequence", lambda model: _piped(model, TEXTS[0], stop_sequence="b")),
        Case("pipeline, beams", lambda model: _piped(model, TEXTS[0], num_beams=2), runs=False),
        Case("pipeline, sampled", lambda model: _piped(model, TEXTS[0], do_sample=True), random=True),
        Case("assistant_model", _assisted, runs=False),
        Case("assistant_model, scores", lambda model: _assisted(model, **DICT, output_scores=True), runs=False),
        Case("as another's assistant_model", _assists, runs=False),
        Case("assistant_model that is attached too", _attached_twice, runs=False),
        Case("torch.compile", _compiled, fresh),
        Case("device_map", _generate(ONE, {}), {"device_map": "cpu"}),
        Case("offloaded weights", _offloaded, fresh),
        Case("float16", _generate(ONE, {}), {"dtype": torch.float16}),
        Case("float16, batch", _generate(BATCH, {}), {"dtype": torch.float16}),
        Case("bfloat16", _generate(ONE, EVERYTHING), {"dtype": torch.bfloat16}),
        Case("eager attention", _generate(BATCH, EVERYTHING), SEEN),
        Case("a chat", lambda model: model.generate(**_chat(), **GREEDY)),
        Case("forward", lambda model: model(**ONE).logits, runs=False),
    ]


CASES = [*_made("one row", ONE), *_made("batch", BATCH), *_objects(), *_others()]
