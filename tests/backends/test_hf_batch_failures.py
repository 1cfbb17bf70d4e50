"""Forwards of a transformers model that fail: no row is fed twice, and other sequences stay as they were."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.packed import CantPack
from reasonctl.backends.hf.slab import Slab
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.controller import ROOT, Call, Controller, Decode, Draft, Ended, Greedy, Keys, Scheduler, Trace
from support.hf_models import TOKENIZER, small

TOLERANCE = 2e-4


@pytest.fixture
def engine():
    torch.set_num_threads(1)
    return HFEngine(small())


def logits_of(engine, *fed):
    """The last row of these tokens, fed by a sequence of its own."""
    alone = engine.session()
    for tokens in fed:
        (step,) = engine.forward([Decode(alone, list(tokens))])
    return step.logits(ROOT).copy()


def check_row(engine, session, tokens):
    """The next row of a session is that of these tokens and one more."""
    (step,) = engine.forward([Decode(session, [9])])
    found = step.logits(ROOT).copy()
    assert session.length == len(tokens) + 1
    assert np.abs(found - logits_of(engine, [*tokens, 9])).max() < TOLERANCE


@contextmanager
def failing(model, at):
    """The module's forward fails at its calls of these numbers, from 0 on."""
    calls = iter(range(1000))

    def fail(*_):
        if next(calls) in at:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hook = model.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def test_rows_that_were_fed_before_another_failed_are_taken_back(engine):
    a, b, led = (engine.session() for _ in range(3))
    led.lead = torch.tensor([[5]])
    engine.forward([Decode(a, [1, 2]), Decode(b, [3, 4]), Decode(led, [5, 6])])
    draft = Draft.chain((7, 8))
    with failing(engine.model_forward.model, {1}), pytest.raises(RuntimeError, match="allocate"):
        engine.forward([Decode(a, [7]), Decode(b, [8], draft), Decode(led, [9])])
    assert (a.length, b.length, led.length) == (2, 2, 2) and (a.slot.columns, b.slot.columns) == (2, 2)
    check_row(engine, a, [1, 2])
    check_row(engine, b, [3, 4])


def test_rows_that_run_in_turn_are_taken_back_when_a_later_one_fails(engine, monkeypatch):
    def cant(*_):
        raise CantPack("its attention is another one")

    sessions = [engine.session() for _ in range(3)]
    monkeypatch.setattr(engine, "_call", cant)
    with failing(engine.model_forward.model, {2}), pytest.raises(RuntimeError, match="allocate"):
        engine.forward([Decode(session, [1, 2, 3]) for session in sessions])
    assert engine.model_forward.in_turn == "its attention is another one"
    assert [session.length for session in sessions] == [0, 0, 0]
    for session in sessions:
        check_row(engine, session, [])


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_forward_that_fails_between_layers_leaves_no_layer_longer(window, layer):
    windows = dict(sliding_window=window, use_sliding_window=True, max_window_layers=0) if window else {}
    engine = HFEngine(small(Qwen2Config, Qwen2ForCausalLM, **windows))
    session = engine.session()
    engine.forward([Decode(session, [1, 2, 3, 4, 5])])
    with (
        failing(engine.model_forward.model.model.layers[layer].mlp, {0}),
        pytest.raises(RuntimeError, match="allocate"),
    ):
        engine.forward([Decode(session, [6, 7])])
    check_row(engine, session, [1, 2, 3, 4, 5])


def test_a_layer_that_got_keys_and_no_values_is_undone(engine, monkeypatch):
    session, joined = engine.session(), torch.cat
    engine.forward([Decode(session, [1, 2, 3])])
    calls = iter(range(1000))

    def cat(tensors, *given, **named):
        if len(tensors) == 2 and tensors[0].ndim == 4 and tensors[0].shape[-2] == 3 and next(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return joined(tensors, *given, **named)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="allocate"):
        patch.setattr(torch, "cat", cat)
        engine.forward([Decode(session, [4])])
    assert {layer.keys.shape[-2] for layer in session.cache.layers} == {3}
    check_row(engine, session, [1, 2, 3])


def runs(engine, count):
    """The tokens and errors of some runs that share forwards; every second row has positions of its own."""
    scheduler, traces = Scheduler(), [Trace() for _ in range(count)]
    for i, trace in enumerate(traces):
        session = engine.session()
        session.lead = torch.tensor([[5]]) if i == 2 else None
        call = Call([i + 1, 5, 9], 6, frozenset(), Keys(seed=i), Greedy())
        scheduler.add(i, Controller().loop(session, HFTokenizer(TOKENIZER), call, trace))
    errors = {output.key: output.error for output in scheduler if isinstance(output, Ended)}
    return [trace.tokens for trace in traces], errors


def test_runs_write_the_same_after_a_shared_forward_that_failed_once(engine):
    expected, errors = runs(engine, 3)
    assert [len(tokens) for tokens in expected] == [6, 6, 6] and not any(errors.values())
    # Of the second forward the packed rows are the model's call 2, and the row alone is call 3.
    for call in (2, 3):
        with failing(engine.model_forward.model, {call}):
            found, errors = runs(engine, 3)
        assert found == expected and not any(errors.values()), call


def test_one_session_has_one_request_of_a_forward(engine):
    session = engine.session()
    with pytest.raises(Exception, match="one request per session"):
        engine.forward([Decode(session, [1]), Decode(session, [2])])
    assert session.length == 0


class NoMemory:
    """Fails at the allocations of these numbers, of tensors of a slab."""

    def __init__(self, monkeypatch, at):
        real, self.made = torch.Tensor.new_zeros, 0

        def new_zeros(tensor, shape, *given, **named):
            if len(shape) == 4:
                self.made += 1
                if self.made in at:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return real(tensor, shape, *given, **named)

        monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)


@pytest.mark.parametrize("at", [1, 2, 4, 6])
def test_a_slab_that_cant_grow_stays_whole(engine, monkeypatch, at):
    a, b = engine.session(), engine.session()
    engine.forward([Decode(a, [1, 2]), Decode(b, [3, 4])])
    with monkeypatch.context() as patch:
        NoMemory(patch, {at})
        with pytest.raises(RuntimeError, match="allocate"):
            engine.forward([Decode(a, [5] * 100), Decode(b, [5])])
    check_row(engine, b, [3, 4])
    both = engine.forward([Decode(a, [5] * 100), Decode(b, [6])])
    found = [step.logits(ROOT).copy() for step in both]
    for logits, tokens in zip(found, ([1, 2, *[5] * 100], [3, 4, 9, 6]), strict=True):
        assert np.abs(logits - logits_of(engine, tokens)).max() < TOLERANCE


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_fork_for_which_there_is_no_memory_leaves_no_slot(engine, monkeypatch, at):
    a, b = engine.session(), engine.session()
    engine.forward([Decode(a, [1, 2]), Decode(b, [3, 4])])
    with monkeypatch.context() as patch:
        NoMemory(patch, {at})
        with pytest.raises(RuntimeError, match="allocate"):
            a.fork()
    assert len(engine.slab.slots) == 2
    a.close()
    check_row(engine, b, [3, 4])
    b.close()
    assert not engine.slab.slots and not engine.slab.bytes


@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_sequence_that_cant_join_keeps_its_own_cache(engine, monkeypatch, at):
    a, b, c = (engine.session() for _ in range(3))
    engine.forward([Decode(a, [1, 2]), Decode(b, [3, 4])])
    engine.forward([Decode(c, [5] * 90)])
    with monkeypatch.context() as patch:
        NoMemory(patch, {at})
        with pytest.raises(RuntimeError, match="allocate"):
            engine.forward([Decode(a, [7]), Decode(c, [7])])
    assert c.slot is None and sum(not slot.left for slot in engine.slab.slots) == 2
    check_row(engine, a, [1, 2])
    check_row(engine, c, [5] * 90)


def test_memory_that_cant_be_given_back_does_not_fail_the_row_that_leaves(engine, monkeypatch):
    sessions = [engine.session() for _ in range(8)]
    engine.forward([Decode(session, [i, 2]) for i, session in enumerate(sessions)])
    with monkeypatch.context() as patch:
        NoMemory(patch, {2})
        for session in sessions[:6]:
            session.close()
    check_row(engine, sessions[6], [6, 2])
    more = [engine.session() for _ in range(5)]
    steps = engine.forward([Decode(session, [i + 20]) for i, session in enumerate([*more, sessions[7]])])
    last = steps[-1].logits(ROOT).copy()
    assert np.abs(last - logits_of(engine, [7, 2, 25])).max() < TOLERANCE
    for session in (*more, *sessions[6:]):
        session.close()
    assert type(engine.slab) is Slab and not engine.slab.bytes


@pytest.mark.parametrize("at", range(3))
def test_a_sequence_that_is_not_a_number_leaves_nothing_to_those_in_its_slot(engine, at):
    """Columns of a slot that its sequence doesn't hold are read and masked: not a number stays so under any mask."""
    with torch.inference_mode():
        engine.model_forward.model.get_input_embeddings().weight[8] = torch.nan
    rows = [[3, 4] * 20, [5, 6] * 20, [7]]
    rows[at] = [8] * 40
    sessions = [engine.session() for _ in rows]
    engine.forward([Decode(session, row) for session, row in zip(sessions, rows, strict=True)])
    sessions.pop(at).close()
    rows.pop(at)
    sessions.append(engine.session())
    found = engine.forward([Decode(session, [2]) for session in sessions])
    for step, tokens in zip([step.logits(ROOT).copy() for step in found], [*rows, []], strict=True):
        assert np.abs(step - logits_of(engine, [*tokens, 2])).max() < TOLERANCE
