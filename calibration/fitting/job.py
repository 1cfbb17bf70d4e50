"""From a model and a task to a probe file: collect, split by problem, fit, score, and keep the table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.probes import Promise
from reasonctl.probes.files import Card, ProbeFile, Scalar, origin_of, save_probe

from ..runs.arrays import ANSWERS_TRUNCATED, RunArrays, share_truncated, to_arrays
from ..runs.collect import settings_of
from ..runs.cue_sets import with_cues
from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..runs.room import LEFT_OUT, Asked, with_room
from ..runs.run_file import RunFile
from ..runs.splits import calibration_stream, runs_path, split
from ..tasks.sources import Task
from .all_signals import fit_signals
from .choose_cues import choose_cues
from .cross_check import check_with_mapie


@dataclass(frozen=True)
class CalibrationJob:
    """A calibration job, checked before any work."""

    recipe: Recipe
    """How the runs are made."""
    task: Task
    """Where the problems come from."""
    promise: Promise
    """What the probe is made for; its mode says which answers it learns from."""
    n: int
    """Runs, half of them to fit and half to calibrate."""
    out: Path
    """The probe file to write."""
    choose_cues: bool = False
    """Keep the best of the collected cue sets only, by savings under the promise on the fitting runs."""
    left_out: int = 0
    """Questions that were left out, beyond the n: they are too long for the model's context."""

    def asked(self, model: Model) -> Asked:
        """The problems of the job's runs, in order, and those too long for one; no two have the same prompt."""
        drawn = self.task.problems(self.n, stream=calibration_stream(self.recipe.seed), prompt=model.prompt)
        return with_room(model, drawn, self.recipe.max_new_tokens)

    def of(self, asked: Asked) -> CalibrationJob:
        """The job with a run for each problem that isn't left out."""
        return replace(self, n=len(asked.problems), left_out=len(asked.left_out))

    def run_file(self, model: Model) -> RunFile:
        """The file that the job's runs are collected into; not opened yet."""
        return RunFile(runs_path(self.out), settings_of(self.recipe, self.task, model, self.n))


def fit_and_save(plan: CalibrationJob, model: Model, records: list[RunRecord], *, force: bool) -> ProbeFile:
    """Fit on one half of the runs, fill the tables from the other, write the probe file."""
    parts = [[records[i] for i in part] for part in split(len(records), plan.recipe.seed)]
    if plan.choose_cues:
        most = plan.recipe.max_cues
        cues = choose_cues(parts[0], plan.promise, seed=plan.recipe.seed, max_cues=most).cues
        plan = replace(plan, recipe=replace(plan.recipe, cues=cues))
        parts = [with_cues(part, cues, most) for part in parts]
    fitting, calibrating = (to_arrays(part) for part in parts)
    _check_cues(plan, fitting)
    domains = tuple(sorted({record.domain for record in records}))
    mode = plan.promise.mode
    fitted = fit_signals(fitting, calibrating, plan.recipe.cues, domains, mode, seed=plan.recipe.seed)
    runs = {"fit": len(parts[0]), "calibrate": len(parts[1])}
    report: dict[str, Scalar] = {
        **fitted.report,
        ANSWERS_TRUNCATED: share_truncated([*parts[0], *parts[1]], plan.recipe.answer_tokens),
        **({LEFT_OUT: plan.left_out} if plan.left_out else {}),
    }
    content = ProbeFile(
        fitted.probe,
        fitted.tables["hidden"].grid,
        fitted.tables["hidden"].table,
        _card(plan, model, runs, domains, report),
        {name: table for name, table in fitted.tables.items() if name != "hidden"},
        fitted.stack,
        fitted.lower,
    )
    check_with_mapie(content.table, content.grid, plan.promise)
    save_probe(plan.out, content, force=force)
    return content


def made_by(plan: CalibrationJob, model: Model, card: Card) -> bool:
    """Whether a probe with this card is what the plan makes, as far as its settings tell."""
    recipe = replace(plan.recipe, cues=card.cues) if plan.choose_cues else plan.recipe
    mine = _card(replace(plan, recipe=recipe), model, card.runs, card.domains, card.report)
    return replace(mine, versions=card.versions) == card and sum(card.runs.values()) == plan.n


def _check_cues(plan: CalibrationJob, fitting: RunArrays) -> None:
    if fitting.offsets[-1] == 0:
        raise ControllerError(
            f"no cue ({', '.join(plan.recipe.cues)}) was met while thinking in {len(fitting.records)} runs, so "
            "nothing can be fitted; name cues that this model writes with --cues (words, 'paragraph', 'sentence')"
        )


def _card(
    plan: CalibrationJob, model: Model, runs: dict[str, int], domains: tuple[str, ...], report: dict[str, Scalar]
) -> Card:
    recipe = plan.recipe
    return Card(
        **origin_of(model),
        layers=recipe.layers,
        cues=recipe.cues,
        markers=recipe.markers,
        suffix=recipe.suffix,
        answer_ends=recipe.answer_ends,
        max_cues=recipe.max_cues,
        sampler=sampler_of(recipe),
        max_new_tokens=recipe.max_new_tokens,
        tasks=plan.task.name,
        seeds={"seed": recipe.seed},
        runs=runs,
        grader=None if plan.promise.mode == "disagree" else plan.task.grader.name,
        mode=plan.promise.mode,
        domains=domains,
        versions={name: version(name) for name in ("reasonctl", "scikit-learn", "numpy")},
        report=report,
    )


def sampler_of(recipe: Recipe) -> dict[str, Scalar]:
    """What the card says of how tokens are sampled; drafting doesn't change it."""
    return {"policy": recipe.policy, "answer_tokens": recipe.answer_tokens}
