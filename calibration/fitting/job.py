"""From a model and a task to a probe file: what is collected, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.probes import Promise
from reasonctl.probes.files import Card, ProbeFile, Scalar, origin_of, save_probe
from reasonctl.probes.risk import Stopping, following, planned

from ..runs.arrays import ANSWERS_TRUNCATED, share_truncated, to_arrays
from ..runs.collect import settings_of
from ..runs.cue_sets import with_cues
from ..runs.logged import SOURCE, LoggedRun
from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..runs.room import Asked, with_room
from ..runs.run_file import RunFile, digest_of
from ..runs.splits import FITTING_RUNS, calibration_stream, runs_path
from ..runs.trials import Labels
from ..tasks.sources import Task
from .all_signals import fill, recorded_scores
from .cross_check import check_with_mapie
from .frozen import Frozen


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
    """Runs: the first `fit` of them fit, the others calibrate."""
    out: Path
    """The probe file to write."""
    fit: int = FITTING_RUNS
    """Fitting runs. 0: nothing is fitted while collecting, and nothing calibrates."""
    labels: Labels = "records"
    """At which cues of the calibration runs exits are tried."""
    closings: tuple[str, ...] = ()
    """What each way to ask for the answer gave when it was tried on fitting runs, a line each; () = nothing chosen."""
    choose_cues: bool = False
    """Keep the best of the collected cue sets only, by savings under the promise on the fitting runs."""
    logged: Mapping[int, LoggedRun] | None = None
    """The runs' tokens by the ids of their problems, where a log has the runs. None: they are decoded."""
    source: str = ""
    """Where they were logged, in words for the card."""
    log_sha256: str = ""
    """Of the log's lines: a job goes on with the same log only."""
    room: Mapping[str, int] = field(default_factory=dict)
    """What the card says of questions, beyond the n, and runs that were too long for the context: `Asked.report`."""
    first_analysis: int | None = None
    """Calibration runs at the first analysis of a job that stops when its promise stands. None: it makes all n runs."""
    earlier: tuple[int, ...] = ()
    """Calibration runs at which a job of n runs was finished before, with a smaller n."""
    efforts: str = ""
    """What names such as "low" stand for, for the card; it is fixed before any run."""

    def asked(self, model: Model) -> Asked:
        """The problems of the job's runs, in order, and those too long for one; no two have the same prompt."""
        drawn = self.task.problems(self.n, stream=calibration_stream(self.recipe.seed), prompt=model.prompt)
        return with_room(model, drawn, self.recipe.max_new_tokens, self.recipe.suffix)

    def of(self, asked: Asked) -> CalibrationJob:
        """The job with a run for each problem that isn't left out; ControllerError if none of them calibrates."""
        job = replace(self, n=len(asked.problems), room=asked.report())
        if job.n <= job.fit and job.fit:
            raise ControllerError(
                f"-n is {job.n}, and the first {job.fit} runs fit, so that none would calibrate; give an -n above "
                f"{job.fit}, or a smaller --fit"
            )
        if job.first_analysis is not None and job.n < job.fit + job.first_analysis:
            raise ControllerError(
                f"-n is {job.n}, and a job until its promise stands first counts at {job.first_analysis} calibration "
                f"runs after {job.fit} that fit; give an -n of {job.fit + job.first_analysis} or more"
            )
        return job

    @property
    def stopping(self) -> Stopping:
        """When collecting n runs could have stopped."""
        calibrating = max(self.n - self.fit, 0)
        if self.first_analysis is None:
            return Stopping("fixed", (*(n for n in self.earlier if n < calibrating), calibrating))
        return Stopping("sequential", planned(self.first_analysis, calibrating))

    def analysis_after(self, runs: int) -> int:
        """Calibration runs at the analysis of a sequential design that comes after the one at so many."""
        return following(runs) if runs else self.first_analysis or 0

    def run_file(self, model: Model) -> RunFile:
        """The file that the job's runs are collected into; not opened yet."""
        settings = settings_of(self.recipe, self.task, model, self.n, fit=self.fit, labels=self.labels)
        settings["closings"] = list(self.closings)
        if self.first_analysis is not None:
            settings["stopping"] = {"design": "sequential", "first": self.first_analysis}
        if self.logged is not None:
            settings |= {"source": "log", "log": self.log_sha256}
        return RunFile(runs_path(self.out), settings)


def calibrate_and_save(
    plan: CalibrationJob, model: Model, records: list[RunRecord], frozen: Frozen, *, force: bool
) -> ProbeFile:
    """Fill the tables of what is frozen from the calibration runs, and write the probe file.

    Args:
        plan, model, records, frozen: As in `content_of`.
        force: Overwrite what exists.
    """
    content = content_of(plan, model, records, frozen)
    check_with_mapie(content.table, content.grid, plan.promise)
    save_probe(plan.out, content, force=force)
    return content


def content_of(plan: CalibrationJob, model: Model, records: list[RunRecord], frozen: Frozen) -> ProbeFile:
    """The content of a job's probe file.

    Args:
        plan: The job.
        model: The model that made the runs.
        records: All runs of the job, in order. Those after the last analysis of its design are left out.
        frozen: What the first of them decided.
    """
    plan = replace(plan, n=len(records), recipe=replace(plan.recipe, cues=frozen.cues))
    stopping = plan.stopping
    records = records[: plan.fit + stopping.runs]
    calibration = records[plan.fit :]
    calibrating = to_arrays(with_cues(calibration, frozen.cues, plan.recipe.max_cues))
    domains = tuple(sorted({record.domain for record in records}))
    fitted = fill(frozen, calibrating, domains, recorded_scores(calibrating))
    runs = {"fit": plan.fit, "calibrate": len(calibration)}
    report: dict[str, Scalar] = {
        **fitted.report,
        ANSWERS_TRUNCATED: share_truncated(records, plan.recipe.answer_tokens),
        **plan.room,
        **({SOURCE: plan.source} if plan.source else {}),
        **{f"suffix tried {i}": line for i, line in enumerate(plan.closings, start=1)},
    }
    return ProbeFile(
        fitted.probe,
        fitted.tables["hidden"].grid,
        fitted.tables["hidden"].table,
        replace(_card(plan, model, runs, domains, report), runs_sha256=digest_of(calibration), stopping=stopping),
        {name: table for name, table in fitted.tables.items() if name != "hidden"},
        fitted.stack,
        fitted.lower,
    )


def made_by(plan: CalibrationJob, model: Model, card: Card) -> bool:
    """Whether a probe with this card is what the plan makes, as far as its settings tell."""
    recipe = replace(plan.recipe, cues=card.cues) if plan.choose_cues else plan.recipe
    mine = _card(replace(plan, recipe=recipe), model, card.runs, card.domains, card.report)
    mine = replace(mine, versions=card.versions, runs_sha256=card.runs_sha256, stopping=card.stopping)
    made = sum(card.runs.values())
    n = plan.n if plan.first_analysis is None else min(plan.n, made)
    earlier = () if card.stopping is None else card.stopping.analyses
    return mine == card and made == n and card.stopping == replace(plan, n=n, earlier=earlier).stopping


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
        form=recipe.form,
        always_answer=recipe.always_answer,
        later_spans=recipe.later_spans,
        max_cues=recipe.max_cues,
        sampler=recipe.sampler(),
        max_new_tokens=recipe.max_new_tokens,
        tasks=plan.task.name,
        seeds={"seed": recipe.seed},
        runs=runs,
        grader=None if plan.promise.mode == "disagree" else plan.task.grader.name,
        mode=plan.promise.mode,
        domains=domains,
        versions={name: version(name) for name in ("reasonctl", "scikit-learn", "numpy")},
        report=report,
        labels=plan.labels,
        efforts=plan.efforts,
    )
