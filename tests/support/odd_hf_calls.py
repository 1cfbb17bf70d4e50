"""Calls of transformers with odd arguments: other types, several options together, objects in unusual places."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import (
    BatchEncoding,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
    TextStreamer,
    WatermarkingConfig,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

from support.calls import Case
from support.hf_calls import BATCH, DICT, GREEDY, ONE, TEXTS, TOKENIZER, opened

SYNTH = SynthIDTextWatermarkingConfig(keys=[7, 8, 9], ngram_len=3, context_history_size=16)
CONFIG = GenerationConfig(max_new_tokens=7, do_sample=False, repetition_penalty=1.2)
SAMPLED = {"do_sample": True, "top_k": 1}

PLAIN: dict[str, dict[str, Any]] = {
    "max_new_tokens=0": {"max_new_tokens": 0},
    "max_new_tokens of numpy": {"max_new_tokens": np.int64(6)},
    "max_new_tokens of text": {"max_new_tokens": "6"},
    "max_length below the prompt": {"max_new_tokens": None, "max_length": 2},
    "both limits": {"max_length": 60},
    "min_new_tokens above max_new_tokens": {"min_new_tokens": 50},
    "eos_token_id=None": {"eos_token_id": None},
    "eos_token_id=[]": {"eos_token_id": []},
    "eos_token_id of numpy": {"eos_token_id": np.int64(47)},
    "eos_token_id of a tensor": {"eos_token_id": torch.tensor([47, 49])},
    "eos_token_id=-1": {"eos_token_id": -1},
    "pad_token_id=None": {"pad_token_id": None, "eos_token_id": 47},
    "stop_strings of one text": {"stop_strings": "-6", "tokenizer": TOKENIZER},
    "stop_strings and eos_token_id": {"stop_strings": ["zz", "b-"], "tokenizer": TOKENIZER, "eos_token_id": 49},
    "temperature in a greedy call": {"temperature": 0.3, "top_p": 0.5, "top_k": 3},
    "temperature=0": {"do_sample": True, "temperature": 0.0},
    "temperature of text": {"do_sample": True, "temperature": "0.7"},
    "top_k=1 sampled": SAMPLED,
    "top_k of numpy": {"do_sample": True, "top_k": np.int64(1)},
    "top_k=0 in a greedy call": {"top_k": 0},
    "repetition_penalty below 1": {"repetition_penalty": 0.7},
    "penalties together": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "encoder_repetition_penalty": 1.1},
    "bias and bad words": {"sequence_bias": {(47,): 2.0, (49, 58): -3.0}, "bad_words_ids": [[55]]},
    "sequence_bias of text": {"sequence_bias": {"a": 2.0}},
    "bad_words_ids of nothing": {"bad_words_ids": []},
    "suppress_tokens of a tuple": {"suppress_tokens": (47,)},
    "begin_suppress_tokens and forced_eos_token_id": {"begin_suppress_tokens": [47, 55], "forced_eos_token_id": [1]},
    "num_return_sequences in a greedy call": {"num_return_sequences": 2},
    "num_return_sequences=1": {"num_return_sequences": 1},
    "num_beams=1": {"num_beams": 1},
    "num_beams=0": {"num_beams": 0},
    "num_beams and sampled": {"num_beams": 2, "do_sample": True, "top_k": 1},
    "num_beams and stop_strings": {"num_beams": 2, "stop_strings": ["-6"], "tokenizer": TOKENIZER},
    "prompt_lookup and max_matching_ngram_size": {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2},
    "prompt_lookup and scores": {"prompt_lookup_num_tokens": 3, **DICT, "output_scores": True},
    "generation_config and arguments": {"generation_config": CONFIG, "max_new_tokens": 4},
    "generation_config of a dictionary": {"generation_config": {"max_new_tokens": 4}},
    "generation_config=None": {"generation_config": None},
    "logits_processor of a plain list": {"logits_processor": []},
    "stopping_criteria of a plain list": {"stopping_criteria": [MaxLengthCriteria(20)]},
    "stopping_criteria=None": {"stopping_criteria": None, "logits_processor": None, "streamer": None},
    "max_time=0": {"max_time": 0.0},
    "custom_generate of a function": {"custom_generate": lambda model, input_ids, **named: input_ids},
    "trust_remote_code=False": {"trust_remote_code": False},
    "disable_compile": {"disable_compile": True},
    "logits_to_keep": {"logits_to_keep": 1},
    "use_model_defaults": {"use_model_defaults": False},
    "synced_gpus=False": {"synced_gpus": False},
    "token_healing": {"token_healing": True, "tokenizer": TOKENIZER},
    "low_memory": {"low_memory": True},
    "is_assistant": {"is_assistant": True},
    "sliding cache": {"cache_implementation": "sliding_window"},
    "hybrid cache": {"cache_implementation": "hybrid"},
    "quantized cache": {"cache_implementation": "quantized"},
    "an unknown cache": {"cache_implementation": "wooden"},
    "dictionary without outputs": DICT | {"output_scores": False},
    "guidance_scale and scores": DICT | {"guidance_scale": 1.5, "output_scores": True},
    "guidance_scale, negative prompt": {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([[47, 48]])},
    "watermark object": {"watermarking_config": WatermarkingConfig(bias=3.0)},
    "SynthID": SAMPLED | {"watermarking_config": SYNTH},
    "prefill_chunk_size and scores": DICT | {"prefill_chunk_size": 5, "output_scores": True},
    "labels": {"labels": torch.ones(1, 3)},
    "token_type_ids": {"token_type_ids": torch.zeros(1, 3, dtype=torch.long)},
    "return_legacy_cache": {"return_legacy_cache": True},
    "seed of torch": {"do_sample": True, "top_k": 1, "temperature": 1.7, "top_p": 0.2},
}
OTHER_LOOPS = ("beams and", "prompt_lookup", "custom_generate", "is_assistant", "num_beams=0")
RANDOM: dict[str, dict[str, Any]] = {
    "top_h": {"top_h": 0.5},
    "typical_p and min_p": {"typical_p": 0.8, "min_p": 0.05},
    "temperature of numpy": {"temperature": np.float32(0.7)},
    "top_p=0": {"top_p": 0.0},
    "top_k beyond the vocabulary": {"top_k": 10_000},
    "generation_config": {"generation_config": GenerationConfig(do_sample=True, max_new_tokens=5, top_k=4)},
    "SynthID": {"watermarking_config": SYNTH},
    "num_return_sequences and scores": DICT | {"num_return_sequences": 2, "output_scores": True},
    "penalties": {"repetition_penalty": 1.3, "temperature": 0.7},
}


class Counts(LogitsProcessor):  # type: ignore[misc]
    """Forbids a token more with each call."""

    calls = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.calls += 1
        return scores.index_fill(1, torch.arange(40, 40 + self.calls), -torch.inf)


class Seen(StoppingCriteria):  # type: ignore[misc]
    """Ends at its sixth question; answers with one truth value for all rows."""

    asked = 0

    def __call__(self, input_ids: Any, scores: Any, **named: Any) -> Any:
        self.asked += 1
        return self.asked > 5


class Puts(BaseStreamer):  # type: ignore[misc]
    """Keeps what is put."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def put(self, value: Any) -> None:
        self.found.append(torch.as_tensor(value).reshape(-1))

    def end(self) -> None:
        self.found.append("end")


class Printed(TextStreamer):  # type: ignore[misc]
    """Keeps what would be printed."""

    def __init__(self, **named: Any) -> None:
        super().__init__(TOKENIZER, **named)
        self.found: list[Any] = []

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.found.append([text, stream_end])


def _made(kind: str, inputs: Any) -> Iterator[Case]:
    for name, more in PLAIN.items():
        runs = not name.startswith(OTHER_LOOPS) and not name.startswith("num_beams and")
        yield Case(f"{kind}, {name}", _generate(inputs, more), runs=runs)
    for name, more in RANDOM.items():
        yield Case(f"{kind}, random, {name}", _generate(inputs, {"do_sample": True} | more), random=True)


def _generate(inputs: Any, more: dict[str, Any]) -> Any:
    return lambda model: model.generate(**inputs, **(GREEDY | copy.deepcopy(more)))


def _inputs() -> Iterator[Case]:
    """Prompts and masks of other kinds."""
    ids, mask = ONE["input_ids"], BATCH["attention_mask"]
    length = ids.shape[1]
    ones = torch.ones(1, length, dtype=torch.long)
    given: dict[str, Any] = {
        "BatchEncoding": BatchEncoding(ONE),
        "ids of 32 bits": {"input_ids": ids.int()},
        "ids of numpy": {"input_ids": ids.numpy()},
        "ids of a list": {"input_ids": ids.tolist()},
        "ids of floats": {"input_ids": ids.float()},
        "ids without rows": {"input_ids": ids[0]},
        "ids beyond the vocabulary": {"input_ids": ids + 100_000},
        "ids of no row": {"input_ids": ids[:0]},
        "ids of no token": {"input_ids": ids[:, :0]},
        "ids of one token": {"input_ids": ids[:, :1]},
        "the same row three times": {"input_ids": ids.repeat(3, 1)},
        "a mask of truth values": BATCH | {"attention_mask": mask.bool()},
        "a mask of floats": BATCH | {"attention_mask": mask.float()},
        "a mask with a hole": ONE | {"attention_mask": ones.index_fill(1, torch.tensor([3]), 0)},
        "a mask on the right": ONE | {"attention_mask": ones.index_fill(1, torch.tensor([length - 1]), 0)},
        "a mask of another length": ONE | {"attention_mask": torch.ones(1, length + 2).long()},
        "a mask of zeros": ONE | {"attention_mask": torch.zeros(1, length).long()},
        "a mask of four dimensions": ONE | {"attention_mask": torch.ones(1, 1, length, length)},
        "padding on the right": {"input_ids": BATCH["input_ids"].flip(1), "attention_mask": mask.flip(1)},
        "position_ids that skip": ONE | {"position_ids": torch.arange(length)[None] + 5},
        "position_ids of a batch": BATCH | {"position_ids": (mask.cumsum(1) - 1).clamp_min(0) + 2},
        "embeddings of half precision": {"inputs_embeds": torch.randn(1, 5, 128).half()},
        "embeddings of another width": {"inputs_embeds": torch.randn(1, 5, 7)},
        "embeddings without rows": {"inputs_embeds": torch.randn(5, 128)},
        "embeddings longer than ids": ONE | {"inputs_embeds": torch.ones(1, length + 2, 128)},
    }
    for name, inputs in given.items():
        yield Case(name, _generate(inputs, {"max_new_tokens": 6}))
    yield Case("BatchEncoding by position", lambda model: model.generate(BatchEncoding(ONE), **GREEDY))
    yield Case("inputs and input_ids", lambda model: model.generate(ids, input_ids=ids, **GREEDY))
    yield Case("GenerationConfig by position", lambda model: model.generate(ids, CONFIG))
    yield Case("a tensor that needs gradients", lambda model: _with_gradients(model))


def _with_gradients(model: Any) -> Any:
    embeds = model.get_input_embeddings()(ONE["input_ids"]).requires_grad_()
    return model.generate(inputs_embeds=embeds, **GREEDY)


def _streamers() -> Iterator[Case]:
    def streamed(make: Any, inputs: Any = ONE, **more: Any) -> Any:
        def call(model: Any) -> Any:
            streamer = make()
            return [model.generate(**inputs, **GREEDY, streamer=streamer, **more), streamer.found]

        return call

    yield Case("a streamer of one's own", streamed(Puts))
    yield Case("a streamer of one's own, eos", streamed(Puts, eos_token_id=47))
    yield Case("a streamer and a stop string", streamed(Puts, stop_strings=["-6"], tokenizer=TOKENIZER))
    yield Case("a streamer and scores", streamed(Puts, **DICT, output_scores=True))
    yield Case("a streamer and beams", streamed(Puts, num_beams=2), runs=False)
    yield Case("a streamer and assisted", streamed(Puts, prompt_lookup_num_tokens=2), runs=False)
    yield Case("a streamer of a batch", streamed(Puts, BATCH, max_length=30))
    yield Case("TextStreamer", streamed(Printed))
    yield Case("TextStreamer, skip_prompt", streamed(lambda: Printed(skip_prompt=True, skip_special_tokens=True)))


def _objects() -> Iterator[Case]:
    def with_lists(inputs: Any, **given: Any) -> Any:
        made = {"logits_processor": LogitsProcessorList, "stopping_criteria": StoppingCriteriaList}
        return lambda model: model.generate(
            **inputs, **GREEDY, **{name: made[name]([one() for one in parts]) for name, parts in given.items()}
        )

    for kind, inputs in (("one row", ONE), ("batch", BATCH)):
        yield Case(f"{kind}, a processor that counts", with_lists(inputs, logits_processor=[Counts]))
        yield Case(f"{kind}, a criterion that counts", with_lists(inputs, stopping_criteria=[Seen]))
        yield Case(f"{kind}, both", with_lists(inputs, logits_processor=[Counts, Counts], stopping_criteria=[Seen]))
    yield Case("two calls", lambda model: [model.generate(**ONE, **GREEDY) for _ in range(2)])
    yield Case("two threads", _threads)
    yield Case("inference_mode", lambda model: _under(torch.inference_mode(), model))
    yield Case("autocast", lambda model: _under(torch.autocast("cpu", dtype=torch.bfloat16), model))
    yield Case("train mode", lambda model: [model.train(), model.generate(**ONE, **GREEDY)][1:], {"fresh": True})
    yield Case("model.generation_config changed", _configured, {"fresh": True})
    yield Case("a cache of a dictionary, continued", _continued)
    yield Case("a cache with new ids only", _new_ids)
    yield Case("a copy of the model", lambda model: copy.deepcopy(model).generate(**ONE, **GREEDY), runs=False)
    yield Case("save_pretrained's configuration", lambda model: model.generation_config.to_dict(), runs=False)
    for name, more in {
        "return_full_text=False": {"return_full_text": False},
        "return_tensors": {"return_tensors": True},
        "num_return_sequences": {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
        "generation_config": {"generation_config": CONFIG},
        "prefix": {"prefix": "Q: 1 b+1\n"},
        "handle_long_generation": {"handle_long_generation": "hole"},
        "two texts": {"text_inputs": TEXTS[:2]},
        "two chats": {"text_inputs": [[_said("user", text)] for text in ("5 a+1", "7")]},
        "a chat that goes on": {"text_inputs": [_said("user", "5"), _said("assistant", "a")]},
    }.items():
        yield Case(f"pipeline, {name}", _piped(more))


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _under(context: Any, model: Any) -> Any:
    with context:
        return model.generate(**ONE, **GREEDY)


def _threads(model: Any) -> Any:
    found: dict[int, Any] = {}

    def call(i: int) -> None:
        found[i] = model.generate(**(ONE if i % 2 else BATCH), **GREEDY)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(4)]


def _configured(model: Any) -> Any:
    model.generation_config.repetition_penalty = 1.4
    model.generation_config.max_new_tokens = 8
    return [model.generate(**ONE, do_sample=False), model.generation_config.repetition_penalty]


def _continued(model: Any) -> Any:
    first = model.generate(**ONE, **GREEDY, **DICT)
    ids = first.sequences
    mask = torch.ones_like(ids)
    return model.generate(ids, attention_mask=mask, past_key_values=first.past_key_values, **GREEDY)


def _new_ids(model: Any) -> Any:
    """Only the new tokens, with a mask of the whole text."""
    cache = DynamicCache(config=model.config)
    model.generate(**ONE, **GREEDY, past_key_values=cache)
    new, held = torch.tensor([[47, 55]]), cache.get_seq_length()
    return model.generate(new, attention_mask=torch.ones(1, held + 2).long(), past_key_values=cache, **GREEDY)


def _piped(more: dict[str, Any]) -> Any:
    given = {"text_inputs": TEXTS[0]} | more
    return lambda model: pipeline("text-generation", model=model, tokenizer=TOKENIZER)(**given, **GREEDY)


def _batched(model: Any) -> Any:
    """Continuous batching, which is a loop of its own."""
    found = model.generate_batch([[47, 55, 58], [49]], generation_config=CONFIG)
    return [list(one.generated_tokens) for one in found.values()]


CASES = [
    *_made("one row", ONE),
    *_made("batch", BATCH),
    *_inputs(),
    *_streamers(),
    *_objects(),
    Case("generate_batch", _batched, {"fresh": True}, runs=False),
    Case("forward with labels", lambda model: model(**ONE, labels=ONE["input_ids"]).loss.detach(), runs=False),
    Case("a model of its own", lambda model: opened().generate(**ONE, **GREEDY), {"fresh": True}, runs=False),
]
