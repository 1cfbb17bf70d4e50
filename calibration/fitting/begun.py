"""What a job takes from the files of an earlier call of the same job: its closing, and the analyses already made.

Owns how a job goes on from itself. Another job's files give it nothing: they are refused, or started over.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller import Closing, ControllerError
from reasonctl.controller.core import Fields
from reasonctl.probes.files import load_probe

from ..runs.records import MOST, RunRecord
from ..runs.run_file import digest_of, stored_closing
from .job import CalibrationJob


def closed(job: CalibrationJob, closing: Closing, tried: tuple[str, ...]) -> CalibrationJob:
    """The job with a chosen closing.

    Args:
        job: The job.
        closing: The closing.
        tried: What each candidate gave, a line each.
    """
    recipe = replace(job.recipe, suffix=closing.suffix, answer_ends=closing.answer_ends)
    return replace(job, recipe=recipe, closings=tried)


def as_begun(job: CalibrationJob, model: Model, *, choosing: bool, batch_given: bool = True) -> CalibrationJob:
    """The job as an earlier call of it began; unchanged if none did.

    The header of its runs names batch, chosen closing and first analysis. A job of a fixed number of runs
    that goes on from a finished one with a smaller number has seen the results of that.

    Args:
        job: The job.
        model: Its model.
        choosing: The user leaves the closing to the job.
        batch_given: The user asks for a batch. False: a job that was begun keeps its own.
    """
    file = job.run_file(model)
    if not job.fit or not file.path.is_file():
        return job
    try:
        settings = file.begun()
        if settings is None:
            return job
        begun = job if batch_given else _in_batches(job, settings)
        begun = _as_header(begun, settings, choosing)
        begun.run_file(model).check()
        records = file.read()
    except ControllerError:
        return job  # the file is refused, or started over, when it is opened
    if begun.first_analysis is not None:
        return begun
    first_n = settings.whole("n", 0, MOST) if "n" in settings else 0
    finished = (first_n - job.fit,) if job.fit < first_n <= len(records) else ()
    return replace(begun, earlier=_made_from(job.out, records[job.fit :]) or finished)


def _as_header(job: CalibrationJob, settings: Fields, choosing: bool) -> CalibrationJob:
    """The job with the chosen closing and the first analysis that a header names."""
    tried = tuple(settings.texts("closings")) if "closings" in settings else ()
    if choosing and tried:
        job = closed(job, stored_closing(settings), tried)
    if job.first_analysis is None:
        return job
    return replace(job, first_analysis=_first_of(settings.values.get("stopping")) or job.first_analysis)


def _in_batches(job: CalibrationJob, settings: Fields) -> CalibrationJob:
    """The job with the batch that a header names."""
    batch = settings.whole("batch", 1, MOST) if "batch" in settings else 1
    return replace(job, recipe=replace(job.recipe, batch=batch))


def _made_from(out: Path, calibrating: list[RunRecord]) -> tuple[int, ...]:
    """The analyses of the probe file that is there, if it was made from the first of these calibration runs."""
    try:
        card = load_probe(out).card
    except ControllerError:
        return ()  # none is there, or another file, which --force overwrites
    made = card.runs_sha256 == digest_of(calibrating[: card.runs.get("calibrate", 0)])
    return card.stopping.analyses if made and card.stopping is not None else ()


def _first_of(design: object) -> int | None:
    """The first analysis that a file's header names, None if it names none."""
    first = design.get("first") if isinstance(design, dict) else None
    return first if type(first) is int and 0 < first <= MOST else None
