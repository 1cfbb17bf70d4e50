"""What is asked for is what is judged: signal, domain, mode and giving up, in eval, inspect, report and calibrate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.load import BUNDLED_PROBE
from reasonctl.calibration.cli.comparison import show_comparison
from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.cli.recipes import unescaped
from reasonctl.calibration.evaluation.pairs import Pair, fresh, summary
from reasonctl.calibration.pages.highlights import Example
from reasonctl.calibration.pages.report import _Subject, render
from reasonctl.calibration.pages.report_parts import example, measured
from reasonctl.calibration.pages.wording import promise
from reasonctl.calibration.runs.worker import ArmRecord
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import digest_of, load_probe, save_probe
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.bounds import upper_bound
from support.ctl import ctl
from support.report_files import HARM, Page, evaluation, outcome_of, probe_file, records_of

PROBE = BUNDLED_PROBE


def asked(capfd, *arguments: object) -> dict:
    code, out, err = ctl(capfd, *map(str, arguments), "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


# eval


def test_eval_judges_the_rule_of_the_signal_and_domain_asked_for(capfd):
    """The replayed rule beside the cheap ones costs, exits and fails exactly as the live one did."""
    arguments = ["--signal", "agreement", "--domain", "4 steps", "--risk", "0.2", "-n", "5", "--workers", "1"]
    found = asked(capfd, "eval", "tiny", *arguments)
    own, arms = found["baselines"][0], (found["controlled"], found["baseline"])
    assert found["signal"] == own["name"] == "agreement"
    assert found["domain"] == found["guarantee"]["domain"] == "4 steps"
    assert own["saved"] == pytest.approx(1 - arms[0]["tokens"] / arms[1]["tokens"])
    assert own["saved"] < 0 or own["exit_rate"] > 0  # trials were paid for, so that this isn't "nothing happened"
    assert (own["exit_rate"], own["failed"]) == (found["exit_rate"], found["failure"]["rate"])
    assert own["accuracy"] == pytest.approx(arms[0]["accuracy"])
    problems = fresh(load_task("tiny"), load_probe(PROBE), 8, 0, "4 steps", prompt=words)
    assert {problem.domain for problem in problems} == {"4 steps"}
    everything = fresh(load_task("tiny"), load_probe(PROBE), 60, 0, prompt=words)
    assert [p for p in everything if p.domain == "4 steps"][:8] == problems


def words(question: str) -> list[int]:
    """A prompt that tells all questions apart."""
    return list(question.encode())


def test_a_domain_that_the_task_lacks_ends(capfd):
    task = load_task("tiny")
    with pytest.raises(ControllerError, match="only 0 distinct problems of the domain 'algebra' left of the 2"):
        task.problems(2, stream=1, domain="algebra")


def arm(right: bool, exit_at: int | None = None) -> ArmRecord:
    return ArmRecord(10, 0.1, "", exit_at, 0, 0, "", (), right)


PAIRS = [
    Pair(arm(True), arm(False, 1), same=False),  # harm
    Pair(arm(False), arm(False, 0), same=True),  # wrong, but no worse
    Pair(arm(False), arm(False, 0), same=False),  # wrong in another way
    Pair(arm(True), arm(True, 2), same=True),
    Pair(arm(False), arm(True, 2), same=False),  # help
    Pair(arm(False), arm(False, None), same=True),  # never exits: no failure of any mode
]


@pytest.mark.parametrize(
    ("mode", "count", "n"),
    [("harm", 1, 6), ("wrong", 3, 6), ("selective", 3, 5), ("disagree", 3, 6), ("event", 3, 6)],
)
def test_what_the_mode_promises_is_measured(mode, count, n, capsys):
    found = summary(PAIRS, mode)
    assert found["failure"] == {"mode": mode, "count": count, "n": n, "rate": count / n, "upper": upper_bound(count, n)}
    assert (found["harm"]["count"], found["help"]["count"], found["exit_rate"]) == (1, 1, 5 / 6)
    said = {"holds": True, "mode": mode, "risk": 0.05, "confidence": 0.9, "why_not": []}
    show_comparison(Console(as_json=False), {**found, "guarantee": said})
    told = capsys.readouterr().out
    assert f"{count} of {n} = " in told and "harm 1 of 6, help 1 of 6" in told
    ungraded = summary(PAIRS, mode, graded=False)
    assert ungraded["harm"] is ungraded["help"] is ungraded["accuracy_difference"] is None
    assert ungraded["baseline"]["accuracy"] is None


def test_disagree_needs_no_answers(tmp_path, capfd):
    tasks, page = tmp_path / "t.jsonl", tmp_path / "e.html"
    questions = [p.question for p in load_task("tiny").problems(3, stream=77)]
    tasks.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    arguments = ["eval", "tiny", "--tasks", tasks, "--mode", "disagree", "-n", "3", "--workers", "1", "--report", page]
    found = asked(capfd, *arguments)
    assert found["failure"]["n"] == 3 and found["harm"] is None and found["baseline"]["accuracy"] is None
    assert all(row["accuracy"] is None for row in found["baselines"] if "accuracy" in row)
    assert "of 3 runs" in Page(page.read_text()).text and "exits whose answer differs" in page.read_text()
    code, _, err = ctl(capfd, *map(str, arguments[:4]))
    assert code == 2 and "--mode disagree" in err


# Giving up as well: the bound is the sum


def test_of_a_pair_of_rules_the_bound_is_the_sum(capsys):
    pair, alone = replace(HARM, risk=0.05, give_up=0.05), HARM
    seen = evaluation(harm=20)  # 10 % of 200 runs: more than 0.05, and not more than 0.1
    assert measured(seen, alone).refuted and not measured(seen, pair).refuted
    assert "at most 10\u202f% together" in promise(pair) and "together" not in promise(alone)
    said = {"holds": True, "mode": "harm", "risk": 0.05, "confidence": 0.9, "why_not": [], "give_up": 0.02}
    show_comparison(Console(as_json=False), {**summary(PAIRS, "harm"), "guarantee": said})
    assert "in at most 7.0 % of runs together" in capsys.readouterr().out


def test_a_report_shows_the_pair(capfd):
    content = load_probe(PROBE)
    upper, pair = Promise("harm", 0.05, 0.9, "hidden"), Promise("harm", 0.05, 0.9, "hidden", give_up=0.1)
    rows = np.arange(content.table.runs)
    alone, both = (_Subject(content, request, rows).outcome().out for request in (upper, pair))
    assert both.tokens.sum() < alone.tokens.sum() and both.exited.sum() > alone.exited.sum()
    assert "give up below a curve" in Page(render(content, pair, None, None)).text


# inspect


def levels(capfd, *arguments: str) -> dict[float, dict]:
    return {level["risk"]: level for level in asked(capfd, "inspect", PROBE, *arguments)["levels"]}


def test_inspect_is_about_what_was_asked_for(capfd):
    whole, part = levels(capfd), levels(capfd, "--domain", "3 steps")
    assert part[0.01]["threshold"] is None and whole[0.01]["threshold"] is not None
    assert part[0.01]["exits"] == "never" and part[0.01]["more_runs"] > 0
    both = levels(capfd, "--give-up", "0.1")
    assert all(both[risk]["saved"] > whole[risk]["saved"] for risk in (0.01, 0.02, 0.05))
    code, _, err = ctl(capfd, "inspect", str(PROBE), "--domain", "algebra")
    assert code == 2 and "domain is 'algebra'; this probe was calibrated on '3 steps'" in err
    code, _, err = ctl(capfd, "inspect", str(PROBE), "--give-up", "0.1", "--signal", "trial")
    assert code == 2 and "giving up needs the signal 'hidden'" in err


def test_inspect_says_what_is_missing(capfd):
    code, out, _ = ctl(capfd, "inspect", str(PROBE), "--mode", "selective", "--risk", "0.001")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("0.")}
    assert code == 0 and rows["0.001"].split()[-1].isdecimal()
    assert rows["0.01"].endswith("no number would do") and rows["0.1"].endswith(" -")


def test_a_rule_that_never_exits_tries_nothing_and_costs_nothing(capfd):
    """In inspect and in the report, whatever its signal would have paid for trials."""
    never = levels(capfd, "--signal", "trial", "--risk", "0.001")[0.001]
    assert (never["exits"], never["exit_rate"], never["saved"]) == ("never", 0.0, 0.0)
    content = load_probe(PROBE)
    subject = _Subject(content, Promise("harm", 0.001, 0.9, "trial"), np.arange(content.table.runs))
    assert subject.outcome().saved_share == 0.0
    trial = next(row for row in subject.levels() if row.signal == "trial")
    assert trial.cells[0].risk == 0.001 and trial.cells[0].saved == 0.0


# report --eval


def test_a_report_refuses_a_measurement_of_something_else(tmp_path, capfd):
    probe, found = tmp_path / "p.safetensors", tmp_path / "e.json"
    file = replace(probe_file(), others={})
    save_probe(probe, file)
    good = evaluation(probe=digest_of(file))
    found.write_text(json.dumps(good))
    report = ["report", str(probe), "--eval", str(found), "--force"]
    assert ctl(capfd, *report)[0] == 0
    for option, value in (("risk", "0.1"), ("signal", "trial"), ("domain", "x"), ("mode", "wrong"), ("give-up", "0.1")):
        code, _, err = ctl(capfd, *report, f"--{option}", value)
        assert code == 2 and f"--{option} is " in err and "the evaluation was made with" in err, err
    assert ctl(capfd, *report, "--risk", "0.05", "--signal", "hidden")[0] == 0
    found.write_text(json.dumps(evaluation(probe="0" * 64)))
    code, _, err = ctl(capfd, *report)
    assert code == 2 and "another probe" in err and len(err.splitlines()) == 1
    del good["signal"]
    found.write_text(json.dumps(good))
    assert "the result of this version's ctl eval" in ctl(capfd, *report)[2]


def test_the_digest_is_the_files_own(tmp_path):
    path = tmp_path / "p.safetensors"
    save_probe(path, probe_file())
    assert digest_of(load_probe(path)) == digest_of(probe_file())
    assert digest_of(probe_file()).encode() in path.read_bytes()


def test_another_modes_failures_are_measured_in_the_page(tmp_path):
    file = probe_file()
    failure = {"mode": "wrong", "count": 30, "n": 200, "rate": 0.15, "upper": 0.19}
    seen = evaluation(mode="wrong", failure=failure)
    text = Page(render(file, replace(HARM, mode="wrong"), records_of(file), seen)).text
    assert "30 of 200 runs (15 %) stopped early with a wrong answer" in text and "contradicts the promise" in text


def test_a_page_takes_no_files_place(tmp_path, capfd):
    probe, found = tmp_path / "p.safetensors", tmp_path / "e.json"
    save_probe(probe, replace(probe_file(), others={}))
    found.write_text(json.dumps(evaluation()))
    before = probe.read_bytes()
    for out in (probe, tmp_path / "x" / ".." / "p.safetensors", Path(f"{probe}.runs.jsonl")):
        code, _, err = ctl(capfd, "report", str(probe), "--out", str(out), "--force")
        assert code == 2 and "would take the place of" in err
    assert "would take" in ctl(capfd, "report", str(probe), "--eval", str(found), "--out", str(found), "--force")[2]
    assert "would take" in ctl(capfd, "eval", "tiny", "--probe", str(probe), "--report", str(probe), "--force")[2]
    code, _, err = ctl(capfd, "calibrate", "tiny", "--tasks", "tiny", "--out", str(tmp_path / "x.html"), "--force")
    assert code == 2 and "ends in .safetensors" in err
    assert probe.read_bytes() == before and not (tmp_path / "x.html").exists()


# Infinite thresholds, and texts of the command line


def test_a_threshold_below_every_score_is_a_valid_one(capsys):
    rows = [([0.9, 0.8], [True, True], True)]
    at_once = outcome_of(rows, -math.inf)
    assert at_once.out.cue.tolist() == [0]
    file = probe_file()
    shown = example(at_once, file, Example("A typical exit", "", False, 0, 0), None)
    assert shown.level is None and shown.exit_at == 0
    page = render(file, Promise("disagree", 0.99, None, "hidden"), records_of(file), None)
    assert "inf" not in page.replace("information", "").lower().split("<style>")[-1].split("</style>")[-1]
    Console(as_json=True).result({"threshold": -math.inf, "more": [math.inf, {"x": math.nan}], "fine": 1.5})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "threshold": None,
        "more": [None, {"x": None}],
        "fine": 1.5,
    }


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"</think>\n", "</think>\n"),
        ("Réponse : →", "Réponse : →"),
        (r"答え\n\n", "答え\n\n"),
        (r"\中 \q C:\\new", "\\中 \\q C:\\new"),
        (r"\u2192\x41\t", "→A\t"),
    ],
)
def test_suffixes_keep_their_letters(typed, meant):
    assert unescaped(typed) == meant
