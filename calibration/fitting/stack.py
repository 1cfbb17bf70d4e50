"""Fitting the stack: which cues deserve a trial, and how the signals are weighed with and without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from reasonctl.probes.signals import Observation, Probe, Stack, cheap_features, full_features

from .probe import FOLDS, probe_of

SURE = 0.05
"""Share of right cues below the band of doubt, and of wrong cues above it."""
LEAST = 40
"""Cues of doubt that a second regression needs; with fewer the stack runs no trials."""

Array = npt.NDArray[Any]


class Stacked(NamedTuple):
    """A fitted stack."""

    stack: Stack
    """Refitted on everything."""
    held_out: npt.NDArray[np.float64]
    """Shape (cues,): scores by folds that never saw the problem."""


def fit_stack(runs: Sequence[Sequence[Observation]], labels: Array, *, seed: int) -> Stacked | None:
    """Fit the stack's two regressions and its band of doubt.

    The band runs from the SURE quantile of the right cues' `p_settled` to the 1 - SURE quantile of the wrong cues':
    outside it a trial would rarely change the decision. Where the probe leaves no doubt the band is empty, and no trial
    is ever run. Weights are not balanced: scores are probabilities.

    Args:
        runs: The observations of every run; their `p_settled` are held-out scores.
        labels: Whether an exit at each cue would be right. Shape (cues,), over all runs.
        seed: Of the folds.

    Returns:
        The stack and its held-out scores. None: some fold holds one label only.
    """
    y = np.asarray(labels, dtype=bool)
    p_settled = np.array([observation.p_settled for observations in runs for observation in observations])
    low, high = float(np.quantile(p_settled[y], SURE)), float(np.quantile(p_settled[~y], 1 - SURE))
    doubt = (p_settled >= low) & (p_settled <= high)
    if doubt.sum() < LEAST or len(np.unique(y[doubt])) < 2:
        low, high, doubt = 1.0, 0.0, np.zeros_like(doubt)
    untried, full = _matrices(runs, lambda observation: low <= observation.p_settled <= high)
    groups = np.repeat(np.arange(len(runs)), [len(observations) for observations in runs])
    held_out = np.full(len(y), np.nan)
    with threadpool_limits(limits=1):
        splitter = GroupKFold(n_splits=min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=seed)
        for train, test in splitter.split(untried, y, groups):
            part = _fit(untried, full, y, doubt, train)
            if part is None:
                return None
            held_out[test] = part[0].scores(untried[test])
            doubtful = test[doubt[test]]
            held_out[doubtful] = part[1].scores(full[doubtful])
        whole = _fit(untried, full, y, doubt, np.arange(len(y)))
    return None if whole is None else Stacked(Stack(low, high, *whole), held_out)


def _matrices(runs: Sequence[Sequence[Observation]], tried: Callable[[Observation], bool]) -> tuple[Array, Array]:
    """Features of every cue: without trials, shape (cues, 3), and with the trials of the `tried` cues, (cues, 6)."""
    untried, full = [], []
    for observations in runs:
        seen: list[Observation] = []
        for observation in observations:
            seen.append(observation if tried(observation) else replace(observation, answer=None, logprobs=()))
            untried.append(cheap_features(seen))
            full.append(full_features(seen))
    return np.array(untried), np.array(full)


def _fit(untried: Array, full: Array, y: Array, doubt: Array, rows: Array) -> tuple[Probe, Probe] | None:
    """Both regressions on these rows; None if there is one label only. Without doubt the second one is never used."""
    doubtful = rows[doubt[rows]]
    if len(np.unique(y[rows])) < 2 or (doubt.any() and len(np.unique(y[doubtful])) < 2):
        return None
    pair = []
    for x, chosen in ((untried, rows), (full, doubtful if len(doubtful) else rows)):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        pipeline.fit(x[chosen], y[chosen])
        pair.append(probe_of(pipeline))
    return pair[0], pair[1]
