"""From a model and a task to a probe file: collect, split by problem, fit, score, and keep the table."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reasonctl.backends.model import Model
from reasonctl.controller import ControllerError
from reasonctl.probes.files.card import Card, origin_of
from reasonctl.probes.files.probe_file import Judged, ProbeFile, save_probe
from reasonctl.probes.risk.give_up import LowerGrid
from reasonctl.probes.risk.threshold import Grid, Mode
from reasonctl.probes.signals.probe import Probe
from reasonctl.probes.signals.signals import SIGNALS, Stack, make_signal

from .collect import ANSWERS_CUT, Cut, cut, settings_of, share_cut
from .cue_sets import choose_cues, with_cues
from .fit import fit_probe
from .problem import Problem
from .recipe import Recipe
from .replay import by_run, judged_table, looks_of, make_table
from .runs import RunFile
from .stacking import fit_stack
from .tasks import Task


@dataclass(frozen=True)
class Plan:
    """A calibration job, checked before any work.

    choose_cues: keep the best of the collected cue sets, by savings at this risk and confidence on the fitting runs.
    """

    recipe: Recipe
    task: Task
    mode: Mode
    n: int
    out: Path
    risk: float = 0.05
    confidence: float | None = 0.9
    choose_cues: bool = False

    def problems(self) -> list[Problem]:
        return self.task.problems(self.n, stream=calibration_stream(self.recipe.seed))

    def run_file(self, model: Model) -> RunFile:
        return RunFile(runs_path(self.out), settings_of(self.recipe, self.task, model, self.n))


def runs_path(probe: Path) -> Path:
    """Where the runs behind a probe file are kept: beside it."""
    return probe.with_name(probe.name + ".runs.jsonl")


def report_path(probe: Path) -> Path:
    """Beside the probe file: P.safetensors has P.html."""
    return probe.with_suffix(".html")


def calibration_stream(seed: int) -> int:
    """Problems for fitting and calibration."""
    return 2 * seed


def evaluation_stream(seed: int) -> int:
    """Problems for evaluation: another stream than any seed's calibration."""
    return 2 * seed + 1


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices for fitting and for calibration, half each, by problem (one run is one problem)."""
    order = random.Random(f"split {seed}").sample(range(n), n)
    return sorted(order[: n // 2]), sorted(order[n // 2 :])


def fit_and_save(plan: Plan, model: Model, records: list[dict[str, Any]], *, force: bool) -> ProbeFile:
    """Fit on one half of the runs, fill the tables from the other, write the probe file."""
    parts = [[records[i] for i in part] for part in split(len(records), plan.recipe.seed)]
    if plan.choose_cues:
        most = plan.recipe.max_cues
        cues, _ = choose_cues(parts[0], plan.mode, plan.risk, plan.confidence, seed=plan.recipe.seed, max_cues=most)
        plan = replace(plan, recipe=replace(plan.recipe, cues=cues))
        parts = [with_cues(part, cues, most) for part in parts]
    _check_cues(plan, cut(parts[0]))
    domains = tuple(sorted({record["domain"] for record in records}))
    fitted = fit_signals(cut(parts[0]), cut(parts[1]), plan.recipe.cues, domains, plan.mode, seed=plan.recipe.seed)
    runs = {"fit": len(parts[0]), "calibrate": len(parts[1])}
    report = {**fitted.report, ANSWERS_CUT: share_cut([*parts[0], *parts[1]], plan.recipe.answer_tokens)}
    content = ProbeFile(
        fitted.probe, fitted.judged["hidden"].grid, fitted.judged["hidden"].table,
        _card(plan, model, runs, domains, report),
        {name: judged for name, judged in fitted.judged.items() if name != "hidden"}, fitted.stack, fitted.lower,
    )  # fmt: skip
    save_probe(plan.out, content, force=force)
    return content


def made_by(plan: Plan, model: Model, card: Card) -> bool:
    """Whether a probe with this card is what the plan makes, as far as its settings tell."""
    recipe = replace(plan.recipe, cues=card.cues) if plan.choose_cues else plan.recipe
    mine = _card(replace(plan, recipe=recipe), model, card.runs, card.domains, card.report)
    return replace(mine, versions=card.versions) == card and sum(card.runs.values()) == plan.n


class FittedSignals(NamedTuple):
    """The probe, the stack (None: it could not be fitted), and every signal's grid and calibration table.

    lower: curves for giving up, by the probe's scores; None without gold answers.
    """

    probe: Probe
    stack: Stack | None
    lower: LowerGrid | None
    judged: dict[str, Judged]
    report: dict[str, Any]


def fit_signals(
    fitting: Cut, calibrating: Cut, cues: Sequence[str], domains: Sequence[str], mode: Mode, *, seed: int
) -> FittedSignals:
    """Every signal on the same two splits: fitted, and given its grid, on one; its table filled from the other."""
    labels = np.array(fitting.per_cue("same" if mode == "disagree" else "right"))
    problems = np.repeat(fitting.per_run("problem"), np.diff(fitting.offsets))
    probe, report, held_out = fit_probe(fitting.features, labels, problems, seed=seed)
    own = make_table(fitting, held_out, cues, domains)
    table = make_table(calibrating, scores_of(probe, calibrating), cues, domains)
    judged = {"hidden": Judged(Grid.of(own), table)}
    for name in SIGNALS[1:-1]:
        signal = make_signal(name, None)
        grid = Grid.of(judged_table(signal, fitting, own))
        judged[name] = Judged(grid, judged_table(signal, calibrating, table))
    looks = [looks_of(record, part) for record, part in zip(fitting.records, by_run(own, held_out), strict=True)]
    stacked = fit_stack(looks, labels, seed=seed)
    if stacked is not None:
        grid = Grid.of(own.with_scores(stacked.held_out))
        judged["stack"] = Judged(grid, judged_table(stacked.stack, calibrating, table))
    lower = LowerGrid.of(own) if own.graded else None
    return FittedSignals(probe, stacked.stack if stacked else None, lower, judged, report)


def scores_of(probe: Probe, runs: Cut) -> Any:
    """Shape (cues,): the probe's probabilities at the cues of some runs."""
    return probe.scores(runs.features) if len(runs.features) else np.zeros(0)


def _check_cues(plan: Plan, fitting: Cut) -> None:
    if fitting.offsets[-1] == 0:
        raise ControllerError(
            f"no cue ({', '.join(plan.recipe.cues)}) was met while thinking in {len(fitting.records)} runs, so "
            "nothing can be fitted; name cues that this model writes with --cues (words, 'paragraph', 'sentence')"
        )


def _card(plan: Plan, model: Model, runs: dict[str, int], domains: tuple[str, ...], report: dict[str, Any]) -> Card:
    recipe = plan.recipe
    return Card(
        **origin_of(model),
        layers=recipe.layers,
        cues=recipe.cues,
        markers=recipe.markers,
        suffix=recipe.suffix,
        max_cues=recipe.max_cues,
        sampler=sampler_of(recipe),
        max_new_tokens=recipe.max_new_tokens,
        tasks=plan.task.name,
        seeds={"seed": recipe.seed},
        runs=runs,
        grader=None if plan.mode == "disagree" else plan.task.grader.name,
        mode=plan.mode,
        domains=domains,
        versions={name: version(name) for name in ("reasonctl", "scikit-learn", "numpy")},
        report=report,
    )


def sampler_of(recipe: Recipe) -> dict[str, Any]:
    """What the card says of the sampling law; drafting doesn't change it."""
    return {"policy": recipe.policy, "answer_tokens": recipe.answer_tokens}
