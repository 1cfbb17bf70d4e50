"""A policy that keeps every row that it reads, and a model of its own that says what the rows should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from llama_cpp import Llama

from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.controller import ROOT, Decode, Draft, Policy, Stateless
from support.gguf_models import make_gguf

BOUND = 5e-4
"""Largest difference of a logit between batches of different shapes; a logit's spread is 0.2 to 3."""
F32 = 0


def open_gguf(folder: Path, name: str, **arguments) -> Llama:
    """A small GGUF on one thread, with windows that forget and keys in float32; it is written where it is missing."""
    path = folder / f"{name}.gguf"
    given = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "n_batch": 64, "swa_full": False, "verbose": False}
    given |= {"type_k": F32, "type_v": F32}
    return Llama(str(path if path.exists() else make_gguf(name, folder)), **given | arguments)


class Fresh:
    """The rows of a text that is fed in one forward."""

    def __init__(self, folder: Path, name: str) -> None:
        self.engine = LlamaEngine(open_gguf(folder, name, n_batch=512), hidden=False)

    def rows(self, tokens: list[int]) -> np.ndarray:
        """Shape (tokens, vocabulary)."""
        session = self.engine.session()
        (step,) = self.engine.forward((Decode(session, tokens[:1], Draft.chain(tokens[1:])),))
        found = np.stack([step.logits(node).copy() for node in range(ROOT, len(tokens) - 1)])
        session.close()
        return found

    def largest_difference(self, recorded: list[tuple[list[int], np.ndarray]]) -> float:
        """Over all recorded rows, from those of the same text."""
        worst, known = 0.0, dict[tuple[int, ...], np.ndarray]()
        for tokens, _ in sorted(recorded, key=lambda one: -len(one[0])):
            if tuple(tokens) not in known:
                rows = self.rows(tokens)
                known |= {tuple(tokens[: i + 1]): row for i, row in enumerate(rows)}
        for tokens, row in recorded:
            worst = max(worst, float(np.abs(row - known[tuple(tokens)]).max()))
        return worst


class Recording(Policy):
    """Writes a given text while thinking, then the likeliest tokens; keeps the rows that it reads."""

    def __init__(self, script: list[int]) -> None:
        self.script = script
        self.rows: list[tuple[list[int], np.ndarray]] = []

    def start(self):
        return 0

    def step(self, state, row):
        self.rows.append((list(row.tokens), np.array(row.logits, np.float32)))
        if row.phase == "answer" or state >= len(self.script):
            return state, int(np.argmax(row.logits))
        return state + 1, self.script[state]


class Foresight(Stateless):
    """Drafts two tokens of a script and a wrong one, and what is always wrong where the script is over."""

    def __init__(self, script: list[int]) -> None:
        self.script = script

    def propose(self, tokens, room):
        first = next((i for i in range(len(self.script)) if tokens[-2:] == self.script[i : i + 2]), None)
        right = [] if first is None else self.script[first + 2 : first + 4]
        return Draft.chain([*right, 0, 0][: min(room, 3)])
        yield
