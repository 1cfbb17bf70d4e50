"""The report: the same bytes from the same files, nothing but their numbers, everything escaped, failures shown."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reasonctl.calibration.cli.main import main
from reasonctl.calibration.pages.evaluation_file import read_evaluation
from reasonctl.calibration.pages.highlights import AFTER, BEFORE, RuleOutcome, excerpt, pick
from reasonctl.calibration.pages.report import _Subject, render
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.runs.splits import runs_path
from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import ProbeFile, digest_of, load_probe, save_probe
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import failing_cues
from support import simulated_runs as laws
from support.report_files import HARM, TRIAL, Page, evaluation, outcome_of, probe_file, records_of

EVIL = "</code></div><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def file() -> ProbeFile:
    return probe_file()


@pytest.fixture(scope="module")
def page(file) -> str:
    return render(file, HARM, records_of(file), evaluation())


def test_the_same_files_give_the_same_bytes(file, page):
    assert render(file, HARM, records_of(file), evaluation()) == page
    assert not re.search(r"20\d\d-\d\d-\d\d|/work|/tmp|/home", page)


def test_the_page_stands_alone(page):
    parsed = Page(page)
    assert not parsed.tags & {"script", "img", "iframe", "object", "embed", "audio", "video", "base"}
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
            assert value == "data:," or value.startswith("#"), (name, value)
    assert set(re.findall(r"url\((.)", page)) <= {"#"} and "@import" not in page and "http" not in page
    colours = re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{3,6})", page)
    assert not colours  # figures take their colours from the page, in light and dark


def test_everything_is_escaped(file):
    hostile = replace(file, card=replace(file.card, tasks=EVIL, report={"auc": 0.9, "model": EVIL}))
    measured = evaluation(
        model=EVIL,
        tasks=EVIL,
        backend=EVIL,
        guarantee={"holds": False, "why_not": [EVIL]},
        baselines=[{**row, "name": row["name"] + EVIL} for row in evaluation()["baselines"]],
    )
    parsed = Page(render(hostile, HARM, records_of(hostile, EVIL), measured))
    assert not parsed.tags & {"script", "img"}
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert parsed.text.count("alert(1)") > 20 and "{{ 7 * 7 }}" in parsed.text


def test_promised_and_measured_are_the_files_numbers(page):
    text = Page(page).text
    assert "At most 5 % of runs lose a right answer by stopping early." in text
    assert "3 of 200 runs (1.5 %) lost a right answer by stopping early, and 60.0 % of the tokens were saved" in text
    assert "the true share is below 3.3 %" in text and "does not contradict the promise" in text
    assert "94.0 % right answers, 93.0 % without control" in text
    assert "A cheap rule (cue index) saves as much as the probe." in text


def test_a_broken_promise_is_said(file):
    text = Page(render(file, HARM, None, evaluation(harm=30))).text
    assert "The measurement contradicts the promise" in text
    text = Page(render(file, HARM, None, evaluation(guarantee={"holds": False, "why_not": ["another task"]}))).text
    assert "nothing was promised: another task" in text


def test_without_an_evaluation_it_says_so(file):
    text = Page(render(file, HARM, records_of(file), None)).text
    assert "Not measured on fresh problems yet" in text and "no independent check" in text
    assert "Measured on" not in text
    out = _Subject(file, HARM, np.arange(file.table.runs)).outcome().out
    assert f"{int(out.harm.sum())} of {file.table.runs} lose a right answer" in text


@pytest.mark.parametrize(
    ("mode", "confidence", "words"),
    [
        ("wrong", None, "On average over calibrations"),
        ("selective", 0.9, "Of the runs that stop early, at most 20 % give a wrong answer"),
        ("disagree", 0.9, "another answer than the full run's"),
        ("event", None, "Nothing is promised for a run"),
    ],
)
def test_every_mode(mode, confidence, words):
    table = laws.simulate(60, seed=2)
    file = probe_file(replace(table, graded=mode != "disagree"))
    parsed = Page(render(file, Promise(mode, 0.2, confidence, "entropy"), records_of(file), None))
    assert words in parsed.text


def test_never_exiting_is_said(file):
    text = Page(render(file, Promise("harm", 0.001, 0.9, "hidden"), records_of(file), None)).text
    assert "the rule never exits" in text and "more runs are needed" in text
    assert f"0 of {file.table.runs} calibration runs exit" in text
    assert "There is no biggest saving to show" in text


def test_runs_without_cues_and_records(file):
    table = laws.simulate(3, seed=0)
    bare = Table(
        **{
            **dict.fromkeys(("positions", "scores", "right", "same", "exit_tokens", "cue_name"), []),
            "offsets": [0] * 4,
            "full_right": table.full_right,
            "full_tokens": table.full_tokens,
            "problem": table.problem,
        }
    )
    assert "0 of 3 calibration runs exit" in Page(render(replace(file, table=bare, others={}), HARM, None, None)).text
    with pytest.raises(ControllerError, match="no calibration run"):
        render(replace(file, table=table.select([]), others={}), HARM, None, None)


def test_savings_are_net_of_trials(file):
    """Of the plain run's tokens, whatever the signal: one that pays for trials can cost more than it saves."""
    request = Promise("harm", 0.2, 0.9, "entropy")
    subject = _Subject(file, request, np.arange(file.table.runs))
    outcome, plain = subject.outcome(), file.table.full_tokens
    assert outcome.out.exited.any()
    assert outcome.saved_share == pytest.approx(1 - outcome.out.tokens.sum() / plain.sum())
    x, y = subject._curve(file.others["entropy"])
    assert x[0] == 0 and y[0] == pytest.approx(-TRIAL * file.table.cues / plain.sum())
    for at in (10, 50, 90):
        table = file.others["entropy"].table
        out = table.outcomes(table.first_exit(file.others["entropy"].grid.thresholds[at - 1]))
        assert x[at] == pytest.approx(out.harm.mean())
        assert y[at] == pytest.approx(1 - out.tokens.mean() / plain.mean())


def test_one_domain_only():
    table = laws.simulate(120, seed=1)
    file = probe_file(replace(table, domain=np.arange(120) % 2), domains=("group 0", "group 1"))
    whole, odd = (Page(render(file, replace(HARM, domain=d), records_of(file), None)).text for d in (None, "group 1"))
    assert "On the 120 calibration runs" in whole and "On the 60 calibration runs" in odd
    assert re.search(r"group 0 \d+ of 60", whole) and "group 0" not in odd
    with pytest.raises(ControllerError, match="'prime'"):
        render(file, replace(HARM, domain="prime"), None, None)


def test_foreign_records_are_refused(file):
    other = records_of(probe_file(laws.simulate(120, seed=9)))
    with pytest.raises(ControllerError, match="aren't the ones"):
        render(file, HARM, other, None)


ROWS = [
    ([0.9], [True], True),  # a short exit
    ([0.1, 0.9, 0.9], [False, True, True], True),  # the typical one: the fourth of six by savings
    ([0.9, 0.9, 0.9, 0.9, 0.9], [True] * 5, True),  # the biggest saving
    ([0.6, 0.1, 0.1], [False, True, True], True),  # a failure
    ([0.8, 0.1, 0.1, 0.1], [False, True, True, True], True),  # a failure of a higher score
    ([0.1, 0.2], [False, True], True),  # a missed exit
    ([0.2, 0.1, 0.1, 0.1], [True, True, True, True], True),  # one that wastes more
    ([0.7], [True], False),  # an exit that helps
]


def test_the_examples_follow_their_rules():
    examples, absent = pick(outcome_of(ROWS))
    assert not absent
    assert {example.title: (example.run, example.focus, example.failure) for example in examples} == {
        "The biggest saving": (2, 0, False),
        "A typical exit": (1, 1, False),
        "A failure": (4, 0, True),
        "A missed exit": (6, 0, True),
        "An exit that helped": (7, 0, False),
    }


def test_without_failures_the_nearest_miss_and_the_latest_exit_are_shown():
    rows = [*ROWS[:3], ([0.1, 0.4, 0.9], [False, False, True], True), ([0.1, 0.3, 0.9], [True, True, True], True)]
    examples, absent = pick(outcome_of(rows))
    picked = {example.title: (example.run, example.focus) for example in examples}
    assert picked["The nearest miss"] == (3, 1) and picked["The latest exit"] == (4, 2)
    assert len(absent) == 1 and "no missed exit" in absent[0]


def test_no_run_is_shown_twice():
    for seed in range(5):
        table = laws.simulate(30, seed)
        out = table.outcomes(table.first_exit(0.7))
        examples, _ = pick(RuleOutcome(table, 0.7, out, table.right, failing_cues(table, "harm"), table.full_tokens))
        assert len({example.run for example in examples}) == len(examples) > 2


def test_failures_are_on_the_page(file):
    loose = Promise("harm", 0.3, 0.9, "hidden")
    outcome = _Subject(file, loose, np.arange(file.table.runs)).outcome()
    failed = int(outcome.failed.sum())
    assert failed > 0
    text = Page(render(file, loose, records_of(file), None)).text
    assert f"A failure ✗ exit fails Exits that fail: {failed} of {file.table.runs}" in text


def test_pieces_give_the_text_back():
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(rng.choice(list("ab \n<é"), size=int(rng.integers(1, 4000))))
        offsets = sorted(rng.choice(len(text), size=min(len(text), int(rng.integers(1, 9))), replace=False).tolist())
        focus = int(rng.integers(len(offsets)))
        before, shown, after = excerpt(text, offsets, focus, focus)
        assert text[:before] + "".join(piece.text for piece in shown) + text[len(text) - after :] == text
        assert focus in [piece.cue for piece in shown]
        assert [piece.unwritten for piece in shown if piece.cue is not None] == [
            piece.cue >= focus for piece in shown if piece.cue is not None
        ]
        stays = int(rng.integers(1, 6))
        kept = excerpt(text, offsets, focus, focus, stays).pieces
        assert "".join(piece.text for piece in kept) == "".join(piece.text for piece in shown)
        cut = next(i for i, piece in enumerate(kept) if piece.cue == focus)
        assert not any(piece.unwritten for piece in kept[: cut + 1]) and len(kept[cut].text) <= stays
        assert all(piece.unwritten for piece in kept[cut + 1 :])
        assert before <= max(0, offsets[focus] - BEFORE) and len(text) - after <= offsets[focus] + AFTER


def ctl(capfd, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def saved(tmp_path: Path, file: ProbeFile) -> Path:
    """A probe file without the signal that this test made up, and the runs beside it."""
    path = tmp_path / "p.safetensors"
    save_probe(path, replace(file, others={}))
    with closing(RunFile(runs_path(path), {})) as collected:
        collected.open(force=False)
        for record in records_of(file):
            collected.append(record)
    return path


def test_the_command(saved, capfd):
    code, out, _ = ctl(capfd, "report", saved, "--json")
    page = saved.with_suffix(".html")
    assert code == 0 and json.loads(out.splitlines()[-1]) == {"out": str(page), "runs": True, "evaluation": False}
    before = page.read_bytes()
    code, _, err = ctl(capfd, "report", saved)
    assert code == 2 and "exists already" in err and len(err.splitlines()) == 1
    measured = saved.with_name("e.json")
    measured.write_text(json.dumps(evaluation(risk=0.1, probe=digest_of(load_probe(saved)))) + "\n")
    assert ctl(capfd, "report", saved, "--eval", measured, "--force")[0] == 0
    assert page.read_bytes() != before
    text = Page(page.read_text()).text
    assert "At most 10 % of runs" in text and "Measured on 200 fresh problems" in text


@pytest.mark.parametrize("written", ["", "{}", "nonsense", '{"mode": "harm", "risk": 2, "confidence": 0.9}', "[1]"])
def test_a_file_that_is_no_evaluation(saved, capfd, written):
    measured = saved.with_name("e.json")
    measured.write_text(written)
    code, _, err = ctl(capfd, "report", saved, "--eval", measured)
    assert code == 2 and len(err.splitlines()) == 1 and "e.json" in err or "risk is 2" in err
    assert not saved.with_suffix(".html").exists()


def test_mistakes(saved, capfd):
    folder = saved.parent
    for arguments, words in (
        (["report", folder / "no.safetensors"], "no such file"),
        (["report", saved, "--eval", folder / "no.json"], "no.json"),
        (["report", saved, "--out", folder / "no" / "x.html"], "no folder"),
        (["report", saved, "--signal", "trial"], "trial"),
        (["report", saved, "--domain", "x"], "domain is 'x'"),
    ):
        code, _, err = ctl(capfd, *arguments)
        assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_a_page_names_the_evaluated_model_without_its_path():
    page = render(probe_file(), HARM, None, evaluation(model="/home/me/models/some.gguf"))
    assert "Model: <b>some.gguf</b>" in page and "/home/me" not in page
    assert "Model: <b>" not in render(probe_file(), HARM, None, None)


def test_null_is_no_list_of_rules(tmp_path):
    path = tmp_path / "e.json"
    path.write_text(json.dumps(evaluation(baselines=None)))
    with pytest.raises(ControllerError, match="'baselines' in .* is null; it must be a list"):
        read_evaluation(path)
