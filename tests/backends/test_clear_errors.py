"""Arguments at the edge of what a library takes: they run as in stock, or the error says what to change."""

from __future__ import annotations

import pytest
import torch

from reasonctl.backends.attach import attach
from reasonctl.calibration.learning.watched import audited
from reasonctl.controller import Controller, ControllerError
from support.hf_models import PROMPT, TOKENIZER, Scripted, small
from support.llama_models import CHAT, open_llama
from support.llama_models import PROMPT as TEXT


@pytest.mark.parametrize("exit_at", [None, 0])
def test_top_p_0_keeps_one_token_under_a_probe(exit_at):
    model, arguments = small(), dict(max_new_tokens=12)
    greedy = model.generate(**PROMPT, do_sample=False, **arguments)
    with attach(model, Controller(exit=Scripted(exit_at=exit_at)), tokenizer=TOKENIZER):
        expected = greedy if exit_at is None else model.generate(**PROMPT, do_sample=False, **arguments)
        assert torch.equal(model.generate(**PROMPT, do_sample=True, top_p=0.0, **arguments), expected)


@pytest.mark.parametrize("bad", [99999, -1, "99999"])
def test_a_bias_on_an_id_outside_of_the_vocabulary_is_refused_by_name(bad):
    llm = open_llama()
    with attach(llm, Controller()):
        with pytest.raises(ControllerError, match=f"logit_bias has the token id {bad}"):
            llm(TEXT, max_tokens=2, logit_bias={bad: 1.0})
        with pytest.raises(ControllerError, match=f"logit_bias has the token id {bad}"):
            llm.create_chat_completion(CHAT, max_tokens=2, logit_bias={bad: 1.0})
        assert llm(TEXT, max_tokens=2, logit_bias={30: 100.0})["usage"]["completion_tokens"] == 2
    llm.close()


def test_an_empty_prompt_says_so():
    llm, model = open_llama(), small()
    with attach(llm, Controller()), pytest.raises(ControllerError, match="the prompt has no tokens"):
        llm([], max_tokens=2)
    with attach(model, Controller()), pytest.raises(ControllerError, match="the prompt has no tokens"):
        model.generate(torch.zeros((1, 0), dtype=torch.long), max_new_tokens=2)
    llm.close()


@pytest.mark.parametrize("wrong", [Scripted(exit_at=0), "my.probe.safetensors", None])
def test_what_is_no_controller_is_refused_by_its_kind(wrong):
    llm = open_llama()
    for model in (small(), llm):
        with pytest.raises(ControllerError, match=f"controller is a {type(wrong).__name__}; give a Controller"):
            attach(model, wrong, tokenizer=TOKENIZER)
    llm.close()


def test_audits_of_what_is_no_rule_are_refused():
    with pytest.raises(ControllerError, match="this str makes none; use load_exit"):
        audited("my.probe.safetensors")


@pytest.mark.parametrize("controller", [Controller(), Controller(exit=Scripted(exit_at=0))])
def test_what_is_no_tokenizer_is_refused_by_its_kind(controller):
    with pytest.raises(ControllerError, match="tokenizer is a str; give the model's transformers tokenizer"):
        attach(small(), controller, tokenizer="tok")
