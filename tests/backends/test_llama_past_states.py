"""Rejected drafts that are cut off a recurrent state: every row is that of a fresh decode, whatever came between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp as C

from reasonctl.backends.attach import attach
from reasonctl.backends.llama import cache_kind, engine, native
from reasonctl.backends.llama.checkpointed import CheckpointSession, RecurrentSession
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.controller import ROOT, Controller, Decode, Draft, PromptLookup
from support.gguf_models import RECURRENT, WINDOWED
from support.recorded_rows import BOUND, open_gguf

CAN = ("lfm2", "qwen35", "nemotron_h")
"""Architectures whose past states llama.cpp keeps; it gives 0 of them to the others."""
EACH = [pytest.param(name, marks=() if name == "lfm2" else pytest.mark.slow) for name in CAN]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


class Walk:
    """Random drafts, plain steps, checkpoints, rollbacks and forks over the sessions of one engine."""

    def __init__(self, folder: Path, name: str, seed: int, *, batch: int = 1, **arguments: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.fresh = LlamaEngine(open_gguf(folder, name), hidden=False)
        self.engine = LlamaEngine(open_gguf(folder, name, **arguments), hidden=False, batch=batch, drafted=4)
        self.live = [(self.engine.session(), list[int]())]
        self.cuts = self.worst = 0.0

    def tokens(self, least: int, most: int) -> list[int]:
        return self.rng.integers(4, 480, self.rng.integers(least, most + 1)).tolist()

    def after(self, tokens: list[int]) -> np.ndarray:
        session = self.fresh.session()
        (step,) = self.fresh.forward((Decode(session, tokens),))
        row = step.logits(ROOT).copy()
        session.close()
        return row

    def go(self, steps: int) -> Walk:
        for _ in range(steps):
            session, text = self.live[self.rng.integers(len(self.live))]
            kind = self.rng.choice(["draft"] * 8 + ["plain"] * 2 + ["checkpoint"] * 2 + ["back", "fork"])
            if kind in ("draft", "plain"):
                self.feed(session, text, kind == "draft")
            elif kind == "checkpoint":
                session.checkpoint()
            elif kind == "back":
                n = int(self.rng.integers(0, min(4, session.length - session.least) + 1))
                session.rollback(n)
                del text[len(text) - n :]
            elif len(self.live) < self.engine.most_sessions:
                self.live.append((session.fork(), list(text)))
            else:
                self.live.pop()[0].close()
        return self

    def feed(self, session: CheckpointSession, text: list[int], drafts: bool) -> None:
        """Feed tokens and verify a draft; the last pending row and the last accepted one are compared."""
        pending, draft = self.tokens(1, 2), self.tokens(1, 6) if drafts else []
        (step,) = self.engine.forward((Decode(session, pending, Draft.chain(draft)),))
        kept = int(self.rng.integers(0, len(draft) + 1))
        rows = [step.logits(node).copy() for node in (ROOT, kept - 1)]
        session.keep(range(kept)) if draft else None
        text += pending
        for row, tokens in zip(rows, ([], draft[:kept]), strict=True):
            self.worst = max(self.worst, float(np.abs(row - self.after(text + tokens)).max()))
        text += draft[:kept]
        self.cuts += kept < len(draft) and not session.owed


@pytest.mark.parametrize("ubatch", [64, 12])
@pytest.mark.parametrize("name", EACH)
def test_every_row_after_a_cut_is_that_of_a_fresh_decode(folder, name, ubatch):
    walk = Walk(folder, name, seed=ubatch, n_ubatch=ubatch).go(40)
    assert walk.engine.cuts == 4 and walk.cuts > 8
    assert walk.worst <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", CAN)
def test_long_walks_too(folder, name, seed):
    assert Walk(folder, name, seed, n_ctx=1024, n_batch=(64, 40)[seed % 2]).go(200).worst <= BOUND


def copy_what_was_cut(monkeypatch):
    def ready(self, draft):
        if self._rejected:
            self.sequences.remove(self.id, self.length)
        CheckpointSession.ready(self, draft)

    monkeypatch.setattr(RecurrentSession, "ready", ready)


def cut_nothing(monkeypatch):
    monkeypatch.setattr(RecurrentSession, "ready", lambda self, draft: None)


@pytest.mark.parametrize("broken", [copy_what_was_cut, cut_nothing])
def test_a_state_that_is_wrong_is_found(folder, monkeypatch, broken):
    """Each condition under which llama.cpp's cut is right is needed: without one, rows are wrong or refused."""
    broken(monkeypatch)
    with pytest.raises((RuntimeError, AssertionError)):
        assert Walk(folder, "lfm2", 10).go(40).worst <= 100 * BOUND


def shared(folder, seed):
    """The largest difference from fresh rows where five sequences verify drafts in common forwards."""
    walk = Walk(folder, "lfm2", seed, batch=5, n_ctx=1024, n_ubatch=12)
    live = [(walk.engine.session(), list[int]()) for _ in range(5)]
    for _ in range(20):
        chosen = [one for one in live if walk.rng.random() < 0.7] or live
        drafts = [walk.tokens(1, 4) for _ in chosen]
        fed = [walk.tokens(1, 3) for _ in chosen]
        requests = [
            Decode(session, tokens, Draft.chain(draft))
            for (session, _), tokens, draft in zip(chosen, fed, drafts, strict=True)
        ]
        rows = [step.logits(ROOT).copy() for step in walk.engine.forward(requests)]
        for (session, text), tokens, draft, row in zip(chosen, fed, drafts, rows, strict=True):
            text += tokens
            walk.worst = max(walk.worst, float(np.abs(row - walk.after(text)).max()))
            kept = int(walk.rng.integers(0, len(draft) + 1))
            session.keep(range(kept))
            text += draft[:kept]
    return walk.worst


def test_a_decode_of_several_sequences_moves_states_without_their_past(folder, monkeypatch):
    """Why contexts for batches keep none: they are right without, and wrong with them."""
    assert shared(folder, 0) <= BOUND

    def context(llm, batch, checkpoints, drafted, callback):
        return native.Context(llm, batch, checkpoints, 4, callback)

    monkeypatch.setattr(engine, "Context", context)
    assert shared(folder, 0) > 100 * BOUND


def test_a_whole_decode_that_is_taken_back_is_wrong(folder):
    """Why a rollback over the last pending token restores its checkpoint: llama.cpp says that it has gone back."""
    walk = Walk(folder, "lfm2", 0)
    session, text = walk.live[0][0], walk.tokens(9, 9)
    walk.engine.forward((Decode(session, text),))
    walk.engine.forward((Decode(session, [5, 6]),))
    assert session.sequences.remove(session.id, len(text))  # the whole of the last decode
    session.length = session.reach = len(text)
    (step,) = walk.engine.forward((Decode(session, [7]),))
    assert np.abs(step.logits(ROOT) - walk.after([*text, 7])).max() > 100 * BOUND


@pytest.mark.parametrize("name", [*RECURRENT[:4], *WINDOWED[:1]])
def test_an_engine_says_how_much_it_can_cut(folder, name):
    def cuts(**arguments):
        given = {key: arguments.pop(key) for key in ("batch", "drafted") if key in arguments}
        engine = LlamaEngine(open_gguf(folder, name, **arguments), hidden=False, **({"drafted": 3} | given))
        found = engine.cuts
        engine.close()
        return found

    if name in WINDOWED:
        assert cuts() == cuts(drafted=0) == 63
        return
    can = name in CAN
    assert cuts() == (3 if can else 0)
    assert cuts(drafted=0) == cuts(batch=2) == 0
    assert cuts(drafted=100) == (cache_kind.MOST_CUTS if can else 0)
    assert cuts(n_ubatch=4) == (2 if can else 0)  # one more would abort the process
    assert cuts(n_ubatch=1) == 0


def test_past_states_are_counted_and_kept_to_free_memory(folder, monkeypatch):
    def opened():
        engine = LlamaEngine(open_gguf(folder, "lfm2"), hidden=False, drafted=6)
        session = engine.session()
        engine.forward((Decode(session, [5, 6, 7]),))
        return engine.cuts, engine.added_bytes, engine.context.sequences, session.sequences.state_bytes

    many = opened()
    monkeypatch.setattr(cache_kind, "free_memory", lambda: 100_000)
    few = opened()
    assert many[0] == 6 and 0 < few[0] < 6
    assert many[1] - few[1] == many[2] * (6 - few[0]) * many[3]
    monkeypatch.setattr(cache_kind, "free_memory", lambda: 0)
    assert opened()[0] == 0


def test_windows_are_cut_and_nothing_is_fed_again(folder):
    """So plans price them like caches that keep every token."""
    walk = Walk(folder, "gemma3", 1)
    session, text = walk.live[0]
    for _ in range(30):
        walk.feed(session, text, drafts=True)
        assert not session.owed
    assert walk.cuts > 15 and walk.worst <= BOUND


def test_an_attached_model_keeps_as_many_states_as_its_drafts_need(folder):
    for controller, expected in ((Controller(drafter=PromptLookup(size=3)), 3), (Controller(), 0)):
        llm = open_gguf(folder, "lfm2")
        with attach(llm, controller):
            assert C.llama_n_rs_seq(llm.ctx) == expected
        assert C.llama_n_rs_seq(llm.ctx) == 0
