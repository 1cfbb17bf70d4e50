"""From a model and a task to a probe file: collect, split by problem, fit, score, and keep the table."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.model import Model
from ..controller import ControllerError, Cues
from ..probes.file import Card, ProbeFile, save_probe, template_hash
from ..probes.probe import Probe
from ..probes.risk import Grid, Mode
from ..probes.table import Table
from .collect import Cut, cut, settings_of
from .fit import fit_probe
from .problem import Problem
from .runs import RunFile
from .tasks import Task
from .worker import Recipe

LAYERS = (1 / 3, 2 / 3, 1.0)
"""Fractions of depth that a probe reads; fewer where a shallow model makes them equal."""


@dataclass(frozen=True)
class Plan:
    """A calibration job, checked before any work."""

    recipe: Recipe
    task: Task
    mode: Mode
    n: int
    out: Path

    def problems(self) -> list[Problem]:
        return self.task.problems(self.n, stream=calibration_stream(self.recipe.seed))

    def run_file(self, model: Model) -> RunFile:
        return RunFile(runs_path(self.out), settings_of(self.recipe, self.task, model, self.n))


def runs_path(probe: Path) -> Path:
    """Where the runs behind a probe file are kept: beside it."""
    return probe.with_name(probe.name + ".runs.jsonl")


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


def make_table(runs: Cut, scores: Any, cues: Sequence[str]) -> Table:
    """The table of some runs under a probe's scores."""
    names = Cues(cues).names
    return Table(
        offsets=runs.offsets,
        positions=runs.per_cue("position"),
        scores=scores,
        right=runs.per_cue("right"),
        same=runs.per_cue("same"),
        exit_tokens=runs.per_cue("tokens"),
        cue_name=[names.index(name) for name in runs.per_cue("name")],
        full_right=runs.per_run("right"),
        full_tokens=runs.per_run("tokens"),
        problem=runs.per_run("problem"),
        graded=all(gold is not None for gold in runs.per_run("gold")),
    )


def fit_and_save(plan: Plan, model: Model, records: list[dict[str, Any]], *, force: bool) -> ProbeFile:
    """Fit on one half of the runs, fill the table from the other, write the probe file."""
    fitting, calibrating = (cut([records[i] for i in part]) for part in split(len(records), plan.recipe.seed))
    _check_cues(plan, fitting)
    labels = np.array(fitting.per_cue("same" if plan.mode == "disagree" else "right"))
    problems = np.repeat(fitting.per_run("problem"), np.diff(fitting.offsets))
    probe, report, held_out = fit_probe(fitting.features, labels, problems, seed=plan.recipe.seed)
    cues = plan.recipe.cues
    grid = Grid.of(make_table(fitting, held_out, cues))
    table = make_table(calibrating, _scores(probe, calibrating), cues)
    content = ProbeFile(probe, grid, table, _card(plan, model, len(fitting.records), table.runs, report))
    save_probe(plan.out, content, force=force)
    return content


def _scores(probe: Probe, runs: Cut) -> Any:
    return probe.scores(runs.features) if len(runs.features) else np.zeros(0)


def _check_cues(plan: Plan, fitting: Cut) -> None:
    if fitting.offsets[-1] == 0:
        raise ControllerError(
            f"no cue ({', '.join(plan.recipe.cues)}) was met while thinking in {len(fitting.records)} runs, so "
            "nothing can be fitted; name cues that this model writes with --cues (words, 'paragraph', 'sentence')"
        )


def _card(plan: Plan, model: Model, fitted: int, calibrated: int, report: dict[str, Any]) -> Card:
    recipe = plan.recipe
    return Card(
        fingerprint=model.fingerprint(),
        depth=model.depth,
        width=model.width,
        template=template_hash(model.template),
        layers=recipe.layers,
        cues=recipe.cues,
        markers=recipe.markers,
        suffix=recipe.suffix,
        max_cues=recipe.max_cues,
        sampler=sampler_of(recipe),
        max_new_tokens=recipe.max_new_tokens,
        tasks=plan.task.name,
        seeds={"seed": recipe.seed},
        runs={"fit": fitted, "calibrate": calibrated},
        grader=None if plan.mode == "disagree" else plan.task.grader.name,
        mode=plan.mode,
        settings=model.settings,
        versions={name: version(name) for name in ("reasonctl", "scikit-learn", "numpy")},
        report=report,
    )


def sampler_of(recipe: Recipe) -> dict[str, Any]:
    """What the card says of the sampling law; drafting doesn't change it."""
    return {"policy": recipe.policy, "answer_tokens": recipe.answer_tokens}
