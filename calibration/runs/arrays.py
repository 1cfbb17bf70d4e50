"""Recorded runs as arrays, and the truncated answers among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .run_file import unpack

TEXT_FEATURES = 6
ANSWERS_CUT = "answers_cut"
"""Name of `share_cut` in a card's report."""


def share_cut(records: Sequence[dict[str, Any]], limit: int) -> float:
    """Share of the tried answers that filled their limit, so that nobody knows how long they would have been."""
    lengths = [len(cue["logprobs"]) for record in records for cue in record["cues"]]
    return sum(length >= limit for length in lengths) / len(lengths) if lengths else 0.0


def cut_told(share: float, limit: int) -> str | None:
    """What answers that were cut mean for everything counted from them; None if there are none."""
    if not share:
        return None
    return (
        f"{share:.1%} of the tried answers were cut at {limit} tokens. They were judged by what they say up to there; "
        "a deployed exit writes on to its own end, so it saves less than is counted here. Measure it with ctl eval, "
        f"or try longer answers: --answer-tokens {4 * limit}"
    )


@dataclass(frozen=True)
class RunArrays:
    """Collected runs as arrays; cues of run i are offsets[i] : offsets[i + 1].

    features: (cues, width) hidden states; text: (cues, 6) what a rule without hidden states could use.
    """

    records: list[dict[str, Any]]
    offsets: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    text: npt.NDArray[np.float64]

    def per_cue(self, name: str) -> list[Any]:
        return [cue[name] for record in self.records for cue in record["cues"]]

    def per_run(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]


def cut(records: list[dict[str, Any]]) -> RunArrays:
    """Arrays of some runs."""
    lengths = [len(record["cues"]) for record in records]
    features = [unpack(cue["hidden"]) for record in records for cue in record["cues"]]
    text = [row for record in records for row in text_features(record["cues"])]
    return RunArrays(
        records,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.stack(features) if features else np.zeros((0, 0), np.float32),
        np.array(text, dtype=np.float64).reshape(len(features), TEXT_FEATURES),
    )


def text_features(cues: list[dict[str, Any]]) -> list[list[float]]:
    """Per cue: log tokens so far, whether the last number written is that of the cue before, for how many cues it
    has stood, how many cues hold it, how many different ones there were, and the cue's index."""
    rows: list[list[float]] = []
    values: list[str] = []
    standing = 0
    for index, cue in enumerate(cues):
        value = cue["value"]
        repeats = bool(values) and values[-1] == value
        standing = standing + 1 if repeats else 0
        values.append(value)
        rows.append(
            [
                float(np.log1p(cue["position"])),
                float(repeats),
                float(standing),
                float(values.count(value)),
                float(len(set(values))),
                float(index),
            ]
        )
    return rows
