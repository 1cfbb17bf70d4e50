"""How long a job will take, as it is said before the work: batches, processes, and an engine's start."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from reasonctl.calibration.cli import closing, forecast
from reasonctl.calibration.cli.closing import ClosedJob
from reasonctl.calibration.fitting.choose_suffix import ChosenClosing
from reasonctl.calibration.fitting.job import CalibrationJob
from reasonctl.calibration.runs import worker
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Closing
from reasonctl.probes.promise import Promise
from support.recipes import RECIPE

RUN = RunRecord(0, 0, "1+1", 9, "stop", "2", "2")
SECONDS = 6.0
"""Of a run alone; the engine takes 600 to start."""


class Said:
    """Keeps what is printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, style: str | None = None) -> None:
        self.lines.append(text)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=0.0)

    def passes(seconds, result=None):
        def work(*_, **__):
            now.seconds += seconds
            return result

        return work

    for module in (forecast, closing):
        monkeypatch.setattr(module.time, "monotonic", lambda: now.seconds)
        monkeypatch.setattr(module, "start_engine", passes(600.0))
    monkeypatch.setattr(forecast, "collect_run", passes(SECONDS, RUN))
    chosen = ChosenClosing(Closing("</think>\n"), (), (RUN,) * 4)
    monkeypatch.setattr(closing, "choose_suffix", passes(4 * SECONDS, chosen))
    return now


def plan_of(tmp_path, batch: int) -> CalibrationJob:
    recipe = replace(RECIPE, batch=batch)
    return CalibrationJob(recipe, load_task("tiny"), Promise(), 300, tmp_path / "p.safetensors", 100)


@pytest.mark.parametrize(
    ("batch", "workers", "first", "said"),
    [
        (1, 1, 0, "roughly 20.0 minutes"),
        (1, 2, 0, "roughly 10.0 minutes"),
        (64, 1, 0, "roughly 20.0 minutes, or as little as 0.3 with 64 at a time"),
        (4, 1, 4, "roughly 20.0 minutes"),  # they were made four at a time already
        (64, 1, 4, "roughly 20.0 minutes, or as little as 1.2 with 64 at a time"),
        (1, 2, 4, "roughly 20.0 minutes"),  # two processes made them
        (4, 2, 4, "roughly 10.0 minutes"),  # one made their only window
    ],
)
def test_what_was_timed_is_multiplied_by_what_it_stands_for(clock, tmp_path, batch, workers, first, said) -> None:
    show, chosen = Said(), ClosedJob(plan_of(tmp_path, batch), (RUN,) * first, SECONDS)
    forecast.estimate(show, chosen, Problem("1+1", "2"), 200, workers)
    assert show.lines == [f"one run took 6.0 s with 0 of 0 cues tried, so 200 runs take {said}"]


def test_the_engines_start_is_no_part_of_the_runs_on_which_a_closing_is_chosen(clock, tmp_path) -> None:
    plan, model, problem = plan_of(tmp_path, 64), RECIPE.load(), Problem("1+1", "2")
    ways = (Closing("</think>\n"), Closing("</think>\nSo "))
    chosen = closing._chosen(Said(), plan, model, ways, [problem] * 4, 1, None)
    assert clock.seconds == 600 + 4 * SECONDS and chosen is not None and chosen.seconds == SECONDS


def test_an_engine_is_started_with_the_cues_that_the_job_records(monkeypatch) -> None:
    started = []
    model = replace(RECIPE.load(), backend="vllm", engine=SimpleNamespace(started=started.append))
    monkeypatch.setattr(worker.Recipe, "load", lambda recipe: model)
    worker.start_engine(RECIPE)
    assert [rule.cues.names for rule in started] == [RECIPE.cues]
