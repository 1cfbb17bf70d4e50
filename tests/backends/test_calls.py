"""People's existing calls, attached: a part of tests/every_call.py, and what calls ask for while a controller works."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from transformers import LogitsProcessor, LogitsProcessorList

from reasonctl.backends import attach
from reasonctl.controller import Controller, ControllerError, PromptLookup, Sampling
from support.hf_models import GREEDY, PROMPT, TOKENIZER, small
from support.llama_models import PROMPT as TEXT
from support.llama_models import open_llama

FINE = ("equal", "drawn", "fails")
QUICK = {
    "llama-cpp-python": ["logprobs and echo", "top_logprobs=4", "draft_model", "n_batch=1", "sent into", "RAM cache"],
    "transformers": ["one row, all outputs", "one row, static cache", "num_beams and scores", "inputs_embeds, batch"],
}
BATCH = dict(TOKENIZER(["so the cat", "the answer 12", "a"], return_tensors="pt", padding=True))
ASKED = {f"output_{name}": True for name in ("scores", "logits", "hidden_states", "attentions")}
ASKED |= {"return_dict_in_generate": True}
ROUNDING = 2e-4


@pytest.mark.parametrize("table", list(QUICK))
def test_calls_give_what_they_gave_before(table):
    pytest.importorskip("llama_cpp.server.app")
    from support.call_tables import TABLES

    cases, run = TABLES[table]
    chosen = [next(case for case in cases if part in case.name) for part in QUICK[table]]
    assert [(case.name, outcome) for case, outcome in run(chosen) if outcome.result != "equal"] == []


@pytest.mark.slow
@pytest.mark.parametrize("table", ["llama-cpp-python", "llama-cpp-python's server", "transformers"])
def test_every_call_gives_what_it_gave_before(table):
    pytest.importorskip("llama_cpp.server.app")
    from support.call_tables import TABLES

    cases, run = TABLES[table]
    assert len(cases) >= {"llama-cpp-python": 390, "llama-cpp-python's server": 33, "transformers": 380}[table]
    found = [(case.name, outcome) for case, outcome in run(cases)]
    refused = [name for name, outcome in found if outcome.result == "refused"]
    assert refused == (["embedding=True", "create_embedding"] if table == "llama-cpp-python" else [])
    assert [one for one in found if one[1].result not in (*FINE, "refused")] == []


def test_a_comparison_sees_one_logit_and_one_chunk():
    from support.calls import difference

    rows = [torch.zeros(2, 3), {"text": "a"}]
    assert difference(rows, [torch.zeros(2, 3), {"text": "a"}]) == ""
    assert difference(rows, [torch.zeros(2, 3).index_fill(1, torch.tensor([1]), 1e-7), {"text": "a"}])
    assert difference(rows, [rows[0], {"text": "b"}]) and difference(rows, rows[:1])


@pytest.mark.parametrize("inputs", [PROMPT, BATCH], ids=["one row", "batch"])
def test_outputs_of_a_drafted_call_have_generation_s_layout_and_values(inputs):
    model = small(attn_implementation="eager")
    call = GREEDY | ASKED | {"repetition_penalty": 1.2, "max_new_tokens": 25}
    stock = model.generate(**inputs, **call)
    with attach(model, Controller(drafter=PromptLookup())) as handle:
        ours = model.generate(**inputs, **call)
        assert sum(trace.drafted for trace in handle.traces) > 0
    assert torch.equal(stock.sequences, ours.sequences)
    shown = inputs["attention_mask"].bool()
    for name in ("scores", "logits"):
        found = zip(getattr(stock, name), getattr(ours, name), strict=True)
        assert max(float((a - b).abs().nan_to_num().max()) for a, b in found) < ROUNDING, name
    for t, (expected, found) in enumerate(zip(stock.hidden_states, ours.hidden_states, strict=True)):
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape
            assert float(((a - b).abs() * (shown[..., None] if t == 0 else 1)).max()) < ROUNDING
    for t, (expected, found) in enumerate(zip(stock.attentions, ours.attentions, strict=True)):
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape
            assert float(((a - b).abs() * (shown[:, None, :, None] if t == 0 else 1)).max()) < ROUNDING


@pytest.mark.parametrize("law", ["model", "drawn"])
def test_scores_are_the_call_s_or_what_the_policy_draws_from(law):
    model, call = small(), {"max_new_tokens": 8, "do_sample": True, "top_k": 0} | ASKED | {"output_attentions": False}
    with attach(model, Controller(policy=Sampling(temperature=0.5), logprobs=law)):
        out = model.generate(**BATCH, **call)
    expected = torch.stack(out.logits) / (0.5 if law == "drawn" else 1.0)
    found = torch.stack(out.scores).softmax(-1)
    assert float((found - expected.softmax(-1)).abs().max()) < ROUNDING


def test_beams_pass_where_the_controller_has_nothing_to_do_or_says_so():
    model, call = small(), GREEDY | {"num_beams": 2}
    stock = model.generate(**PROMPT, **call)
    for controller in (Controller(), Controller(policy=Sampling(), others="pass")):
        with attach(model, controller) as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(model.generate(**PROMPT, **call), stock) and handle.trace is None
            model.generate(**PROMPT, **GREEDY)
            assert handle.runs == 1  # and the next call is controlled again
    with (
        attach(model, Controller(policy=Sampling())),
        pytest.raises(ControllerError, match=r"num_beams.*others='pass'"),
    ):
        model.generate(**PROMPT, **call)
    with pytest.raises(ControllerError, match="others is"):
        Controller(others="ignore")


class Counts(LogitsProcessor):
    """Forbids a token more with each call."""

    calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores.index_fill(1, torch.arange(self.calls), -torch.inf)


def test_a_user_s_processor_in_a_batch_counts_each_row_s_calls():
    model, call = small(), {"max_new_tokens": 12}
    rows = []
    with attach(model, Controller(policy=Sampling(temperature=1e-5))):
        given = {"logits_processor": LogitsProcessorList([Counts()])}
        together = model.generate(**BATCH, **call, **given)
        for i in range(3):
            one = {name: tensor[i : i + 1] for name, tensor in BATCH.items()}
            rows.append(model.generate(**one, **call, logits_processor=LogitsProcessorList([Counts()]))[0])
    assert torch.equal(together, torch.stack(rows))


def logprobs(llm: Llama, **more):
    return llm(TEXT, max_tokens=16, logprobs=3, **more)["choices"][0]["logprobs"]


@pytest.mark.parametrize("drafter", [None, PromptLookup()], ids=["plain", "drafted"])
def test_logprobs_are_the_model_s_or_what_the_policy_draws_from(drafter):
    llm, policy = open_llama(logits_all=True), Sampling(temperature=0.5)
    found = {}
    for law in ("model", "drawn"):
        with attach(llm, Controller(policy=policy, logprobs=law, drafter=drafter)):
            found[law] = logprobs(llm, seed=1)
    assert found["model"]["tokens"] == found["drawn"]["tokens"]
    for top, logits in zip(found["drawn"]["top_logprobs"], found["model"]["top_logprobs"], strict=True):
        both = [text for text in top if text in logits]
        drawn, own = (np.array([values[text] for text in both]) for values in (top, logits))
        np.testing.assert_allclose(np.diff(drawn), np.diff(own) / 0.5, atol=0.1)
    llm.close()


def test_a_draft_model_of_the_library_s_drafts_in_the_loop():
    llm = open_llama(draft_model=LlamaPromptLookupDecoding())
    with attach(llm, Controller()) as handle:
        llm(TEXT, max_tokens=40, temperature=0.0)
        assert handle.trace.drafted > 0
    with attach(llm, Controller(drafter=PromptLookup(size=1))) as handle:
        llm(TEXT, max_tokens=40, temperature=0.0)
        assert isinstance(handle.controller.drafter, PromptLookup)
    llm.close()


@pytest.mark.slow
def test_what_passes_of_the_librarys_own_tests_passes_attached():
    from library_tests import Unavailable, broken, fetched, outcomes

    try:
        folder = fetched(Path(tempfile.gettempdir()) / "llama-cpp-python-tests")
        stock, attached = (outcomes(folder, one) for one in (False, True))
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert sum(outcome == "passed" for outcome in stock.values()) >= 20
    assert broken(stock, attached) == []
