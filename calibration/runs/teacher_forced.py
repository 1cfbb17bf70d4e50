"""Rows of a model along a text that is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reasonctl.backends.model import Model
from reasonctl.controller import ROOT, Decode, Draft
from reasonctl.controller.core.decode import Floats

CHUNK = 32


def rows(model: Model, prompt: Sequence[int], text: Sequence[int]) -> Iterator[Floats]:
    """The logits before each token of `text`, teacher-forced: chunks of it go as accepted chain drafts."""
    session, pending = model.engine.session(), list(prompt)
    for start in range(0, len(text), CHUNK):
        chunk = list(text[start : start + CHUNK])
        inner = chunk[:-1]
        (step,) = model.engine.forward((Decode(session, pending, Draft.chain(inner)),))
        for node in range(ROOT, len(inner)):
            yield step.logits(node).copy()
        session.keep(range(len(inner)))
        pending = chunk[-1:]
    session.close()


LONGEST_DRAFT = 256


class Written(NamedTuple):
    """A right run as tokens; those from `start` on are the model's."""

    tokens: list[int]
    start: int


class Rows(NamedTuple):
    """The rows that predict a run's tokens. hidden: (n, width). logits: (n, vocabulary). labels: (n,)."""

    hidden: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def teacher_forced(model: Model, run: Written) -> Rows:
    """The frozen model's rows on a run's own tokens, read as a verified draft: few forwards, on any backend."""
    layer, at, pending = model.depth - 1, run.start, run.tokens[: run.start]
    longest = LONGEST_DRAFT if model.can.branches else 0
    hidden, logits = [], []
    session = model.engine.session()
    try:
        while at < len(run.tokens):
            drafted = run.tokens[at : min(at + longest, len(run.tokens) - 1)]
            (step,) = model.engine.forward((Decode(session, pending, Draft.chain(drafted), (layer,)),))
            for node in range(-1, len(drafted)):
                logits.append(np.array(step.logits(node), dtype=np.float32))
                hidden.append(np.array(step.hidden(node, layer), dtype=np.float32))
            session.keep(range(len(drafted)))
            at += len(drafted) + 1
            pending = run.tokens[at - 1 : at]
    finally:
        session.close()
    return Rows(np.stack(hidden), np.stack(logits), np.array(run.tokens[run.start :], dtype=np.int64))
