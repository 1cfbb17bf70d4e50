"""Exits whose cue stays, under both libraries' own calls, on caches that can and can't forget tokens."""

from __future__ import annotations

import llama_cpp as C
import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.controller import ROOT, Call, Controller, ControllerError, Cues, Decode, Keys, Trace, parse_policy
from support.hf_models import PAD, PROMPT, SAMPLED, TOKENIZER, Scripted, Twigs, controlled, small, unpadded
from support.llama_models import PROMPT as TEXT
from support.llama_models import ExitAt, open_llama, scripted

FORMS = ("append", "append-open")
GREEDY = {**SAMPLED, "do_sample": False, "temperature": None, "top_k": None, "no_repeat_ngram_size": 3}


def mamba():
    """A recurrent model: its cache forgets no token, and can be copied."""
    torch.manual_seed(0)
    shape = dict(vocab_size=len(TOKENIZER) + 3, hidden_size=32, state_size=4, num_hidden_layers=2)
    config = MambaConfig(**shape, initializer_range=0.3, pad_token_id=PAD)
    config.eos_token_id = None
    return MambaForCausalLM(config).eval()


MODELS = {"rolls back": small, "recurrent": mamba}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_transformers_gives_what_was_tried_and_what_a_fresh_call_gives(kind, form):
    """Float32. The call's own greedy choice makes the fresh call comparable: no key depends on the prompt's length."""
    model, inputs = MODELS[kind](), unpadded(PROMPT.input_ids)
    for k in range(2):
        rule = Scripted(k, trials=True, form=form)
        tokens, handle = controlled(model, Controller(exit=rule), inputs=inputs, **GREEDY)
        trace, cue = handle.trace, rule.seen[k][1]
        assert trace.closed_by == "exit", trace.why
        start, length = trace.forced
        end = inputs["input_ids"].shape[1] + start
        assert end == cue.last + 1 and TOKENIZER.decode(tokens[end : end + length]) == rule.suffix
        assert cue.name in TOKENIZER.decode(tokens[cue.first : end]).lower() or cue.name == "paragraph"
        assert rule.answers[k] == tokens[end + length :][: len(rule.answers[k])]
        rest = len(tokens) - end - length
        fresh = {**GREEDY, "max_new_tokens": rest, "no_repeat_ngram_size": 3}
        again, _ = controlled(model, Controller(), inputs=unpadded(tokens[: end + length]), **fresh)
        assert again == tokens


def test_the_state_after_an_exit_is_that_of_the_text():
    """A recurrent cache holds every token of the text once: the dropped one was never fed."""
    model, trace = mamba(), Trace()
    engine, prompt = HFEngine(model), PROMPT.input_ids[0].tolist()
    session = engine.session()
    call = Call(prompt, 60, frozenset(), Keys(seed=2), parse_policy("temperature(1.5)"))
    rule = Scripted(0, trials=True, form="append")
    rule.cues = Cues(["wait", "hmm", "paragraph", "sentence"])
    list(Controller(exit=rule).stream(session, HFTokenizer(TOKENIZER), call, trace))
    text = [*prompt, *trace.tokens]
    assert trace.closed_by == "exit" and session.length == len(text) - 1
    (step,) = engine.forward([Decode(session, text[-1:])])
    with torch.no_grad():
        whole = model(torch.tensor([text])).logits[0, -1].numpy()
    assert np.abs(step.logits(ROOT) - whole).max() < 1e-4


def test_a_recurrent_model_takes_exits_that_take_nothing_back():
    model, inputs = mamba(), unpadded(PROMPT.input_ids)
    spaced = Scripted(1, trials=True)
    spaced.cues = Cues(["every(6)"])
    tokens, handle = controlled(model, Controller(exit=spaced), inputs=inputs, **SAMPLED)
    assert handle.trace.forced[0] == 12 and handle.trace.closed_by == "exit"
    assert spaced.answers[1] == tokens[inputs["input_ids"].shape[1] + sum(handle.trace.forced) :][:6]
    for cues in (["wait"], ["wait", "every(6)"]):
        rule = Scripted(1)
        rule.cues = Cues(cues)
        with pytest.raises(ControllerError, match="recurrent.*--form append"):
            controlled(model, Controller(exit=rule), inputs=inputs, **SAMPLED)


@pytest.mark.parametrize("form", FORMS)
def test_a_drafted_run_exits_where_the_plain_one_does(form):
    model = small()
    plain, _ = controlled(model, Controller(exit=Scripted(2, form=form)), **SAMPLED)
    rule = Scripted(2, trials=True, form=form)
    drafted, handle = controlled(model, Controller(exit=rule, drafter=Twigs(plain)), **SAMPLED)
    assert drafted == plain and handle.trace.accepted > 5 and handle.trace.closed_by == "exit"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_llama_cpp_keeps_the_cue_and_streams_it_once(form, stream):
    llm = open_llama()
    rule = ExitAt(1, trials=True, form=form)
    handle = attach(llm, scripted(llm, rule))
    answer = llm(TEXT, max_tokens=100, stream=stream)
    text = "".join(chunk["choices"][0]["text"] for chunk in (answer if stream else [answer]))
    assert text == "52 a+3 55\nWait, b-6 49\nWait\n</think>\nanswer is 49" and handle.trace.closed_by == "exit"
    handle.detach()


def test_llama_cpp_exits_on_a_cache_that_forgets_nothing(monkeypatch):
    monkeypatch.setattr(C, "llama_model_is_recurrent", lambda model: True)
    llm = open_llama()
    handle = attach(llm, scripted(llm, ExitAt(1, form="append")))
    text = llm(TEXT, max_tokens=100)["choices"][0]["text"]
    assert text.endswith("\nWait\n</think>\nanswer is 49")
    handle.detach()
