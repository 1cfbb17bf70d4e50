"""Fitting a probe: a scikit-learn pipeline chosen by cross-validation over whole problems, handed on as arrays.

Owns the choice of model and its report; thresholds are chosen in probes/risk/.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from reasonctl.controller import ControllerError
from reasonctl.probes.files import Scalar
from reasonctl.probes.signals import Probe

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths C of the logistic regression's penalty, strongest first: ties go to the simpler model."""
HIDDEN = (16,)
MLP_MARGIN = 0.01
"""AUC by which the MLP must beat the logistic regression to be worth its weights."""
FOLDS = 5

Array = npt.NDArray[Any]
Fold = tuple[Array, Array]
"""Indices to fit on, and to score."""


class Fitted(NamedTuple):
    """A fitted probe."""

    probe: Probe
    """Refitted on everything."""
    report: dict[str, Scalar]
    """The figures of the fit, for the card."""
    held_out: npt.NDArray[np.float64]
    """Shape (n,): scores by models that never saw the problem.

    Take the grid of thresholds from these: the probe's scores of its own training cues are too sure.
    """


class _Data(NamedTuple):
    """What a probe is fitted on."""

    x: Array
    """Shape (n, d): features."""
    y: Array
    """Shape (n,): labels, 0 or 1."""
    problems: Array
    """Shape (n,): ids."""


class _Rest(NamedTuple):
    """Cues whose labels aren't known."""

    x: Array
    """Shape (m, d): features."""
    problems: Array
    """Shape (m,): ids."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A kind of model, tried by cross-validation."""

    name: str
    """What the report calls it."""
    pipeline: Pipeline
    """A fresh model of the kind, to be fitted on everything."""
    held_out: npt.NDArray[np.float64]
    """Shape (n,): scores by folds that never saw the problem."""
    auc: float
    """Of these scores."""


def fit_probe(features: Array, labels: Array, problems: Array, *, seed: int, known: Array | None = None) -> Fitted:
    """Fit P(label | features): logistic regression, or a small MLP where cross-validation clearly prefers it.

    Classes are balanced by weight. The result depends on the arguments alone (one thread). The report's AUC is of
    held-out scores, and slightly optimistic: it also chose among the candidates.

    Args:
        features: States at cues. Shape (n, d).
        labels: Whether the trial answer was right, or agreed with the full run's. Shape (n,).
        problems: Ids. Shape (n,). A problem is never split over folds, as LYNX's split by cue does (arXiv 2512.05325,
            train_probe.py).
        seed: Of the folds and the MLP.
        known: Whether each label is known; the others are fitted on by none, and scored. Shape (n,). None: all are.

    Raises:
        ControllerError: There are too few data, or broken ones.
    """
    data, rest = _checked(features, labels, problems, known)
    known = np.ones(len(labels), dtype=bool) if known is None else known
    with threadpool_limits(limits=1):
        folds = _folds(data, seed)
        logistic = [_try(f"logistic C={c:g}", partial(_logistic, c), data, folds) for c in PENALTIES]
        best = max(logistic, key=lambda candidate: candidate.auc)
        mlp = _try(f"mlp{HIDDEN}", partial(_mlp, seed), data, folds)
        chosen = mlp if mlp.auc > best.auc + MLP_MARGIN else best
        _fit(chosen.pipeline, data.x, data.y)
        held_out = np.empty(len(known))
        held_out[known], held_out[~known] = chosen.held_out, _scored(chosen, data, folds, rest)
    report: dict[str, Scalar] = {
        "model": chosen.name,
        "auc": chosen.auc,
        "auc_logistic": best.auc,
        "auc_mlp": mlp.auc,
        "folds": len(folds),
        "seed": seed,
        **_counts(data),
    }
    return Fitted(probe_of(chosen.pipeline), report, held_out)


def _counts(data: _Data) -> dict[str, Scalar]:
    """How much was fitted on, for the report."""
    return {"cues": len(data.y), "problems": len(np.unique(data.problems)), "positive": int(data.y.sum())}


def _scored(chosen: _Candidate, data: _Data, folds: list[Fold], rest: _Rest) -> npt.NDArray[np.float64]:
    """Scores of cues without a label, by the fold that never saw their problem; by the whole fit if all folds didn't.

    Args:
        chosen: The kind of model, fitted on everything.
        data: What it was fitted on.
        folds: Of the data.
        rest: The cues to score.
    """
    if not len(rest.x):
        return np.zeros(0)
    scores = chosen.pipeline.predict_proba(rest.x)[:, 1]
    for train, test in folds:
        here = np.isin(rest.problems, data.problems[test])
        if here.any():
            part = clone(chosen.pipeline)
            _fit(part, data.x[train], data.y[train])
            scores[here] = part.predict_proba(rest.x[here])[:, 1]
    return np.asarray(scores)


def _try(name: str, make: Callable[[], Pipeline], data: _Data, folds: list[Fold]) -> _Candidate:
    held_out = _held_out(make(), data.x, data.y, folds)
    return _Candidate(name, make(), held_out, float(roc_auc_score(data.y, held_out)))


def probe_of(pipeline: Pipeline) -> Probe:
    """The arrays of a fitted StandardScaler -> LogisticRegression or relu MLPClassifier, the scaler folded in."""
    scaler, model = (step for _, step in pipeline.steps)
    if hasattr(model, "coefs_"):
        weights, biases = list(model.coefs_), list(model.intercepts_)
    else:
        weights, biases = [model.coef_.T], [model.intercept_]
    scale = weights[0] / scaler.scale_[:, None]
    return Probe((scale, *weights[1:]), (biases[0] - scaler.mean_ @ scale, *biases[1:]))


class _Checked(NamedTuple):
    """Cues with a label, and without."""

    data: _Data
    """What a probe is fitted on."""
    rest: _Rest
    """What it scores only."""


REMEDIES = (
    "harder problems, or more",
    "easier problems, or more, or answers that end sooner (a truncated one counts as wrong: --answer-tokens, --suffix)",
)
"""What to do about too few wrong, and too few right answers."""


def _checked(features: Array, labels: Array, problems: Array, known: Array | None) -> _Checked:
    x = np.asarray(features, dtype=np.float64)
    y = np.asarray(labels).astype(np.int64)
    groups = np.asarray(problems)
    if x.ndim != 2 or y.shape != (len(x),) or groups.shape != (len(x),):
        raise ControllerError(f"features {x.shape}, labels {y.shape} and problems {groups.shape} don't fit together")
    if not np.isfinite(x).all():
        raise ControllerError("some hidden states hold NaN or infinite values; collect them again in float32")
    rest = _Rest(x[:0], groups[:0])
    if known is not None:
        rest = _Rest(x[~known], groups[~known])
        x, y, groups = x[known], y[known], groups[known]
    for label, word in ((1, "right"), (0, "wrong")):
        n = len(np.unique(groups[y == label]))
        if n < 2:
            raise ControllerError(
                f"only {n} of {len(np.unique(groups))} problems have a cue whose forced answer is {word}; a probe "
                f"needs at least 2: collect {REMEDIES[label]}"
            )
    return _Checked(_Data(x, y, groups), rest)


def _folds(data: _Data, seed: int) -> list[Fold]:
    """Folds of whole problems with both labels in every training part."""
    x, y, groups = data
    least = min(len(np.unique(groups[y == label])) for label in (0, 1))
    splitter = StratifiedGroupKFold(n_splits=min(FOLDS, least), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "least populated class": fewer cues than folds is no harm
        folds = [(train, test) for train, test in splitter.split(x, y, groups) if len(test)]
    if any(len(np.unique(y[train])) < 2 for train, _ in folds):
        raise ControllerError(f"{least} problems with the rarer label are too few to split into folds; collect more")
    return folds


def _held_out(pipeline: Pipeline, x: Array, y: Array, folds: list[Fold]) -> npt.NDArray[np.float64]:
    scores = np.full(len(y), np.nan)
    for train, test in folds:
        _fit(pipeline, x[train], y[train])
        scores[test] = pipeline.predict_proba(x[test])[:, 1]
    return scores


def _fit(pipeline: Pipeline, x: Array, y: Array) -> None:
    share = y.mean()
    weight = np.where(y == 1, 0.5 / share, 0.5 / (1.0 - share))
    name = pipeline.steps[-1][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of steps is the MLP's early stopping
        warnings.filterwarnings("ignore", message="Got `batch_size`")  # fewer cues than a batch: one batch
        pipeline.fit(x, y, **{f"{name}__sample_weight": weight})


def _logistic(c: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500, tol=1e-6))


def _mlp(seed: int) -> Pipeline:
    """No early stopping: scikit-learn's holds out cues, not problems, and so never stops in time."""
    model = MLPClassifier(HIDDEN, alpha=1.0, max_iter=60, batch_size=256, learning_rate_init=2e-3, random_state=seed)
    return make_pipeline(StandardScaler(), model)
