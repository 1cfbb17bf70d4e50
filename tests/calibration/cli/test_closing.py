"""How an exit asks for its answer where the user doesn't say: chosen once, and kept by the job that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reasonctl import backends
from reasonctl.calibration.cli.main import main
from reasonctl.calibration.runs.closings import collect_closings
from reasonctl.calibration.runs.splits import runs_path
from reasonctl.calibration.runs.worker import collect_runs
from reasonctl.controller import Closing
from reasonctl.probes.files import load_probe
from support.ctl import ctl
from support.jobs import job

TRYING = "ways to ask for the answer on 4 of the fitting runs"
OWN = "</think>\n"
"""The suffix of the bundled model's template."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The bundled model under another name, for which a suffix is chosen."""
    copy = tmp_path_factory.mktemp("model") / "other.gguf"
    shutil.copy(Path(backends.__file__).parent / "tiny" / "tiny.gguf", copy)
    return copy


def of(model: Path, out: Path, n: int = 16, *more: str) -> list[str]:
    """A small job of that model, with short answers.

    On one thread, as a bundled name would be: threads of a forward spin while they wait for one that has no core.
    """
    command, _, *rest = job(out, n, "--no-report", "--answer-tokens", "8", "--threads", "1", *more)
    return [command, str(model), *rest]


@pytest.fixture(scope="module")
def made(model, tmp_path_factory) -> Path:
    """A probe of a job that chose."""
    out = tmp_path_factory.mktemp("made") / "p.safetensors"
    with pytest.raises(SystemExit) as ended:
        main(of(model, out))
    assert not ended.value.code
    return out


@pytest.fixture
def begun(made, tmp_path) -> Path:
    """A copy of its files."""
    for path in (made, runs_path(made)):
        shutil.copy(path, tmp_path)
    return tmp_path / made.name


def header_of(out: Path) -> dict[str, object]:
    return json.loads(runs_path(out).read_bytes().partition(b"\n")[0])["settings"]


def rename(out: Path, **settings: object) -> None:
    """Change settings in the header of a job's runs."""
    header, _, runs = runs_path(out).read_text().partition("\n")
    value = json.loads(header)
    value["settings"] |= settings
    runs_path(out).write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n" + runs)


def test_the_choice_stands_in_the_header_and_in_the_card(made):
    header, card = header_of(made), load_probe(made).card
    assert header["suffix"] == card.suffix == OWN and card.answer_ends == "model"
    tried = header["closings"]
    assert len(tried) == 3 and tried == [card.report[f"suffix tried {i}"] for i in (1, 2, 3)]
    assert "ends with the box" in tried[0] and "ends with the line" in tried[1] and "ends with the model" in tried[2]


@pytest.mark.slow
def test_the_runs_on_which_it_chose_are_the_first_of_the_job(model, made, tmp_path, capfd, monkeypatch):
    """None of them is made twice, be it for the forecast."""
    asked = []

    def noted(recipe, window, which):
        asked.extend(one.run for one in window)
        return collect_runs(recipe, window, which)

    monkeypatch.setattr("reasonctl.calibration.runs.collect.collect_runs", noted)
    monkeypatch.delattr("reasonctl.calibration.cli.forecast.collect_run")
    out = tmp_path / "p.safetensors"
    code, _, err = ctl(capfd, *of(model, out))
    assert code == 0 and TRYING in err and "so 12 runs take roughly" in err and asked == list(range(4, 16))
    assert out.read_bytes() == made.read_bytes() and runs_path(out).read_bytes() == runs_path(made).read_bytes()


@pytest.mark.slow
def test_a_job_that_was_killed_amid_these_runs_chooses_again(model, made, begun, capfd):
    header, first, second, *_ = runs_path(made).read_bytes().splitlines(keepends=True)
    for held in ([header], [header, first, second[:99]], [header, first, second]):
        runs_path(begun).write_bytes(b"".join(held))
        begun.unlink(missing_ok=True)
        code, _, err = ctl(capfd, *of(model, begun))
        assert code == 0 and TRYING in err
        assert begun.read_bytes() == made.read_bytes() and runs_path(begun).read_bytes() == runs_path(made).read_bytes()


@pytest.mark.slow
def test_a_torn_job_and_a_larger_one_choose_no_second_time(model, made, begun, capfd):
    whole = runs_path(begun).read_bytes()
    runs_path(begun).write_bytes(whole[: len(whole) // 2])
    begun.unlink()
    code, _, err = ctl(capfd, *of(model, begun))
    assert code == 0 and TRYING not in err and "resuming" in err
    assert begun.read_bytes() == made.read_bytes() and runs_path(begun).read_bytes() == whole
    code, _, err = ctl(capfd, *of(model, begun, 18, "--force"))
    assert code == 0 and TRYING not in err and "resuming: 16 of 18" in err
    assert load_probe(begun).card.stopping.analyses == (4, 6)


@pytest.mark.slow
def test_a_job_whose_first_runs_meet_no_cue_goes_on_with_the_first_way(model, tmp_path, capfd, monkeypatch):
    """It says so, and the choice is frozen as any other."""
    monkeypatch.setattr("reasonctl.calibration.fitting.choose_suffix.collect_closings", no_cue)
    ways = (Closing(OWN), Closing(OWN + "So"))  # with the first of them `tiny` answers right
    monkeypatch.setattr("reasonctl.calibration.cli.closing.candidates", lambda found, answers: ways)
    out = tmp_path / "p.safetensors"
    code, _, err = ctl(capfd, *of(model, out))
    assert code == 0 and f"no cue was met there, so the first way is taken: {OWN!r}" in err
    header = header_of(out)
    assert header["suffix"] == OWN and [": 0 of 0 complete" in line for line in header["closings"]] == [True] * 2
    out.unlink()
    code, _, err = ctl(capfd, *of(model, out))
    assert code == 0 and TRYING not in err and header_of(out) == header


def no_cue(identity, recipe, closings, window, which):
    """The runs as they are collected, without their cues."""
    made = collect_closings(identity, recipe, closings, window, which)
    return [tuple(replace(one, cues=(), others=()) for one in run) for run in made]


def test_the_time_limit_holds_for_the_trial_too(model, tmp_path, capfd):
    out = tmp_path / "p.safetensors"
    code, result, err = ctl(capfd, *of(model, out, 16, "--time-limit", "0.001", "--batch", "1"))
    assert code == 0 and "time limit reached; nothing is kept of the runs that tried --suffix" in err
    assert json.loads(result.splitlines()[-1]) == {"n": 16, "complete": False} and not list(tmp_path.iterdir())


def test_the_page_of_a_finished_job_is_written_with_its_closing(model, begun, capfd):
    arguments = [one for one in of(model, begun) if one != "--no-report"]
    code, _, err = ctl(capfd, *arguments)
    assert code == 0 and TRYING not in err and begun.with_suffix(".html").exists()


@pytest.mark.slow
def test_the_closing_of_another_job_is_refused_or_forgotten(model, begun, capfd):
    """Its file is started over under --force, and so is its choice, and what was seen of its runs."""
    rename(begun, seed=5, suffix=OWN + "So", answer_ends="line")
    kept = runs_path(begun).read_bytes()
    begun.unlink()
    code, _, err = ctl(capfd, *of(model, begun))
    assert code == 2 and "collected with another" in err and TRYING not in err and runs_path(begun).read_bytes() == kept
    code, _, err = ctl(capfd, *of(model, begun, 18, "--force"))
    card = load_probe(begun).card
    assert code == 0 and TRYING in err and card.suffix == OWN and card.stopping.analyses == (6,)


def test_a_suffix_that_the_user_gave_is_not_taken_for_a_choice(model, begun, capfd):
    rename(begun, suffix=OWN + "So", closings=[])
    begun.unlink()
    code, _, err = ctl(capfd, *of(model, begun))
    assert code == 2 and "collected with another suffix" in err and TRYING not in err


def test_another_suffix_than_the_chosen_one_is_refused(model, begun, capfd):
    begun.unlink()
    code, _, err = ctl(capfd, *of(model, begun, 16, "--suffix", r"</think>\nSo"))
    assert code == 2 and "collected with another suffix" in err


@pytest.mark.parametrize("text", ['{"form', "no runs\n"])
def test_a_file_without_a_header_is_begun_or_refused(model, tmp_path, capfd, text):
    out = tmp_path / "p.safetensors"
    runs_path(out).write_text(text)
    code, _, err = ctl(capfd, *of(model, out))
    if text == "no runs\n":
        assert code == 2 and "is no file of collected runs" in err and runs_path(out).read_text() == text
    else:
        assert code == 0 and TRYING in err and header_of(out)["suffix"] == OWN


def test_a_folder_in_the_place_of_the_runs_is_refused(tmp_path, capfd):
    out = tmp_path / "p.safetensors"
    runs_path(out).mkdir()
    code, _, err = ctl(capfd, *job(out))
    assert code == 2 and "is a folder" in err


@pytest.mark.parametrize(("more", "said"), [([], True), (["--answer", "line"], False)])
def test_a_dry_run_speaks_of_a_choice_where_there_is_one(model, tmp_path, capfd, more, said):
    code, _, err = ctl(capfd, *of(model, tmp_path / "p.safetensors", 16, "--dry-run", *more))
    assert code == 0 and ("the suffix is chosen" in err) == said and not list(tmp_path.iterdir())


def test_a_dry_run_names_the_closing_that_was_chosen(model, begun, capfd):
    rename(begun, suffix=OWN + "So", answer_ends="line")
    begun.unlink()
    code, _, err = ctl(capfd, *of(model, begun, 16, "--dry-run"))
    assert code == 0 and f"exit suffix {OWN + 'So'!r}" in err and "the suffix is chosen" not in err


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--suffix", "Answer:"], "must hold the closing marker '</think>' exactly once"),
        (["--labels", "all", "--give-up", "0.1", "--mode", "wrong"], "--give-up is for --mode harm"),
        (["--labels", "all", "--give-up", "0.1", "--signal", "trial"], "and --signal trial; leave it off"),
    ],
)
def test_what_no_rule_can_do_is_refused_before_a_file_is_begun(tmp_path, capfd, asked, words):
    code, _, err = ctl(capfd, *job(tmp_path / "p.safetensors", 24, *asked))
    assert code == 2 and words in err and not list(tmp_path.iterdir())
