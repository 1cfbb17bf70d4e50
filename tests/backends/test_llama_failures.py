"""Forwards of llama.cpp that fail: every sequence holds what it held before, whatever its cache is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from llama_cpp import llama_cpp as C

from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.native import Capture
from reasonctl.backends.llama.sequences import Sequences
from reasonctl.backends.llama.session import LlamaSession
from reasonctl.controller import NO_DRAFT, ROOT, ControllerError, Decode, Draft
from support.llama_models import open_llama
from support.recorded_rows import BOUND, open_gguf

BOUNDS = {"whole": 0.02, "lfm2": BOUND, "gemma3": BOUND}
"""Largest difference of a logit between batches of different shapes, for a cache that keeps keys and values of all
tokens (the bundled model, in 16 bits), recurrent states, or windows that forget.
"""
RNG = np.random.default_rng(11)
TEXT, OTHER = RNG.integers(4, 100, 40).tolist(), RNG.integers(4, 100, 12).tolist()


class Injected(Exception):
    """What the tests let fail."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LlamaEngine]:
    folder = tmp_path_factory.mktemp("gguf")

    def engine(kind: str, **given: bool | int) -> LlamaEngine:
        llm = open_llama(type_k=0, type_v=0, n_batch=64) if kind == "whole" else open_gguf(folder, kind)
        return LlamaEngine(llm, **{"hidden": True, **given})

    return engine


def check(opened: Callable[..., LlamaEngine], kind: str, row: np.ndarray, tokens: list[int]) -> None:
    """A row is what a model of its own says after these tokens."""
    engine, bound = opened(kind), BOUNDS[kind]
    assert np.abs(row - row_of(engine.session(), *tokens)).max() <= bound
    changed = [*tokens[:-2], tokens[-2] ^ 1, tokens[-1]]
    assert np.abs(row - row_of(engine.session(), *changed)).max() > 2 * bound  # the check can fail
    engine.close()


def row_of(session: LlamaSession, *pending: int, draft: Draft = NO_DRAFT) -> np.ndarray:
    (step,) = session.engine.forward((Decode(session, list(pending), draft),))
    return step.logits(ROOT).copy()


def fail_at(patch: pytest.MonkeyPatch, where: object, name: str, call: int) -> None:
    """Let a function fail after its work, at this call of it, from 0 on."""
    real, calls = getattr(where, name), iter(range(1000))

    def failing(*given, **named):
        result = real(*given, **named)
        if next(calls) == call:
            raise Injected
        return result

    patch.setattr(where, name, failing)


PLACES = {
    "a decode": (C, "llama_decode", 0),
    "copying rows": (LlamaEngine, "_record", 0),
    "reading states": (Capture, "reading", 0),
    "the second session": (LlamaSession, "advance", 1),
    "feeding": (LlamaEngine, "_feed", 1),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BOUNDS)
def test_every_session_holds_what_it_held(opened, kind: str, place: str) -> None:
    engine = opened(kind, batch=2)
    one, other = engine.session(), engine.session()
    for session, text in ((one, TEXT[:20]), (other, OTHER)):
        row_of(session, *text[:-2])
        session.checkpoint()
        row_of(session, text[-2])
        row_of(session, text[-1])
    free = len(engine.sequences.free)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, *PLACES[place])
        with pytest.raises(Injected):
            engine.forward([Decode(one, TEXT[20:29], Draft.chain((5, 6)), (0,)), Decode(other, [7, 8, 9], layers=(0,))])
    assert (one.length, other.length) == (20, len(OTHER)) and len(engine.sequences.free) == free
    check(opened, kind, row_of(one, TEXT[20]), TEXT[:21])
    check(opened, kind, row_of(other, 7), [*OTHER, 7])
    one.rollback(2)
    check(opened, kind, row_of(one, 3), [*TEXT[:19], 3])
    engine.close()


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_token_that_the_library_fed_stays_until_a_forward_has_worked(opened, kind: str) -> None:
    engine = opened(kind)
    first = engine.user_session()
    given = row_of(first, *TEXT[:20])
    first.close()
    session = engine.user_session()
    row_of(session, *TEXT[:20])
    session.adopt_given(20, given)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, LlamaEngine, "_record", 0)
        with pytest.raises(Injected):
            row_of(session, *TEXT[19:25])
    with pytest.raises(ControllerError, match="n_vocab|vocabulary|token"):
        row_of(session, TEXT[19], 10**6)
    assert session.length == 19 and session.given is not None
    assert (row_of(session, TEXT[19]) == given).all() and session.length == 20
    check(opened, kind, row_of(session, TEXT[20]), TEXT[:21])
    engine.close()


@pytest.mark.parametrize("given", [False, True])
def test_a_sequence_that_nothing_brings_back_is_refused_until_it_is_taken_over_anew(opened, given: bool) -> None:
    """Without checkpoints a recurrent sequence is fed again from its start; what the library has fed isn't known."""
    engine = opened("lfm2", checkpoints=False)
    own, users = engine.session(), engine.user_session()
    for session in (own, users):
        row_of(session, *TEXT[:10])
    users.adopt_given(10, np.zeros(engine.context.vocabulary, np.float32)) if given else users.adopt(10)
    for session, length, pending in ((own, 10, TEXT[10:11]), (users, 0, TEXT[9:11] if given else TEXT[10:11])):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, LlamaEngine, "_record", 0)
            with pytest.raises(Injected):
                row_of(session, *pending)
        assert session.length == length
    check(opened, "lfm2", row_of(own, TEXT[10]), TEXT[:11])
    with pytest.raises(RuntimeError, match="can't be brought back"):
        row_of(users, TEXT[10])
    assert users.adopt(10) == 0
    check(opened, "lfm2", row_of(users, *TEXT[:11]), TEXT[:11])
    engine.close()


def test_a_checkpoint_that_finds_no_sequence_leaves_the_one_before_it(opened) -> None:
    engine = opened("lfm2", batch=2)
    session = engine.session()
    row_of(session, *TEXT[:9])
    session.checkpoint()
    row_of(session, TEXT[9])
    fork = session.fork()
    session.checkpoint()
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, Sequences, "take", 0)
        with pytest.raises(Injected):
            row_of(session, TEXT[10])
    for one in (session, fork):
        one.rollback(1)
        check(opened, "lfm2", row_of(one, 3), [*TEXT[:9], 3])
    engine.close()
