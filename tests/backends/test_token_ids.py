"""Ids outside of the vocabulary are refused at the door: before llama.cpp, which would end the process, reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import Controller, ControllerError, Decode, Draft, Markers, Policy, Stateless, Thinking
from support.hf_models import TOKENIZER, small
from support.llama_models import open_llama

LIMITED = Controller(thinking=Thinking(Markers("<think>", "</think>"), "</think>\n"), budget=9)
BAD = [99999, -1]


class Strays(Stateless):
    """Drafts an id that no model has."""

    def __init__(self, bad):
        self.bad = bad

    def propose(self, tokens, room):
        return Draft.chain((self.bad,))
        yield


class StrayPolicy(Policy):
    def __init__(self, bad):
        self.bad = bad

    def start(self):
        return None

    def step(self, state, row):
        return None, self.bad


@pytest.fixture(scope="module")
def llm():
    made = open_llama()
    yield made
    made.close()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("controller", [LIMITED, Controller()], ids=["limited", "inert"])
def test_a_prompt_with_a_stray_id_is_refused_on_llama_cpp(llm, controller, bad):
    with attach(llm, controller):
        for call in (lambda: llm([85, bad], max_tokens=3), lambda: next(llm.generate([85, bad]))):
            with pytest.raises(ControllerError, match=f"prompt has the token id {bad}"):
                call()
        assert llm([85, 86], max_tokens=3, temperature=0.0)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("bad", [5.0, 0.5, -0.0, float("nan"), float("inf"), None, "5", [5]], ids=repr)
def test_what_is_no_integer_is_no_id(llm, bad):
    with attach(llm, Controller()):
        for call in (lambda: llm([85, bad], max_tokens=3), lambda: next(llm.generate([85, bad]))):
            with pytest.raises(ControllerError, match=r"the prompt holds .*, which is no token id"):
                call()


def test_ids_of_any_library_are_ids(llm):
    prompt = [85, 86, 87]
    stock = llm(prompt, max_tokens=4, temperature=0.0)["choices"][0]["text"]
    with attach(llm, Controller()):
        for given in (np.array(prompt, np.int32), [np.uint16(i) for i in prompt], torch.tensor(prompt), tuple(prompt)):
            assert list(zip(llm.generate(given, temp=0.0), range(4), strict=False))
            if isinstance(given, list):
                assert llm(given, max_tokens=4, temperature=0.0)["choices"][0]["text"] == stock


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("controller", [LIMITED, Controller()], ids=["limited", "inert"])
def test_a_prompt_with_a_stray_id_is_refused_on_transformers(controller, bad):
    model = small()
    with attach(model, controller, tokenizer=TOKENIZER), pytest.raises(ControllerError, match=f"token id {bad}"):
        model.generate(torch.tensor([[5, bad]]), attention_mask=torch.ones(1, 2), max_new_tokens=3)


@pytest.mark.parametrize("prompts", [[[5.0, 6.0]], [[[5, 6]]], torch.zeros((0, 3), dtype=torch.long)], ids=str)
def test_a_tensor_that_is_no_batch_of_prompts_is_refused(prompts):
    model = small()
    with (
        attach(model, Controller(), tokenizer=TOKENIZER),
        pytest.raises(ControllerError, match=r"the prompts are a tensor of shape \(.*\(rows, tokens\)"),
    ):
        model.generate(torch.as_tensor(prompts), max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("part", ["policy", "drafter"])
def test_a_stray_id_of_a_policy_or_a_drafter_is_refused(llm, part, bad):
    controller = Controller(policy=StrayPolicy(bad)) if part == "policy" else Controller(drafter=Strays(bad))
    with attach(llm, controller), pytest.raises(ControllerError, match=f"token id {bad}"):
        llm([85, 86], max_tokens=4, temperature=0.0)
    model = small()
    with attach(model, controller, tokenizer=TOKENIZER), pytest.raises(ControllerError, match=f"token id {bad}"):
        model.generate(torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2), max_new_tokens=4)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("pending", [[], [5]], ids=["one", "several"])
def test_engines_and_tokenizers_refuse_a_stray_id(llm, pending, bad):
    tokenizer = LlamaTokenizer(llm)
    for read in (tokenizer.text, tokenizer.bytes_of, lambda token: tokenizer.decode([token])):
        with pytest.raises(ControllerError, match=f"token id {bad}"):
            read(bad)
    native = LlamaEngine(llm, hidden=False)
    for engine in (native, HFEngine(small())):
        with pytest.raises(ControllerError, match=f"token id {bad}"):
            engine.forward((Decode(engine.session(), [*pending, bad]),))
        with pytest.raises(ControllerError, match=f"token id {bad}"):
            engine.forward((Decode(engine.session(), [5], Draft.chain((6, bad))),))
    native.close()
