"""Copies and pickles of attached objects, and models that aren't as the library made them."""

from __future__ import annotations

import copy
import functools
import gc
import io
import pickle

import pytest
import torch
from llama_cpp import Llama, _internals
from transformers import LlamaForCausalLM

from reasonctl.backends.attach import attach
from reasonctl.controller import Controller, ControllerError
from support.hf_models import GREEDY, PROMPT, TOKENIZER, both, small
from support.llama_models import PROMPT as TEXT
from support.llama_models import TINY, bare, open_llama


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    **{f"pickle {n}": lambda found, n=n: pickle.loads(pickle.dumps(found, n)) for n in (0, 2, 5)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", [*COPIES, "torch.save"])
def test_copies_of_an_attached_model_are_uncontrolled(way):
    model = small()
    stock = model.generate(**PROMPT, **GREEDY)
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        made = saved(model) if way == "torch.save" else COPIES[way](model)
        assert type(made) is LlamaForCausalLM
        assert torch.equal(made.generate(**PROMPT, **GREEDY), stock) and handle.runs == 0
        assert torch.equal(model.generate(**PROMPT, **GREEDY), stock) and handle.runs == 1


@pytest.mark.parametrize("way", list(COPIES))
def test_copies_of_an_attached_llama_are_uncontrolled(way):
    llm = open_llama()
    stock = bare(llm(TEXT, max_tokens=4, temperature=0.0))
    with attach(llm, Controller()) as handle:
        made = COPIES[way](llm)
        assert type(made) is Llama and "generate" not in vars(made)
        assert bare(made(TEXT, max_tokens=4, temperature=0.0)) == stock and handle.runs == 0
    made.close()
    llm.close()


@pytest.mark.parametrize("way", list(COPIES))
def test_a_handle_is_not_copied_and_its_traces_are(way):
    model = small()
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        model.generate(**PROMPT, **GREEDY)
        with pytest.raises(ControllerError, match="handle can't be copied or pickled"):
            COPIES[way](handle)
        assert COPIES[way](handle.trace).tokens == handle.trace.tokens


def test_an_offloaded_model_runs_as_in_stock():
    model = small()
    pytest.importorskip("accelerate").cpu_offload(model, execution_device="cpu")
    assert model.device.type == "meta"
    stock, ours, _ = both(model, **GREEDY)
    assert torch.equal(stock, ours)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_output_layer_runs_as_in_stock():
    model = torch.ao.quantization.quantize_dynamic(small(), {torch.nn.Linear}, dtype=torch.qint8)
    stock, ours, _ = both(model, **GREEDY)
    assert torch.equal(stock, ours)


class Passes(LlamaForCausalLM):
    def generate(self, *args, **named):
        return super().generate(*args, **named)


class OwnLoop(LlamaForCausalLM):
    def _sample(self, *args, **named):
        return super()._sample(*args, **named)


def test_a_model_that_passes_generate_on_is_controlled_and_one_with_its_own_loop_is_refused():
    model = small(model=Passes)
    stock = model.generate(PROMPT["input_ids"], **GREEDY)
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        assert torch.equal(model.generate(PROMPT["input_ids"], **GREEDY), stock) and handle.runs == 1
    with pytest.raises(ControllerError, match="OwnLoop has a generate loop of its own"):
        attach(small(model=OwnLoop), Controller(), tokenizer=TOKENIZER)


class Overrides(Llama):
    def generate(self, *args, **named):
        yield from super().generate(*args, **named)


def test_a_generate_that_is_not_the_library_s_is_refused_by_name(monkeypatch):
    own = Overrides(str(TINY), n_ctx=64, verbose=False)
    with pytest.raises(ControllerError, match=r"Overrides\.generate"):
        attach(own, Controller())
    own.close()
    llm, stock = open_llama(), Llama.generate

    def passes(*args, **named):
        return stock(*args, **named)

    for patched in (passes, functools.wraps(stock)(passes)):
        monkeypatch.setattr(Llama, "generate", patched)
        with pytest.raises(ControllerError, match=r"Llama\.generate"):
            attach(llm, Controller())
    monkeypatch.undo()
    attach(llm, Controller()).detach()
    llm.close()


def test_attaching_and_detaching_keeps_no_context():
    llm = open_llama()

    def contexts():
        gc.collect()
        return sum(type(found) is _internals.LlamaContext for found in gc.get_objects())

    def cycle():
        with attach(llm, Controller()):
            llm(TEXT, max_tokens=1)

    cycle()
    before = contexts()
    for _ in range(50):
        cycle()
    assert contexts() == before
    assert llm(TEXT, max_tokens=2)["usage"]["completion_tokens"] == 2
    llm.close()
