"""A model's rows along a text that is given: teacher forcing, in few forwards, on any backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reasonctl.backends import Model
from reasonctl.controller import ROOT, Decode, Draft
from reasonctl.controller.core import Floats

CHUNK = 32
"""Tokens of a text that one forward reads."""
LONGEST_DRAFT = 256
"""Drafted tokens of one forward, where a run's rows are used for training."""


class ForcedRow(NamedTuple):
    """Copies of the row before one token of a given text."""

    logits: Floats
    """Shape (vocabulary,)."""
    hidden: Floats | None
    """Shape (width,): the output of the block that was asked for. None: none was."""


def forced_rows(
    model: Model, prompt: Sequence[int], text: Sequence[int], *, layer: int | None = None, chunk: int = CHUNK
) -> Iterator[ForcedRow]:
    """The row before each token of a text, as if the model had written it.

    The text is read in chunks, each as a draft that is accepted whole. Where the session's cache takes no draft, the
    tokens are fed one by one.

    Args:
        model: The model that reads.
        prompt: Tokens before the text; at least one.
        text: Tokens whose rows are wanted.
        layer: The block whose outputs are wanted too. None: none.
        chunk: Most tokens of the text in one forward.
    """
    layers, pending = () if layer is None else (layer,), list(prompt)
    size = chunk if model.can.branches else 1
    session = model.engine.session()
    try:
        for start in range(0, len(text), size):
            part = list(text[start : start + size])
            drafted = part[:-1]
            (step,) = model.engine.forward((Decode(session, pending, Draft.chain(drafted), layers),))
            for node in range(ROOT, len(drafted)):
                hidden = None if layer is None else step.hidden(node, layer).copy()
                yield ForcedRow(step.logits(node).copy(), hidden)
            session.keep(range(len(drafted)))
            pending = part[-1:]
    finally:
        session.close()


class Written(NamedTuple):
    """A right run as tokens."""

    tokens: list[int]
    """The prompt's and the run's."""
    start: int
    """The first of `tokens` that the model wrote."""


class RunRows(NamedTuple):
    """The rows that predict a run's tokens."""

    hidden: npt.NDArray[np.float32]
    """Shape (n, width): the last block's outputs."""
    logits: npt.NDArray[np.float32]
    """Shape (n, vocabulary)."""
    labels: npt.NDArray[np.int64]
    """Shape (n,): the tokens."""


def teacher_forced(model: Model, run: Written) -> RunRows:
    """The rows of the model, unchanged, on a run's own tokens."""
    prompt, text = run.tokens[: run.start], run.tokens[run.start :]
    rows = list(forced_rows(model, prompt, text, layer=model.depth - 1, chunk=LONGEST_DRAFT + 1))
    hidden = [np.asarray(row.hidden, dtype=np.float32) for row in rows]
    logits = [np.asarray(row.logits, dtype=np.float32) for row in rows]
    return RunRows(np.stack(hidden), np.stack(logits), np.array(text, dtype=np.int64))
