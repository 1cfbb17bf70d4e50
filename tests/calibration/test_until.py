"""`--until promised`: where it stops, what a stop leaves, and that nothing but the order of the runs decides."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from reasonctl.calibration.fitting import analyses
from reasonctl.calibration.fitting.analyses import Analyses, Analysis, Saving
from reasonctl.calibration.fitting.begun import as_begun
from reasonctl.calibration.fitting.collecting import collect_job, plan_of
from reasonctl.calibration.fitting.job import CalibrationJob
from reasonctl.calibration.fitting.saved_runs import saved_runs
from reasonctl.calibration.pages.wording import stopping_of
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.runs.splits import report_path, runs_path
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import load_probe
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.stopping import Stopping, planned
from reasonctl.probes.risk.threshold import Threshold
from support.ctl import ctl
from support.jobs import finished, job
from support.probe_files import card
from support.recipes import RECIPE

FIT, FIRST = 12, 9
"""Fitting runs of the small job, and the first analysis for its risk of 0.3."""
UNTIL = ("--until", "promised", "--batch", "1")
"""Run by run, so that a time limit may come after each."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A job that stopped when its promise stood."""
    return finished(tmp_path_factory.mktemp("made") / "p.safetensors", 40, *UNTIL)


def lines_of(out: Path) -> list[bytes]:
    return runs_path(out).read_bytes().splitlines(keepends=True)


def test_a_job_stops_at_the_first_analysis_that_is_enough(made):
    content = load_probe(made)
    found = content.card.stopping
    assert found is not None and found == Stopping("sequential", planned(FIRST, found.runs))
    assert content.card.runs == {"fit": FIT, "calibrate": found.runs} and content.table.runs == found.runs < 28
    assert len(lines_of(made)) == 2 + FIT + found.runs  # the header and the plan are lines too
    records = saved_runs(made, content)
    assert records is not None and [record.run for record in records] == list(range(FIT + found.runs))
    assert json.loads(lines_of(made)[0])["settings"]["stopping"] == {"design": "sequential", "first": FIRST}


def test_a_job_that_is_stopped_again_and_again_leaves_the_same_files(made, tmp_path, capfd):
    out = tmp_path / "p.safetensors"
    for _ in range(4):  # the run under way is finished, and kept
        code, said, err = ctl(capfd, *job(out, 40, *UNTIL, "--time-limit", "0.001"))
        assert code == 0 and not json.loads(said.splitlines()[-1])["complete"] and "time limit reached" in err
    assert len(lines_of(out)) == 1 + 4 and not out.exists()
    held = lines_of(made)[: FIT + FIRST]  # two runs before the first analysis
    runs_path(out).write_bytes(b"".join(held) + lines_of(made)[FIT + FIRST][:50])
    code, _, err = ctl(capfd, *job(out, 40, *UNTIL, "--no-report"))
    assert code == 0 and f"resuming: {FIT + FIRST - 2} of 40 runs" in err and "so this is enough" in err
    assert out.read_bytes() == made.read_bytes() and lines_of(out) == lines_of(made)


def test_runs_after_the_analysis_change_nothing(made, tmp_path, capfd):
    """A job with workers, or one for a smaller risk, may have left more runs."""
    out = tmp_path / "p.safetensors"
    with closing(RunFile(runs_path(out), json.loads(lines_of(made)[0])["settings"])) as file:
        file.open(force=False)
    runs_path(out).write_bytes(b"".join(lines_of(made)))
    code, _, err = ctl(capfd, *job(out, 40, *UNTIL, "--risk", "0.12", "--no-report"))
    assert code == 0, err
    more = load_probe(out).card.stopping
    assert more is not None and more.runs >= 24 and set(load_probe(made).card.stopping.analyses) < set(more.analyses)
    assert b"".join(lines_of(out)).startswith(b"".join(lines_of(made)))
    code, _, err = ctl(capfd, *job(out, 40, *UNTIL, "--force", "--no-report"))
    assert code == 0 and "collecting: " not in err and out.read_bytes() == made.read_bytes()


def test_a_page_that_is_missing_is_made_for_the_same_probe(made, tmp_path, capfd):
    out = tmp_path / made.name
    for path in (made, runs_path(made)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    code, _, err = ctl(capfd, *job(out, 40, *UNTIL))
    assert code == 0, err
    assert report_path(out).read_bytes() == report_path(made).read_bytes() and out.read_bytes() == made.read_bytes()


def test_what_is_said_before_and_after(made, tmp_path, capfd):
    code, said, err = ctl(capfd, *job(tmp_path / "p", 60, *UNTIL, "--dry-run"))
    assert code == 0 and json.loads(said.splitlines()[-1])["runs_needed"] == FIRST
    assert "failures are counted at 9, 12, 15, 19 ... calibration runs" in err and "wherever collecting stops" in err
    code, _, err = ctl(capfd, *job(tmp_path / "p", 60, "--dry-run"))
    assert code == 0 and "22 promise 0.1, 45 promise 0.05" in err and "until promised" not in err
    code, said, _ = ctl(capfd, "inspect", str(made))
    assert code == 0 and "what is promised holds wherever it stopped" in " ".join(said.split())
    assert "holds wherever it stopped" in report_path(made).read_text(encoding="utf-8")
    code, _, err = ctl(capfd, "inspect", str(made), "--confidence", "marginal")
    assert code == 2 and "a marginal promise needs a number of calibration runs that was fixed" in err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--confidence", "marginal"], "--confidence marginal needs a fixed number of runs"),
        (["--mode", "event", "--labels", "all"], "--mode event needs a fixed number of runs"),
        (["--risk", "0.01"], "first counts at 299 calibration runs"),
        (["--until", "bored"], "promised"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, capfd, more, says):
    code, _, err = ctl(capfd, *job(tmp_path / "p", 40, *UNTIL, *more))
    assert code == 2 and says in err and not runs_path(tmp_path / "p").exists()


def test_the_two_designs_share_no_file(made, tmp_path, capfd):
    out = tmp_path / made.name
    runs_path(out).write_bytes(runs_path(made).read_bytes())
    code, _, err = ctl(capfd, *job(out, 40, "--batch", "1"))
    assert code == 2 and "collected with another stopping" in err


@pytest.mark.slow
def test_a_fixed_number_that_is_raised_after_a_probe_was_made_is_in_the_card(tmp_path, capfd):
    out = tmp_path / "p.safetensors"
    assert ctl(capfd, *job(out, 20, "--no-report", "--time-limit", "0.001"))[0] == 0
    assert ctl(capfd, *job(out, 22, "--no-report"))[0] == 0  # nothing was seen at 20: it wasn't finished
    assert load_probe(out).card.stopping == Stopping("fixed", (10,))
    for n, counts in ((23, (10, 11)), (25, (10, 11, 13)), (22, (10,))):
        assert ctl(capfd, *job(out, n, "--no-report", "--force"))[0] == 0
        assert load_probe(out).card.stopping == Stopping("fixed", counts)
    assert "was raised after results were seen (10 and 11)" in stopping_of(card(stopping=Stopping("fixed", (10, 11))))


def test_the_first_numbers_results_count_even_where_its_probe_is_gone(tmp_path, capfd):
    out = tmp_path / "p.safetensors"
    assert ctl(capfd, *job(out, 22, "--no-report"))[0] == 0
    out.unlink()
    assert ctl(capfd, *job(out, 23, "--no-report"))[0] == 0
    assert load_probe(out).card.stopping == Stopping("fixed", (10, 11))


# The analyses themselves


def job_at(out: Path, **changes: object) -> CalibrationJob:
    made = CalibrationJob(RECIPE, load_task("tiny"), Promise(risk=0.3), 40, out, fit=FIT, first_analysis=FIRST)
    return replace(made, **changes)


def stand_in(job: CalibrationJob, enough_at: int, low: float = 0.4):
    """An `analyse` that finds enough from so many calibration runs on."""

    def found(job, frozen, records) -> Analysis:
        runs = len(records) - job.fit
        value = 0.5 if runs >= enough_at else float("inf")
        limit = Threshold(
            value=value, mode="harm", risk=0.3, confidence=0.9, runs=runs, failures=0, more_runs=0, why="why"
        )
        return Analysis(replace(job, n=len(records)).stopping, limit, Saving(0.5, low))

    return found


class Runs:
    """A file of as many runs as are asked for."""

    def read(self) -> list[None]:
        return [None] * 1000


@pytest.mark.parametrize("enough_at", [9, 13, 19, 99])
@pytest.mark.parametrize("start", [0, 20, 24, 40])
def test_the_earliest_analysis_that_is_enough_is_the_last(tmp_path, monkeypatch, enough_at, start):
    """However many runs are there when the job goes on."""
    wanted, seen = job_at(tmp_path / "p"), []
    monkeypatch.setattr(analyses, "analyse", stand_in(wanted, enough_at))
    found = Analyses(wanted, Runs(), lambda: None, seen.append)
    ended = next((done for done in range(start, 41) if found.enough(done)), 40)
    stops = next((n for n in planned(FIRST, 28) if n >= enough_at), None)
    assert [one.stopping.runs for one in seen] == list(planned(FIRST, stops or 28))
    assert found.runs == (stops or planned(FIRST, 28)[-1]) and ended == (max(start, FIT + stops) if stops else 40)


@pytest.mark.parametrize("low", [0.0, -0.1])
def test_a_promise_whose_saving_may_be_chance_is_not_enough(tmp_path, monkeypatch, low):
    wanted = job_at(tmp_path / "p")
    monkeypatch.setattr(analyses, "analyse", stand_in(wanted, 0, low))
    assert not Analyses(wanted, Runs(), lambda: None, lambda one: None).enough(40)


def test_one_exit_in_thirty_runs_is_no_saving():
    """Two are none either, three alike are one. The bound is Student's: scipy's own interval is the oracle."""
    full = np.full(30, 100.0)
    for exits, told in ((0, False), (1, False), (2, False), (3, True), (30, True)):
        saved = np.where(np.arange(30) < exits, 60.0, 0.0)
        found = Saving.of(saved, full)
        assert found.share == pytest.approx(0.6 * exits / 30) and (found.low > 0) is told
    assert found == (0.6, 0.6)
    saved = np.random.default_rng(3).normal(5, 20, 40)
    bound = scipy.stats.ttest_1samp(saved, 0, alternative="greater").confidence_interval(0.95).low
    assert Saving.of(saved, np.full(40, 80.0)).low == pytest.approx(bound / 80)


def test_runs_without_tokens_and_a_single_run_tell_nothing():
    assert Saving.of(np.zeros(3), np.zeros(3)) == (0.0, 0.0)
    assert Saving.of(np.array([50.0]), np.array([100.0])) == (0.5, -np.inf)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_runs_are_counted_in_their_order_and_later_ones_are_dropped(tmp_path, workers):
    """Asked after each run, with the number of the first runs that are all there."""
    wanted, asked = job_at(tmp_path / "p", fit=8, first_analysis=3), []
    problems = wanted.task.problems(24, stream=6)

    def enough(done: int) -> bool:
        asked.append((done, [record.run for record in file.read()]))
        return done == 11

    with closing(wanted.run_file(RECIPE.load())) as file:
        how = {"workers": workers, "progress": lambda a, b: None, "enough": enough}
        assert collect_job(wanted, file, problems, done=file.open(force=False), **how)
        assert plan_of(wanted, file).floor is not None
    assert asked == [(done, list(range(done))) for done in (9, 10, 11)]


def test_a_job_goes_on_as_its_file_was_begun(tmp_path):
    def first_of(out, **other) -> int:
        return as_begun(job_at(out, first_analysis=29, **other), RECIPE.load(), choosing=True).first_analysis

    with closing(job_at(tmp_path / "p", first_analysis=FIRST).run_file(RECIPE.load())) as file:
        file.open(force=False)
    assert first_of(tmp_path / "p") == FIRST  # whatever risk is asked for now
    assert first_of(tmp_path / "p", labels="all") == 29  # another job's file, which is refused or started over
    assert first_of(tmp_path / "new") == 29
    runs_path(tmp_path / "new").write_text("no runs\n")
    assert first_of(tmp_path / "new") == 29


def test_a_job_too_small_for_one_analysis_is_refused(tmp_path):
    wanted = job_at(tmp_path / "p", n=FIT + FIRST - 1)
    with pytest.raises(ControllerError, match=f"give an -n of {FIT + FIRST} or more"):
        wanted.of(wanted.asked(RECIPE.load()))
