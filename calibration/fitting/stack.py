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

from reasonctl.probes.signals.observation import Observation
from reasonctl.probes.signals.probe import Probe
from reasonctl.probes.signals.signals import Stack, cheap_features, full_features

from .probe import FOLDS, probe_of

SURE = 0.05
"""Share of right cues below the band of doubt, and of wrong cues above it."""
LEAST = 40
"""Cues of doubt that a second regression needs; with fewer the stack runs no trials."""

Array = npt.NDArray[Any]


class Stacked(NamedTuple):
    """stack: refitted on everything. held_out: (n,) its scores by folds that never saw the problem."""

    stack: Stack
    held_out: npt.NDArray[np.float64]


def fit_stack(runs: Sequence[Sequence[Observation]], labels: Array, *, seed: int) -> Stacked | None:
    """Fit on the looks of every run, whose `settled` are held-out scores; labels: (cues,) over all runs.

    None where no fold holds both labels. The band of doubt runs from the SURE quantile of the right cues' `settled` to
    the 1 - SURE quantile of the wrong cues': outside it a trial would rarely change the decision. It is empty, and no
    trial is ever run, where the probe leaves no doubt. Weights are not balanced: scores are probabilities.
    """
    y = np.asarray(labels, dtype=bool)
    settled = np.array([look.settled for looks in runs for look in looks])
    low, high = float(np.quantile(settled[y], SURE)), float(np.quantile(settled[~y], 1 - SURE))
    doubt = (settled >= low) & (settled <= high)
    if doubt.sum() < LEAST or len(np.unique(y[doubt])) < 2:
        low, high, doubt = 1.0, 0.0, np.zeros_like(doubt)
    cheap, full = _matrices(runs, lambda look: low <= look.settled <= high)
    groups = np.repeat(np.arange(len(runs)), [len(looks) for looks in runs])
    held_out = np.full(len(y), np.nan)
    with threadpool_limits(limits=1):
        splitter = GroupKFold(n_splits=min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=seed)
        for train, test in splitter.split(cheap, y, groups):
            part = _fit(cheap, full, y, doubt, train)
            if part is None:
                return None
            held_out[test] = part[0].scores(cheap[test])
            asked = test[doubt[test]]
            held_out[asked] = part[1].scores(full[asked])
        whole = _fit(cheap, full, y, doubt, np.arange(len(y)))
    return None if whole is None else Stacked(Stack(low, high, *whole), held_out)


def _matrices(runs: Sequence[Sequence[Observation]], asked: Callable[[Observation], bool]) -> tuple[Array, Array]:
    """(cues, 3) and (cues, 6): features of every cue, seen with the trials that were asked for."""
    cheap, full = [], []
    for looks in runs:
        seen: list[Observation] = []
        for look in looks:
            seen.append(look if asked(look) else replace(look, answer=None, logprobs=()))
            cheap.append(cheap_features(seen))
            full.append(full_features(seen))
    return np.array(cheap), np.array(full)


def _fit(cheap: Array, full: Array, y: Array, doubt: Array, rows: Array) -> tuple[Probe, Probe] | None:
    """Both regressions on these rows; None if there is one label only. Without doubt the second one is never asked."""
    asked = rows[doubt[rows]]
    if len(np.unique(y[rows])) < 2 or (doubt.any() and len(np.unique(y[asked])) < 2):
        return None
    pair = []
    for x, chosen in ((cheap, rows), (full, asked if len(asked) else rows)):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        pipeline.fit(x[chosen], y[chosen])
        pair.append(probe_of(pipeline))
    return pair[0], pair[1]
