"""`ctl advise draft`: which draft model pays on this machine, from measured acceptance and measured costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from reasonctl.backends import Model, load_model
from reasonctl.controller import Call, Chain, Controller, ControllerError, Greedy, Keys, Policy, Proposal
from reasonctl.controller.core import Floats, softmax, vocabulary_hash
from reasonctl.controller.drafting import best_shape, monotone
from reasonctl.controller.drafting.models import DRAFT_TEMPERATURE
from reasonctl.controller.drafting.planning import SIZES, CostCurve
from reasonctl.controller.sampling import node_tests

from ..evaluation.speed import cost_curve
from ..parallel.run_jobs import ProgressCallback
from ..runs.making import run_once
from ..runs.teacher_forced import forced_rows

RANKS = 8
"""Draws at one position whose acceptance is measured."""
TOKENS = 170
"""Tokens of each text that the target writes, by default."""
LAYERS = 9
"""Most drafted layers of a tree."""
PAYS = 1.03
"""Expected speed-up from which on a draft model is recommended."""


@dataclass(frozen=True)
class DraftAdvice:
    """What one draft model would bring."""

    draft: str
    """Its name."""
    parameters: int
    """Number of its weights."""
    alpha: float
    """Acceptance of one draw: the mean of sum min(P, Q)."""
    error: float
    """Standard error of alpha over texts."""
    acceptance: tuple[float, ...]
    """Of child number k, drawn without replacement."""
    cost: float
    """Seconds of its step over those of the target's."""
    size: int
    """Rows that the best tree verifies."""
    depth: int
    """Drafted layers of the best tree."""
    speed_up: float
    """Expected with the best tree; 1.0: don't draft."""


@dataclass(frozen=True)
class LogLine:
    """alpha = intercept + slope * log10(parameters), by weighted least squares; the form that Scylla fits."""

    intercept: float
    """alpha at one parameter."""
    slope: float
    """alpha per decade."""
    r2: float
    """Weighted share of the variance that the line explains."""
    least: float
    """Parameters of the smallest draft that was measured."""
    most: float
    """Parameters of the largest one."""

    def at(self, parameters: float) -> float:
        """alpha of a draft of so many parameters, clipped to [0, 1).

        Raises:
            ControllerError: The size lies more than a decade outside of what was measured.
        """
        if not self.least / 10 <= parameters <= self.most * 10:
            raise ControllerError(
                f"{parameters:.3g} parameters lie more than a decade outside of {self.least:.3g} to {self.most:.3g}; "
                "measure a draft of that size"
            )
        return min(max(self.intercept + self.slope * math.log10(parameters), 0.0), 1.0 - 1e-9)


def fit_line(sizes: Sequence[float], alphas: Sequence[float], errors: Sequence[float]) -> LogLine | None:
    """None for fewer than three drafts, or for drafts of one size: then the measured points are all there is."""
    x = np.log10(np.asarray(sizes, float))
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    y, w = np.asarray(alphas, float), 1.0 / np.maximum(np.asarray(errors, float), 1e-6) ** 2
    mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
    slope = float((w * (x - mean_x) * (y - mean_y)).sum() / (w * (x - mean_x) ** 2).sum())
    intercept = float(mean_y - slope * mean_x)
    total = (w * (y - mean_y) ** 2).sum()
    r2 = 1.0 - float((w * (y - intercept - slope * x) ** 2).sum() / total) if total > 0 else 1.0
    return LogLine(intercept, slope, r2, float(min(sizes)), float(max(sizes)))


def rank_acceptance(target: Floats, draft: Floats, draws: Sequence[int]) -> list[float]:
    """Probability that draw number k is the accepted one, for draws without replacement in that order.

    Averages the tests' probabilities instead of their outcomes: no noise of its own.
    """
    reach, out = 1.0, []
    for token, left, q in node_tests(target, Proposal(draft, tuple(draws))):
        if token is not None:
            chance = min(1.0, float(left[token] / q[token])) if q[token] > 0 else 0.0
            out.append(reach * chance)
            reach *= 1.0 - chance
    return out


def written(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    most: int,
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """The target's own texts: acceptance is measured on what it writes. `done` is called after each."""
    texts = []
    for i, prompt in enumerate(prompts):
        call = Call(prompt, most, model.eos, Keys(seed=seed, run=i), policy)
        texts.append(run_once(model, Controller(), call)[0].tokens)
        done()
    return texts


@dataclass(frozen=True)
class Acceptance:
    """How often a target accepts what a draft model draws."""

    of_texts: list[float]
    """Mean of sum min(P, Q) over each text's positions."""
    of_ranks: list[float]
    """Probability that draw number k is the accepted one, over all positions."""


def measure_acceptance(
    target: Model,
    draft: Model,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    policy: Chain | None,
    *,
    seed: int,
    done: Callable[[], None],
) -> Acceptance:
    """Both models' distributions at every position of the target's texts; `done` is called after each text.

    policy None: greedy.

    Raises:
        ControllerError: The texts hold no token.
    """
    rng = np.random.default_rng(seed)
    of_texts: list[float] = []
    ranks = np.zeros(RANKS)
    count = 0
    for prompt, text in zip(prompts, texts, strict=True):
        alphas = []
        both = zip(forced_rows(target, prompt, text), forced_rows(draft, prompt, text), strict=True)
        for target_row, draft_row in both:
            alpha, accepted = _at_position(target_row.logits, draft_row.logits, policy, rng)
            alphas.append(alpha)
            ranks[: len(accepted)] += accepted
        count += len(alphas)
        if alphas:
            of_texts.append(float(np.mean(alphas)))
        done()
    if not count:
        raise ControllerError("the target wrote nothing to measure on; give other prompts")
    return Acceptance(of_texts, [float(r) / count for r in ranks])


def _at_position(
    target: Floats, draft: Floats, policy: Chain | None, rng: np.random.Generator
) -> tuple[float, list[float]]:
    """sum min(P, Q), and the probability of each of the first draws to be the accepted one."""
    size = min(len(target), len(draft))
    p = (policy or Greedy()).probs(target[:size])
    if policy is None:
        q = softmax(draft[:size], DRAFT_TEMPERATURE)
        best = np.isin(np.argsort(-q)[:RANKS], np.flatnonzero(p))
        return float(p[int(q.argmax())]), [float(one) for one in best]
    q = policy.probs(draft[:size])
    # An exponential race: the order of a draw without replacement.
    with np.errstate(divide="ignore"):
        keys = np.where(q > 0, np.log(rng.random(size)) / np.maximum(q, 1e-300), -np.inf)
    draws = [int(token) for token in np.argsort(-keys)[:RANKS] if q[token] > 0]
    return float(np.minimum(p, q).sum()), rank_acceptance(p, q, draws)


def standard_error(values: Sequence[float]) -> float:
    """Of their mean; nan for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")


def _advice(draft: Model, measured: Acceptance, curve: CostCurve, own: CostCurve) -> DraftAdvice:
    """The best tree at this acceptance and these costs, the target's and the draft's."""
    acceptance = monotone(measured.of_ranks, [1.0] * RANKS)
    step = own.at(1)
    shape, rate = best_shape(
        acceptance, lambda n: curve.at(n) - (step if n > 1 else 0.0), step, sizes=SIZES, layers=LAYERS
    )
    return DraftAdvice(
        draft=draft.name,
        parameters=draft.parameters,
        alpha=float(np.mean(measured.of_texts)),
        error=standard_error(measured.of_texts),
        acceptance=tuple(acceptance),
        cost=step / curve.at(1),
        size=1 + len(shape.parents),
        depth=shape.depth(),
        speed_up=rate * curve.at(1),
    )


@dataclass(frozen=True)
class DraftReport:
    """What was measured of all drafts."""

    positions: int
    """Tokens of the target's own texts."""
    cost_curve: dict[int, float]
    """Seconds of the target's forward, by its rows."""
    drafts: list[DraftAdvice]
    """Every draft, in the order given."""
    line: LogLine | None
    """Acceptance over sizes. None: there are fewer than three sizes."""
    best: str | None
    """The draft to take. None: don't draft."""
    itself: tuple[str, ...] = ()
    """Drafts that are the target itself, and so never worth drafting with."""

    def to_json(self) -> dict[str, object]:
        """The values of --json."""
        return {
            "positions": self.positions,
            "cost_curve": self.cost_curve,
            "drafts": [asdict(draft) for draft in self.drafts],
            "law": None if self.line is None else asdict(self.line),
            "best": self.best,
            "itself": list(self.itself),
        }


def is_same(draft: Model, target: Model) -> bool:
    """Whether a draft model is the target itself: as costly, whatever the clock says, and so never worth drafting with.

    A quantised copy is another model here.
    """
    return (
        draft.parameters == target.parameters
        and draft.settings == target.settings
        and draft.fingerprint() == target.fingerprint()
    )


def open_drafts(target: Model, names: Sequence[str], threads: int | None) -> list[Model]:
    """The draft models, loaded.

    Raises:
        ControllerError: One can't be loaded, or has other token ids than the target.
    """
    found = []
    for name in names:
        draft = load_model(name, threads=threads, hidden=False)
        if vocabulary_hash(draft.tokenizer) != vocabulary_hash(target.tokenizer):
            raise ControllerError(
                f"{draft.name!r} has other token ids than {target.name!r}; give a model of its family"
            )
        found.append(draft)
    return found


def advise(
    target: Model,
    drafts: Sequence[Model],
    prompts: Sequence[Sequence[int]],
    *,
    policy: Chain | None,
    most: int,
    seed: int,
    progress: ProgressCallback,
) -> DraftReport:
    """Which draft model pays.

    Args:
        target: The model to speed up.
        drafts: Models with its token ids.
        prompts: What the target's texts answer.
        policy: The target's policy, without state. None: greedy.
        most: Tokens of each text.
        seed: Of the draws.
        progress: Called after every text: the target writes each of them, and every draft reads it.

    Returns:
        Everything measured, the line over sizes where there are three, and the best draft (None: don't draft).

    Raises:
        ControllerError: The texts hold no token.
    """
    done = _counting(progress, len(prompts) * (1 + len(drafts)))
    curve = cost_curve(target, prompts[0], contexts=(64,))
    texts = written(target, prompts, policy or Greedy(), most, seed, done)
    found: list[DraftAdvice] = []
    itself: list[str] = []
    for draft in drafts:
        own = cost_curve(draft, prompts[0], contexts=(64,))
        measured = measure_acceptance(target, draft, prompts, texts, policy, seed=seed, done=done)
        found.append(_advice(draft, measured, curve, own))
        if is_same(draft, target):
            itself.append(draft.name)
    return _report(curve, sum(map(len, texts)), found, itself)


def _counting(progress: ProgressCallback, total: int) -> Callable[[], None]:
    """Something to call after each step: progress hears how many are done."""
    progress(0, total)
    steps = itertools.count(1)
    return lambda: progress(next(steps), total)


def _report(curve: CostCurve, positions: int, found: list[DraftAdvice], itself: Sequence[str]) -> DraftReport:
    """With the line over sizes and the best draft."""
    others = [one for one in found if one.draft not in itself and one.speed_up > PAYS]
    best = max(others, key=lambda one: one.speed_up, default=None)
    return DraftReport(
        positions=positions,
        cost_curve=dict(curve.seconds[min(curve.seconds)]),
        drafts=found,
        line=fit_line([a.parameters for a in found], [a.alpha for a in found], [a.error for a in found]),
        best=None if best is None else best.draft,
        itself=tuple(itself),
    )
