"""Prompts of embeddings, positions of the call's own, outputs of pictures, processors with a state: controlled."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, SynthIDTextWatermarkingConfig

from reasonctl.backends import attach
from reasonctl.controller import Chain, Controller, ControllerError, Greedy, Penalties, PromptLookup, Temperature
from support.hf_models import GREEDY, PROMPT, SAMPLED, TOKENIZER, Scripted, controlled, small
from support.pictures import seeing
from support.state_models import state_model

BATCH = dict(TOKENIZER(["so the cat<think>", "the answer 12<think>", "a<think>"], return_tensors="pt", padding=True))
ASKED = {f"output_{name}": True for name in ("scores", "logits", "hidden_states")} | {"return_dict_in_generate": True}
WORKING = {
    "greedy": lambda: Controller(policy=Greedy()),
    "drafts": lambda: Controller(drafter=PromptLookup()),
    "exit": lambda: Controller(exit=Scripted(exit_at=0)),
    "budget": lambda: Controller(budget=3),
    "nothing to think": lambda: Controller(budget=0),
}
ROUNDING = 2e-4


def embedded(model, inputs, ids=False):
    """The same call by embeddings."""
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    kept = {} if ids else {"input_ids": None}
    return {**inputs, **kept, "inputs_embeds": embeds}


def new(out, inputs):
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("work", list(WORKING))
@pytest.mark.parametrize("inputs", [PROMPT, BATCH], ids=["one row", "batch"])
def test_embeddings_with_their_ids_are_the_call_by_ids(work, inputs):
    model = small()
    with attach(model, WORKING[work](), tokenizer=TOKENIZER) as handle:
        expected = model.generate(**inputs, **GREEDY)
        traces = [(trace.tokens, trace.closed_by, trace.prompt_tokens) for trace in handle.traces]
        assert torch.equal(model.generate(**embedded(model, inputs, ids=True), **GREEDY), expected)
        assert [(trace.tokens, trace.closed_by, trace.prompt_tokens) for trace in handle.traces] == traces
        assert not any("inputs_embeds" in note for trace in handle.traces for note in trace.warnings)


@pytest.mark.parametrize("controller", [Controller(policy=Greedy()), Controller(drafter=PromptLookup())])
@pytest.mark.parametrize("inputs", [PROMPT, BATCH], ids=["one row", "batch"])
def test_embeddings_alone_give_the_librarys_tokens_and_say_that_nobody_reads_them(controller, inputs):
    model = small()
    given = embedded(model, inputs)
    given["inputs_embeds"] = given["inputs_embeds"] + 0.1  # soft: no token's
    stock = model.generate(**given, **GREEDY)
    assert not torch.equal(stock, new(model.generate(**inputs, **GREEDY), inputs))
    with attach(model, controller, tokenizer=TOKENIZER) as handle:
        assert torch.equal(model.generate(**given, **GREEDY), stock)
        assert [trace.prompt_tokens for trace in handle.traces] == inputs["attention_mask"].sum(dim=1).tolist()
        assert all(any("input_ids" in note for note in trace.warnings) for trace in handle.traces)


def test_samples_of_embeddings_draw_what_samples_of_ids_draw():
    model = small()
    call = SAMPLED | {"num_return_sequences": 3, "seed": 4, "max_new_tokens": 12}
    with attach(model, Controller(policy=Chain(Temperature(1.5))), tokenizer=TOKENIZER) as handle:
        expected = new(model.generate(**PROMPT, **call), PROMPT)
        assert torch.equal(model.generate(**embedded(model, PROMPT), **call), expected)
        assert [trace.repeat for trace in handle.traces] == [False, True, True]


def test_embeddings_of_a_model_with_a_state_go_on_from_it():
    model = state_model("Qwen3_5")
    given = embedded(model, PROMPT)
    stock = model.generate(**given, **GREEDY)
    with attach(model, Controller(drafter=PromptLookup()), tokenizer=TOKENIZER) as handle:
        assert torch.equal(model.generate(**given, **GREEDY), stock)
        assert handle.runs == 1


def test_a_prompt_that_nobody_reads_counts_in_no_penalty():
    model = small()
    model.generation_config.eos_token_id = int(new(model.generate(**PROMPT, **GREEDY), PROMPT)[0, 0])
    policy = Chain(Penalties(presence=100.0), Temperature(1e-5))  # would never draw what stands for the prompt
    call = {"max_new_tokens": 8, "do_sample": True}
    first, _ = controlled(model, Controller(policy=policy), inputs=embedded(model, PROMPT), **call)
    assert first == [model.generation_config.eos_token_id]


@pytest.mark.parametrize("work", ["greedy", "drafts", "budget"])
@pytest.mark.parametrize("inputs", [PROMPT, BATCH], ids=["one row", "batch"])
def test_positions_of_the_call_s_own_are_the_library_s(work, inputs):
    model = small()
    length = inputs["input_ids"].shape[1]
    places = torch.arange(length) * 3 + 2
    stock = model.generate(**inputs, **GREEDY, position_ids=places.expand(len(inputs["input_ids"]), length))
    assert not torch.equal(stock, model.generate(**inputs, **GREEDY))
    with attach(model, WORKING[work](), tokenizer=TOKENIZER) as handle:
        ours = model.generate(**inputs, **GREEDY, position_ids=places.expand(len(inputs["input_ids"]), length))
        closed = [trace.closed_by for trace in handle.traces]
    assert torch.equal(ours, stock) == (work != "budget") and ("budget" in closed) == (work == "budget")


@pytest.mark.parametrize("alone", [True, False], ids=["embeddings alone", "with ids"])
def test_outputs_of_embeddings_have_generation_s_layout_and_values(alone):
    model = small()
    given = embedded(model, BATCH, ids=not alone)
    call = GREEDY | ASKED | {"repetition_penalty": 1.2, "max_new_tokens": 12}
    stock = model.generate(**given, **call)
    for law in ("model", "drawn"):
        with attach(model, Controller(drafter=PromptLookup(), logprobs=law), tokenizer=TOKENIZER):
            ours = model.generate(**given, **call)
        assert torch.equal(stock.sequences, ours.sequences)
        assert_close(stock.logits, ours.logits)
        if law == "model":
            assert_close(stock.scores, ours.scores)
        else:  # a greedy draw has one candidate
            written = ours.sequences[:, -len(ours.scores) :]
            assert torch.equal(torch.stack([one.argmax(-1) for one in ours.scores], dim=1), written)
    shown = BATCH["attention_mask"].bool()[..., None]
    for t, (expected, found) in enumerate(zip(stock.hidden_states, ours.hidden_states, strict=True)):
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape and float(((a - b).abs() * (shown if t == 0 else 1)).max()) < ROUNDING


def assert_close(expected, found):
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and float((a - b).abs().nan_to_num().max()) < ROUNDING


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen2_audio"])
def test_outputs_of_a_prompt_with_pictures_or_sound(name):
    bench = seeing(name)
    ids = torch.tensor([bench.prompt])
    call = {"max_new_tokens": 6, "do_sample": False, "bad_words_ids": [[max(bench.prompt)]]} | ASKED
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **bench.media(bench.prompt)}
    stock = bench.model.generate(**given, **call)
    with attach(bench.model, Controller(policy=Greedy())) as handle:
        ours = bench.model.generate(**given, **call)
        assert handle.runs == 1
    assert torch.equal(stock.sequences, ours.sequences)
    for part in ("scores", "logits"):
        assert_close(getattr(stock, part), getattr(ours, part))
    for a, b in zip(stock.hidden_states, ours.hidden_states, strict=True):
        assert_close(a, b)


class Falls(LogitsProcessor):
    """Forbids a token more with each call."""

    calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores.index_fill(1, torch.arange(self.calls), -torch.inf)


@pytest.mark.parametrize("inputs", [PROMPT, BATCH], ids=["one row", "batch"])
def test_scores_under_a_processor_with_a_state_are_those_of_its_calls(inputs):
    model, call = small(), GREEDY | ASKED | {"max_new_tokens": 10}
    stock = model.generate(**inputs, **call, logits_processor=LogitsProcessorList([Falls()]))
    with attach(model, Controller(drafter=PromptLookup()), tokenizer=TOKENIZER):
        ours = model.generate(**inputs, **call, logits_processor=LogitsProcessorList([Falls()]))
    assert torch.equal(stock.sequences, ours.sequences)
    assert_close(stock.scores, ours.scores)


@pytest.mark.parametrize("work", ["greedy", "drafts", "exit"])
@pytest.mark.parametrize("negative", [False, True], ids=["no negative prompt", "negative prompt"])
def test_guidance_runs_by_rows_under_drafts_and_exits(work, negative):
    model, call = small(), GREEDY | {"guidance_scale": 1.5, "max_new_tokens": 25}
    given = {"negative_prompt_ids": BATCH["input_ids"].flip(0), "negative_prompt_attention_mask": ones()}
    call |= given if negative else {}
    stock = model.generate(**BATCH, **call)
    assert not torch.equal(stock, model.generate(**BATCH, **GREEDY | {"max_new_tokens": 25}))
    with attach(model, WORKING[work](), tokenizer=TOKENIZER) as handle:
        ours = model.generate(**BATCH, **call)
    for row, trace in enumerate(handle.traces):
        if trace.closed_by != "exit":
            assert torch.equal(ours[row], stock[row])
            continue
        # After an exit the guidance reads on from the text as it stands: as a fresh call of that text would.
        cut = BATCH["input_ids"].shape[1] + trace.exit.position
        assert torch.equal(ours[row, :cut], stock[row, :cut])


def ones():
    return torch.ones_like(BATCH["input_ids"])


def test_a_watermark_with_a_memory_runs_by_rows_and_under_exits():
    mark = SynthIDTextWatermarkingConfig(keys=[7, 8, 9], ngram_len=3, context_history_size=16)
    model, call = small(), {"max_new_tokens": 20, "do_sample": True, "top_k": 1, "watermarking_config": mark}
    stock = model.generate(**BATCH, **call)
    with attach(model, Controller(record=True), tokenizer=TOKENIZER) as handle:
        assert torch.equal(model.generate(**BATCH, **call), stock) and handle.runs == 3
    with attach(model, Controller(exit=Scripted()), tokenizer=TOKENIZER) as handle:
        assert torch.equal(model.generate(**BATCH, **call), stock) and handle.runs == 3


@pytest.mark.parametrize("inputs", [PROMPT, BATCH], ids=["one row", "batch"])
def test_drafts_ask_a_processor_with_a_state_once_a_token(inputs):
    model, call = small(), GREEDY | {"max_new_tokens": 30}
    stock = model.generate(**inputs, **call, logits_processor=[Falls()])
    with attach(model, Controller(drafter=PromptLookup()), tokenizer=TOKENIZER) as handle:
        assert torch.equal(model.generate(**inputs, **call, logits_processor=[Falls()]), stock)
        assert sum(trace.drafted for trace in handle.traces) > 0


def test_a_batch_s_cache_is_left_alone_and_one_that_holds_more_than_the_ids_is_refused():
    from transformers import DynamicCache

    model, cache = small(), DynamicCache()
    stock = model.generate(**BATCH, **GREEDY)
    with attach(model, Controller(policy=Greedy())) as handle:
        assert torch.equal(model.generate(**BATCH, **GREEDY, past_key_values=cache), stock)
        assert any("leaves the one that is given" in note for note in handle.traces[0].warnings)
        assert cache.get_seq_length() == 0
        with pytest.raises(ControllerError, match="past_key_values is honoured where all tokens"):
            longer = torch.ones(1, 9, dtype=torch.long)  # and the cache is empty
            model.generate(PROMPT["input_ids"][:, -2:], attention_mask=longer, past_key_values=cache, **GREEDY)
