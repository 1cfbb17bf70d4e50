"""Labels a run of the traffic: it is read again, and exits are tried on forks as in any collected run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from reasonctl.backends import Model
from reasonctl.controller import Controller, ControllerError, Decoding, IdleRun, Need, Trace
from reasonctl.controller.core import Fields, parse

from ..runs.collect import graded
from ..runs.logged import LoggedRun
from ..runs.making import PreparedRun
from ..runs.recipe import Recipe
from ..runs.records import CueRecord, RunRecord, pack
from ..runs.trials import Trials
from ..runs.worker import AskedRun, Collect, prepared, record_of
from ..tasks.graders import Grader
from ..tasks.problem import Problem
from .traffic import OwnRun

LOST_SCORE = 2.0
"""The score of a run that was left: above every threshold, as scores are probabilities."""
NO_STATE = pack(np.zeros(1, dtype=np.float32))
"""Stands for the hidden state of a calibration run, which nobody needs."""


def labelling(
    recipe: Recipe,
    model: Model,
    run: OwnRun,
    which: Trials,
    grader: Grader,
    done: Callable[[RunRecord, int], None],
    failed: Callable[[], None],
) -> IdleRun:
    """The run that labels a run.

    Args:
        recipe: How the traffic's runs are made.
        model: The model that made it.
        run: The run.
        which: At which cues exits are tried.
        grader: Says which answers are the same.
        done: Is given the record, without texts, and the tokens that its trials took.
        failed: Called in its place where the run can't be labelled.
    """
    asked = AskedRun(run.number, f"run {run.number}", LoggedRun(run.tokens, f"run {run.number}", run.prompt))
    rule = Collect(recipe, model, run.number, which)
    made = prepared(recipe, model, asked, rule)
    trace = Trace()

    def loop() -> Decoding:
        try:
            finish = yield from made.controller.run(model.engine, model.tokenizer, made.call, trace)
        except ControllerError:
            failed()  # it doesn't fit with its trials, say
            return None
        record = record_of(recipe, model, asked, trace, rule)
        fitting = which.probe is None
        done(without_texts(graded(record, Problem(asked.question, None), grader), states=fitting), trace.trial_tokens)
        return finish

    return IdleRun(loop(), needs_of(made, model))


def needs_of(made: PreparedRun, model: Model) -> tuple[Need, ...]:
    """The room that a prepared run may take."""
    controller: Controller = made.controller
    return controller.needs(model.engine, model.tokenizer, made.call)


def without_texts(record: RunRecord, *, states: bool) -> RunRecord:
    """A record without what was asked and written. states: hidden states stay, for fitting."""

    def bare(cue: CueRecord) -> CueRecord:
        hidden = cue.hidden if states else NO_STATE
        return replace(cue, answer=None if cue.answer is None else "", logprobs=(), value="", hidden=hidden)

    return replace(record, question="", text="", answer="", cues=tuple(map(bare, record.cues)), others=())


def packed(record: RunRecord) -> str:
    """A record as JSON."""
    return json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False)


def unpacked(text: str | None, number: int, cue: str) -> RunRecord:
    """The record of a run; of one that was left, a run that exits at any threshold and fails.

    Args:
        text: The record as JSON. None: the run was left.
        number: The run's number.
        cue: The name of some cue.
    """
    if text is not None:
        where = f"the record of run {number}"
        return RunRecord.from_json(Fields.of(parse(text, where), where).values, where)
    lost = CueRecord(
        name=cue,
        names=(cue,),
        position=0,
        row=0,
        offset=0,
        tokens=1,
        trial=0,
        answer="",
        logprobs=(),
        entropy=0.0,
        value="",
        hidden=NO_STATE,
        score=LOST_SCORE,
        complete=False,
    )
    return RunRecord(number, Problem(f"run {number}", None).id, "", 1, "length", "", "", (lost,))
