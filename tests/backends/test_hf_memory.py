"""Rows of a generate call that don't fit in memory together, on transformers: refused, or warned of, or not asked."""

from __future__ import annotations

import pytest
import torch

from reasonctl.backends.attach import attach
from reasonctl.backends.hf import engine as engine_module
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.load import load_model
from reasonctl.controller import Controller, ControllerError, Decode
from support.hf_models import TOKENIZER, small

NEW = 40
PROMPTS = dict(input_ids=torch.arange(60).reshape(3, 20) % 30 + 3, attention_mask=torch.ones(3, 20, dtype=torch.long))


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return small()


def generate(model, free: int | None, monkeypatch, *, inert: bool = False, **changes):
    """A batched call where so much memory is free: the warnings of its rows, and the rows of each forward."""
    rows: list[int] = []
    how = attach(model, Controller()) if inert else attach(model, Controller(budget=500), tokenizer=TOKENIZER)
    with how as handle:
        monkeypatch.setattr(engine_module, "free_memory", lambda: free)
        hook = model.register_forward_pre_hook(
            lambda module, args, named: rows.append(named["input_ids"].shape[1]), with_kwargs=True
        )
        try:
            model.generate(**(PROMPTS | changes), max_new_tokens=NEW, do_sample=False)
        except ControllerError as error:
            return str(error), rows
        finally:
            hook.remove()
    return [[text for text in trace.warnings if "memory" in text] for trace in handle.traces], rows


def test_prompts_that_do_not_fit_together_are_refused_before_a_forward_of_them(model, monkeypatch):
    """The slab's tensors for three prompts and a token more: 64 columns for each row."""
    exact = HFEngine(model).token_bytes * 3 * 64
    error, rows = generate(model, exact - 1, monkeypatch)
    assert error.startswith("3 rows with prompts of up to 20 tokens take 0.0 GB of cache, and 0.0 GB of memory are f")
    assert error.endswith("; call it with fewer rows, or shorten the prompts")
    assert rows == [1], "the one that measures a token"
    warnings, rows = generate(model, exact, monkeypatch)
    assert len(rows) > NEW and warnings == 3 * [
        ["if all 3 rows run to their limit, they take 0.0 GB of cache, and 0.0 GB of memory are free"]
    ]


def test_a_call_that_fits_is_warned_of_nothing(model, monkeypatch):
    longest = HFEngine(model).token_bytes * 3 * 128  # of 60 tokens with a quarter to spare
    assert generate(model, longest, monkeypatch)[0] == [[], [], []]
    assert generate(model, longest - 1, monkeypatch)[0] != [[], [], []]


@pytest.mark.parametrize("free", [10**9, None])
def test_a_small_call_costs_no_forward_more(model, monkeypatch, free):
    warnings, rows = generate(model, free, monkeypatch)
    assert warnings == [[], [], []] and rows[0] == 60 and len(rows) == NEW


def test_one_row_and_an_inert_call_are_not_asked_about(model, monkeypatch):
    one = {name: value[:1] for name, value in PROMPTS.items()}
    assert generate(model, 0, monkeypatch, **one)[0] == [[]]
    assert generate(model, 0, monkeypatch, inert=True)[0] == [[], [], []]


def test_a_sequence_that_is_there_counts_once(model):
    engine = HFEngine(model)
    alone = engine.cache_bytes([100, 100])
    sessions = [engine.session() for _ in range(2)]
    engine.forward([Decode(one, [5] * 100) for one in sessions])
    assert engine.slab.bytes == alone == engine.token_bytes * 2 * 128
    assert engine.cache_bytes([100]) == engine.token_bytes * 128, "the slab has these two already"


def test_rows_that_run_in_turn_take_what_their_own_caches_take():
    engine = load_model("tiny-hybrid", backend="transformers", threads=1).engine
    sessions = [engine.session() for _ in range(2)]
    for session, tokens in zip(sessions, (30, 50), strict=True):
        engine.forward([Decode(session, [5] * tokens)])
    held = [layer for session in sessions for layer in session.cache.layers]
    states = sum(layer.keys.nbytes + layer.values.nbytes for layer in held if hasattr(layer, "keys"))
    assert engine.cache_bytes([30, 50]) == states + 2 * engine.checkpoint_bytes > 0


def test_what_torch_has_taken_on_a_device_and_nobody_holds_is_free(model, monkeypatch):
    engine = HFEngine(model)
    for name, value in (("mem_get_info", (100, 900)), ("memory_reserved", 500), ("memory_allocated", 470)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for kind, free in (("cuda", 130), ("meta", None)):
        monkeypatch.setattr(type(engine.model_forward), "device", torch.device(kind))
        assert engine.free_bytes() == free
