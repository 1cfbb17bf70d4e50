"""Recorded runs as arrays, and the truncated answers among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from reasonctl.probes.risk import Bools, Mode

from .records import CueRecord, RunRecord

TEXT_FEATURES = 6
"""Numbers a cue that `text_features` gives."""
ANSWERS_TRUNCATED = "answers_cut"
"""Name of `share_truncated` in a card's report."""


def share_truncated(records: Sequence[RunRecord], limit: int) -> float:
    """Share of the tried answers that were cut at their limit, so that nobody knows how long they would have been.

    Args:
        records: The runs.
        limit: Most tokens of a trial answer. Of runs from before `CueRecord.complete`, answers that fill it count.
    """
    tried = [cue for record in records for cue in record.cues if cue.labelled]
    cut = sum(len(cue.logprobs) >= limit if cue.complete is None else not cue.complete for cue in tried)
    return cut / len(tried) if tried else 0.0


def truncation_note(share: float, limit: int) -> str | None:
    """What truncated answers mean for the numbers that are computed from them.

    Args:
        share: `share_truncated`.
        limit: Most tokens of a trial answer.

    Returns:
        A message for the user. None: no answer was truncated.
    """
    if not share:
        return None
    return (
        f"{share:.1%} of the tried answers were truncated at {limit} tokens. They count as wrong, since a deployed "
        "exit writes on (older runs: as what they say up to there), and it saves less than is counted here. Measure it "
        f"with ctl eval, or try longer answers: --answer-tokens {4 * limit}"
    )


@dataclass(frozen=True, eq=False)
class RunArrays:
    """Collected runs as arrays."""

    records: Sequence[RunRecord]
    """The runs themselves."""
    offsets: npt.NDArray[np.int64]
    """Shape (runs + 1,): the cues of run i are offsets[i] : offsets[i + 1]."""
    features: npt.NDArray[np.float32]
    """Shape (cues, width): the hidden states."""
    text: npt.NDArray[np.float64]
    """Shape (cues, 6): `text_features`, which a rule without hidden states can use."""

    @cached_property
    def cues(self) -> list[CueRecord]:
        """The cues of all runs, in order."""
        return [cue for record in self.records for cue in record.cues]

    @cached_property
    def problems(self) -> npt.NDArray[np.int64]:
        """Shape (cues,): the problem of every cue's run."""
        per_run = np.array([record.problem for record in self.records], dtype=np.int64)
        return np.repeat(per_run, np.diff(self.offsets))

    @cached_property
    def labelled(self) -> Bools:
        """Shape (cues,): whether an exit was tried at each cue."""
        return np.array([cue.labelled for cue in self.cues], dtype=np.bool_)

    def labels(self, mode: Mode) -> Bools:
        """Shape (cues,): whether an exit at each cue would be right; in `disagree`, as the full run answers.

        Where no exit was tried they mean nothing: see `labelled`.
        """
        return np.array([cue.same if mode == "disagree" else cue.right for cue in self.cues], dtype=np.bool_)


def to_arrays(records: Sequence[RunRecord]) -> RunArrays:
    """The runs as arrays."""
    lengths = [len(record.cues) for record in records]
    features = [cue.state for record in records for cue in record.cues]
    text = [row for record in records for row in text_features(record.cues)]
    return RunArrays(
        records,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.stack(features) if features else np.zeros((0, 0), np.float32),
        np.array(text, dtype=np.float64).reshape(len(features), TEXT_FEATURES),
    )


def text_features(cues: Sequence[CueRecord]) -> list[list[float]]:
    """What the text of a run says at each of its cues.

    Returns:
        Six numbers per cue, about the last number written before it. In this order: the logarithm of 1 + tokens so
        far; 1 if the number is the one at the cue before, else 0; how many cues in a row it has stayed; at how many
        cues so far it was the last one; how many different numbers were the last one so far; the cue's index.
    """
    rows: list[list[float]] = []
    values: list[str] = []
    standing = 0
    for index, cue in enumerate(cues):
        repeats = bool(values) and values[-1] == cue.value
        standing = standing + 1 if repeats else 0
        values.append(cue.value)
        rows.append(
            [
                float(np.log1p(cue.position)),
                float(repeats),
                float(standing),
                float(values.count(cue.value)),
                float(len(set(values))),
                float(index),
            ]
        )
    return rows
