"""Calls under a controller that has nothing to do: the library's own loop, with the traces of ours."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from reasonctl.backends.attach import attach
from reasonctl.backends.hf import attach as hf_attach
from reasonctl.controller import Controller, PromptLookup
from support.hf_models import GREEDY, TOKENIZER, small

BATCH = dict(TOKENIZER(["so the cat", "the answer 12", "a"], return_tensors="pt", padding=True))
ENDS = {"no_repeat_ngram_size": 1, "eos_token_id": [5, 9, 20]}


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return small()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_new_tokens": 1},
        ENDS,
        ENDS | {"num_return_sequences": 2},
        {"no_repeat_ngram_size": 1, "stop_strings": ["he", "7"], "tokenizer": TOKENIZER},
        {"max_time": 1e-9},
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
@pytest.mark.parametrize("rows", [1, 3])
def test_traces_are_those_of_our_own_loop(model, monkeypatch, arguments, rows):
    inputs = {name: tensor[:rows] for name, tensor in BATCH.items()}
    arguments = GREEDY | arguments
    if "num_return_sequences" in arguments:
        arguments |= {"do_sample": False, "num_beams": 1}
        inputs = {name: tensor.repeat(2, 1) for name, tensor in inputs.items()}
        del arguments["num_return_sequences"]  # the library refuses it for greedy calls: the same prompts twice
    stock = model.generate(**inputs, **arguments)
    with attach(model, Controller()) as handle:
        ours = model.generate(**inputs, **arguments)
        traces = [trace.to_dict() for trace in handle.traces]
        monkeypatch.setattr(hf_attach, "nothing_to_do", lambda *given: False)
        model.generate(**inputs, **arguments)
        assert traces == [trace.to_dict() for trace in handle.traces]
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_batch_is_the_librarys_bit_for_bit_in_every_precision(dtype):
    model = small().to(dtype)
    arguments = GREEDY | dict(output_logits=True, output_scores=True, return_dict_in_generate=True)
    stock = model.generate(**BATCH, **arguments)
    with attach(model, Controller()) as handle:
        ours = model.generate(**BATCH, **arguments)
        assert [trace.tokens for trace in handle.traces] == ours.sequences[:, BATCH["input_ids"].shape[1] :].tolist()
    assert torch.equal(ours.sequences, stock.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, stock.logits, strict=True))


SAMPLED = dict(do_sample=True, max_new_tokens=30, seed=3)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 12},
        {"eos_token_id": [5, 9, 20], "repetition_penalty": 1.3},
        {"num_return_sequences": 2, "top_k": 0, "min_p": 0.05},
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_a_sampled_batch_draws_what_our_own_loop_draws(model, monkeypatch, arguments):
    arguments = SAMPLED | arguments
    with attach(model, Controller()) as handle:
        torch.manual_seed(1)
        ours = model.generate(**BATCH, **arguments)
        state, traces = torch.get_rng_state(), [trace.to_dict() for trace in handle.traces]
        monkeypatch.setattr(hf_attach, "nothing_to_do", lambda *given: False)
        torch.manual_seed(1)
        own = model.generate(**BATCH, **arguments)
        assert traces == [trace.to_dict() for trace in handle.traces] and torch.equal(ours, own)
        assert torch.equal(state, torch.get_rng_state())


def test_the_scores_of_a_sampled_call_are_what_it_was_drawn_from(model):
    scored = SAMPLED | {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    with attach(model, Controller()):
        out = model.generate(**BATCH, **scored)
    new = out.sequences[:, BATCH["input_ids"].shape[1] :]
    transitions = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    assert len(out.scores) == new.shape[1] and bool((transitions > -torch.inf).all())
    assert all(int((row > -torch.inf).sum()) > 1 for row in out.scores[0])  # the law, not the draw


class Records(LogitsProcessor):
    """Remembers the logits of every step."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(scores.clone())
        return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("times", [1, 20])
def test_a_long_batch_is_the_librarys_bit_for_bit_in_a_cache_that_grows_in_place(dtype, times):
    model, arguments, found = small().to(dtype), GREEDY | {"max_new_tokens": 170 if times == 1 else 50}, []
    batch = {name: given.repeat(1, times) for name, given in BATCH.items()}
    for controller in (None, Controller()):
        records = Records()
        handle = controller and attach(model, controller)
        model.generate(**batch, **arguments, logits_processor=LogitsProcessorList([records]))
        found.append(torch.stack(records.seen))
        if handle:
            handle.detach()
    assert torch.equal(*found)


def test_a_returned_cache_is_the_librarys(model):
    with attach(model, Controller()):
        out = model.generate(**BATCH, **(GREEDY | {"max_new_tokens": 170}), return_dict_in_generate=True)
    assert {type(layer) for layer in out.past_key_values.layers} == {DynamicLayer}


class Counts(LogitsProcessor):
    """Forbids a token more with each call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores.index_fill(1, torch.arange(self.calls), -torch.inf)


@pytest.mark.parametrize(
    "arguments", [{"cache_implementation": "static"}, {"use_cache": False}, {"logits_processor": [Counts]}], ids=str
)
@pytest.mark.filterwarnings("ignore:.*the controlled loop keeps a DynamicCache")
def test_what_the_librarys_loop_does_for_an_idle_controller_a_working_one_does_too(model, arguments):
    def call():
        given = dict(arguments)
        if "logits_processor" in given:
            given["logits_processor"] = LogitsProcessorList([Counts()])
        return model.generate(**BATCH, **(GREEDY | given))

    stock = call()
    with attach(model, Controller()):
        assert torch.equal(call(), stock)
    with attach(model, Controller(drafter=PromptLookup())) as handle:
        assert torch.equal(call(), stock)
        said = [any("DynamicCache" in note for note in trace.warnings) for trace in handle.traces]
        assert all(said) == ("logits_processor" not in arguments)


def test_a_single_row_keeps_the_controllers_loop(model, monkeypatch):
    used = []
    monkeypatch.setattr(hf_attach, "run_stock", lambda *given: used.append(given) or given[1])
    with attach(model, Controller()):
        model.generate(BATCH["input_ids"][:1], **GREEDY)
        assert not used
        model.generate(**BATCH, **GREEDY)
        model.generate(BATCH["input_ids"][:1], **GREEDY, use_cache=False)
        assert len(used) == 2


def test_a_call_that_fails_leaves_a_trace_without_a_reason(model):
    class Fails(LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise ValueError("no")

    with attach(model, Controller()) as handle:
        with pytest.raises(ValueError, match="no"):
            model.generate(**BATCH, **GREEDY, logits_processor=LogitsProcessorList([Fails()]))
        assert [trace.finish_reason for trace in handle.traces] == [None] * 3
        model.generate(**BATCH, **GREEDY)
        assert [trace.finish_reason for trace in handle.traces] == ["length"] * 3
