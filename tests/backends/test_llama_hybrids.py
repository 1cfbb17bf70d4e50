"""Sessions of hybrid and windowed models: after rollbacks, drafts and forks a row is that of a fresh decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.llama.cache_kind import PER_RUN
from reasonctl.backends.llama.checkpointed import RecurrentSession
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.controller import NO_DRAFT, ROOT, ControllerError, Decode, Draft
from support.gguf_models import ARCHITECTURES, HEAD, KV_HEADS, WIDTH, WINDOWED
from support.recorded_rows import BOUND, open_gguf

FEW = ("lfm2", "qwen35", "jamba", "gemma3")
"""For the default tests: convolutions, a delta net, a Mamba among attention, and windows."""
ALL = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in ARCHITECTURES]
RNG = np.random.default_rng(4)
TEXT, WRONG = RNG.integers(4, 480, 60).tolist(), RNG.integers(4, 480, 20).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


class Rows:
    """What a model of its own says after a text that it is fed from the start."""

    def __init__(self, folder: Path, name: str) -> None:
        self.engine = LlamaEngine(open_gguf(folder, name), hidden=False)

    def after(self, tokens):
        session = self.engine.session()
        row = feed(session, tokens)
        session.close()
        return row

    def check(self, row, tokens):
        expected = self.after(tokens)
        assert np.abs(row - expected).max() <= BOUND
        assert np.abs(row - self.after([*tokens[:-1], tokens[-1] ^ 1])).max() > 10 * BOUND  # the check can fail


def feed(session, pending, draft=None):
    """The last pending token's row; the draft's rows are for `keep` only."""
    (step,) = session.engine.forward((Decode(session, pending, draft or Draft()),))
    return step.logits(ROOT).copy()


@pytest.mark.parametrize("name", ALL)
def test_a_rollback_equals_a_fresh_decode(folder, name):
    rows, engine = Rows(folder, name), LlamaEngine(open_gguf(folder, name), hidden=False)
    session = engine.session()
    feed(session, TEXT[:20])
    session.checkpoint()
    for token in WRONG[:5]:
        feed(session, [token])
    session.rollback(5)  # the whole of what was fed since
    rows.check(feed(session, TEXT[20:21]), TEXT[:21])
    session.checkpoint()
    feed(session, [*TEXT[21:23], *WRONG[:3]])
    session.rollback(3)  # a part of one forward, whose beginning is fed again
    session.rollback(1)
    assert session.length == 22
    rows.check(feed(session, TEXT[22:24]), TEXT[:24])
    session.checkpoint()
    feed(session, TEXT[24:25])
    session.checkpoint()
    with pytest.raises(ControllerError, match="can't roll back"):
        session.rollback(2)
    session.close()
    assert len(engine.sequences.free) == engine.context.sequences - 1
    engine.close()


@pytest.mark.parametrize("name", ALL)
def test_what_is_kept_of_a_chain_equals_a_fresh_decode(folder, name):
    rows, engine = Rows(folder, name), LlamaEngine(open_gguf(folder, name), hidden=False)
    session = engine.session()
    feed(session, TEXT[:10])
    at = 10
    for asks, right in ((False, 2), (False, 0), (True, 3), (True, 1), (False, 2), (False, 0), (False, 4)):
        if asks:
            session.checkpoint()
        chain = TEXT[at + 1 : at + 1 + right] + WRONG[: 4 - right]
        feed(session, TEXT[at : at + 1], Draft.chain(chain))
        session.keep(range(right))
        at += 1 + right
        assert session.length == at
    rows.check(feed(session, TEXT[at : at + 1]), TEXT[: at + 1])
    with pytest.raises(ControllerError, match="one branch"):
        feed(session, TEXT[:1], Draft((1, 2), (ROOT, ROOT)))
    engine.close()


@pytest.mark.parametrize("name", ALL)
def test_a_fork_goes_its_own_way_from_the_same_checkpoint(folder, name):
    rows, engine = Rows(folder, name), LlamaEngine(open_gguf(folder, name), hidden=False)
    session = engine.session()
    feed(session, TEXT[:10])
    session.checkpoint()
    feed(session, TEXT[10:13])
    fork = session.fork()
    fork.rollback(2)
    rows.check(feed(fork, WRONG[:3]), TEXT[:11] + WRONG[:3])
    fork.checkpoint()  # a copy of its own; that of the run stays
    feed(fork, WRONG[3:5])
    fork.rollback(1)
    rows.check(feed(fork, WRONG[5:6]), TEXT[:11] + WRONG[:4] + WRONG[5:6])
    session.rollback(1)
    rows.check(feed(session, TEXT[12:14]), TEXT[:14])
    fork.close()
    rows.check(feed(session, TEXT[14:15]), TEXT[:15])
    session.close()
    assert len(engine.sequences.free) == engine.context.sequences - 1
    engine.close()


@pytest.mark.parametrize("name", ALL)
def test_every_block_s_output_is_that_of_its_row(folder, name):
    engine = LlamaEngine(open_gguf(folder, name), hidden=True)
    layers = tuple(range(engine.context.depth))

    def states(session, pending, draft=NO_DRAFT):
        (step,) = engine.forward((Decode(session, pending, draft, layers),))
        return np.stack([[step.hidden(node, layer) for layer in layers] for node in range(ROOT, len(draft))])

    one, other = engine.session(), engine.session()
    alone = np.concatenate([states(one, [token]) for token in TEXT[:8]])
    together = states(other, TEXT[:5], Draft.chain(TEXT[5:8]))
    assert np.abs(together - alone[4:]).max() <= BOUND * max(1, np.abs(alone).max())
    assert np.abs(np.diff(alone, axis=1)).max(axis=-1).min() > 0.01  # no block's output is another's
    engine.close()


def test_a_restored_state_is_what_makes_them_equal(folder, monkeypatch):
    """Without it the rows are wrong by more than the bound: the tests above can fail."""
    monkeypatch.setattr(RecurrentSession, "trim", lambda self: setattr(self, "_stale", False))
    rows, engine = Rows(folder, "lfm2"), LlamaEngine(open_gguf(folder, "lfm2"), hidden=False)
    session = engine.session()
    feed(session, TEXT[:20])
    session.checkpoint()
    feed(session, WRONG[:1])
    with pytest.raises((AssertionError, RuntimeError)):
        session.rollback(1)
        rows.check(feed(session, TEXT[20:21]), TEXT[:21])
    engine.close()


@pytest.mark.parametrize("name", ["lfm2", "gemma3"])
def test_a_forward_that_fails_leaves_every_sequence_as_it_was(folder, name):
    """The first chunk of two prompts is in the cache when the cells run out."""
    rows = Rows(folder, name)
    engine = LlamaEngine(open_gguf(folder, name, n_ctx=256, n_batch=48), hidden=False, batch=3)
    held, one, other = (engine.session() for _ in range(3))
    engine.forward([Decode(held, TEXT * 2), Decode(one, TEXT[:9]), Decode(other, TEXT[:4])])
    one.checkpoint()
    feed(one, WRONG[:2])
    one.rollback(2)
    with pytest.raises(ControllerError, match="no room"):
        engine.forward([Decode(one, TEXT[9:50]), Decode(other, (TEXT * 2)[4:104])])
    assert (one.length, other.length) == (9, 4)
    steps = engine.forward([Decode(one, TEXT[9:20]), Decode(other, TEXT[4:12])])
    found = [step.logits(ROOT).copy() for step in steps]
    rows.check(found[0], TEXT[:20])
    rows.check(found[1], TEXT[:12])
    engine.close()


@pytest.mark.parametrize("name", WINDOWED[:1])
def test_a_checkpoint_keeps_what_a_window_has_left(folder, name):
    """Without one the cells are overwritten; the sequence is fed again from its start then."""
    engine = LlamaEngine(open_gguf(folder, name, n_batch=32), hidden=False)
    rows, session = Rows(folder, name), engine.session()
    text = (TEXT * 8)[:400]
    feed(session, text[:60])
    session.checkpoint()
    feed(session, text[60:])
    session.rollback(339)
    assert session.owed == 1
    rows.check(feed(session, WRONG[:2]), text[:61] + WRONG[:2])
    other = engine.session()
    feed(other, text)
    other.rollback(399)
    assert other.owed == 1
    rows.check(feed(other, WRONG[:2]), text[:1] + WRONG[:2])
    other.rollback(1)
    assert not other.owed  # nothing was overwritten
    rows.check(feed(other, WRONG[2:3]), text[:1] + WRONG[:1] + WRONG[2:3])
    other.close()
    feed(session, text[2:])
    fork = session.fork()  # a cell of two sequences is never overwritten, so the fork takes its own
    whole = text[:61] + WRONG[:2] + text[2:]
    rows.check(feed(fork, WRONG[:9]), whole + WRONG[:9])
    rows.check(feed(session, WRONG[:2]), whole + WRONG[:2])
    engine.close()


def test_a_context_has_the_sequences_that_its_checkpoints_need(folder):
    llm = open_gguf(folder, "qwen35")
    counted = []
    for batch, checkpoints in ((1, False), (1, True), (3, True)):
        engine = LlamaEngine(llm, hidden=False, batch=batch, checkpoints=checkpoints)
        sessions = [engine.session() for _ in range(engine.most_sessions)]
        assert len(sessions) == PER_RUN * batch
        if checkpoints:
            for session in sessions:
                feed(session, TEXT[:3])
                session.checkpoint()
                feed(session, TEXT[3:4])
        else:
            feed(sessions[0], TEXT[:3])
        counted.append((engine.context.sequences, engine.added_bytes))
        engine.close()
    assert [ids for ids, _ in counted] == [3, 6, 14]
    state = 2 * (4 * 16 * 16 + 3 * 128) * 4  # of two blocks: the delta net's matrices and the convolution's inputs
    assert 3 * state <= counted[1][1] - counted[0][1] <= 3 * (state + 4096)
    assert counted[2][1] - counted[1][1] >= 8 * state


def test_the_bytes_of_a_checkpoint_are_known(folder):
    sizes = {}
    for name in ("lfm2", "gemma3"):
        engine = LlamaEngine(open_gguf(folder, name), hidden=False)
        sizes[name] = engine.checkpoint_bytes
        session = engine.session()
        feed(session, TEXT)
        assert sizes[name] == engine.checkpoint_bytes
        assert abs(engine.sequences.state_size(session.id) - sizes[name]) <= sizes[name] // 20
        engine.close()
    assert 0 < sizes["lfm2"] - 2 * 2 * WIDTH * 4 < 512  # two blocks, each with its last two inputs
    keys = 2 * KV_HEADS * HEAD * 4  # and values, of one token
    assert 0 < sizes["gemma3"] - 6 * 24 * keys < 24 * 128 + 512
    assert LlamaEngine(open_gguf(folder, "gemma3", swa_full=True), hidden=False).checkpoint_bytes == 0
