"""Every command takes the options that mean something to it, and refuses the others by name."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from reasonctl.backends.load import BUNDLED_PROBE, TINY_MASKED, load_masked, load_model, tiny_folder
from reasonctl.backends.machine import PER_CORE, check_cores, cores
from reasonctl.calibration.cli.flags import SHARED
from reasonctl.calibration.cli.main import cli
from reasonctl.calibration.tasks.tiny import fresh_problems, understands
from reasonctl.controller import ControllerError
from support.ctl import ctl

GGUF = str(tiny_folder() / "tiny.gguf")
PROMISE = "mode risk confidence signal domain give_up"
NO_RUNS = "seed temperature policy draft max_new_tokens n dry_run time_limit workers grader batch"
"""What makes runs."""
NO_MODEL = (
    "seed temperature policy draft max_new_tokens n force dry_run time_limit backend workers threads batch grader"
)
MEANS_NOTHING = {
    "demo": "force time_limit grader",
    "calibrate": "",
    "eval": "time_limit",
    "report": "seed temperature policy draft max_new_tokens n dry_run time_limit backend workers threads grader batch",
    "run": "n force workers grader time_limit dry_run batch",
    "sample": "force workers time_limit dry_run",
    "inspect": "seed temperature policy draft max_new_tokens n force dry_run time_limit workers grader batch",
    "replay": "temperature policy draft max_new_tokens n signal give_up force dry_run time_limit backend workers "
    "threads grader batch",
    "bench": "force workers grader time_limit dry_run",
    "advise draft": f"{PROMISE} draft force dry_run time_limit workers grader batch",
    "advise policy": f"{PROMISE} policy draft time_limit workers",
    "advise samples": "temperature policy draft time_limit",
    "calibrate-votes": "draft time_limit",
    "frontier": "time_limit",
    "stability": "temperature policy time_limit",
    "models": f"{PROMISE} {NO_MODEL}",
    "plugins": f"{PROMISE} {NO_MODEL}",
    "mcq": f"{PROMISE} temperature policy time_limit grader",
    "pairs": "time_limit",
    "diagnose fractal": f"{PROMISE} temperature policy draft time_limit batch grader",
    "view": f"{PROMISE} seed temperature policy draft max_new_tokens n dry_run time_limit backend workers threads "
    "batch grader",
    "probe pack": f"{PROMISE} {NO_RUNS} backend threads",
    "probe show": f"{PROMISE} {NO_RUNS} backend threads force",
    "probe fit-check": f"{PROMISE} {NO_RUNS} force",
    "status": f"{PROMISE} seed temperature policy draft max_new_tokens n dry_run time_limit backend workers "
    "threads batch grader",
    "serve": "json seed n force dry_run time_limit workers grader",
    "chat": "json n force dry_run time_limit workers batch grader",
    "ngrams": f"{PROMISE} seed temperature policy draft max_new_tokens n dry_run time_limit workers grader batch",
}
ARGUMENTS = {
    "demo": [],
    "calibrate": ["tiny", "--tasks", "tiny", "--out", "p.safetensors"],
    "eval": ["tiny"],
    "report": ["p.safetensors"],
    "run": ["tiny", "48 a-9 b+6 c-3"],
    "sample": ["tiny", "48 a-9 b+6 c-3"],
    "inspect": ["p.safetensors"],
    "replay": ["p.runs.jsonl"],
    "bench": ["tiny"],
    "advise draft": ["tiny", "--drafts", "tiny"],
    "advise policy": ["tiny", "--texts", "t.txt"],
    "advise samples": ["tiny", "--tasks", "tiny", "--out", "s.html"],
    "calibrate-votes": ["tiny", "--tasks", "tiny", "--out", "v.json"],
    "frontier": ["tiny", "--tasks", "tiny", "--out", "f.html"],
    "stability": ["tiny", "--tasks", "tiny", "--perturb", "text", "--out", "s.html"],
    "models": [],
    "plugins": [],
    "mcq": ["tiny", "--tasks", "tiny", "--out", "m.html"],
    "pairs": ["tiny", "--tasks", "tiny", "--out", "p.jsonl"],
    "diagnose fractal": ["tiny", "--texts", "t.txt", "--out", "f.html"],
    "view": ["runs.jsonl"],
    "probe pack": ["p.safetensors", "--out", "folder"],
    "probe show": ["p.safetensors"],
    "probe fit-check": ["tiny", "p.safetensors"],
    "status": ["s.store"],
    "serve": ["tiny"],
    "chat": ["tiny"],
    "ngrams": ["tiny", "t.txt", "--out", "n.ngrams"],
}
VALUES = {
    "json": [],
    "force": [],
    "dry_run": [],
    "temperature": ["0.5"],
    "policy": ["greedy"],
    "draft": ["ngram(4)"],
    "mode": ["wrong"],
    "risk": ["0.1"],
    "confidence": ["marginal"],
    "signal": ["trial"],
    "domain": ["a"],
    "give_up": ["0.1"],
    "backend": ["llama"],
    "grader": ["m:f"],
}


def flag(name: str) -> list[str]:
    return ["-n" if name == "n" else "--" + name.replace("_", "-"), *VALUES.get(name, ["3"])]


def pairs() -> Iterator[tuple[str, str]]:
    for command, names in MEANS_NOTHING.items():
        for name in names.split():
            yield command, name


@pytest.mark.parametrize(("command", "name"), list(pairs()))
def test_an_option_that_means_nothing_is_refused(command, name, capfd):
    code, out, err = ctl(capfd, *command.split(), *ARGUMENTS[command], *flag(name))
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert f"Error: {flag(name)[0]} means nothing to ctl {command}" in err


def test_the_table_is_of_all_commands_and_their_help_shows_the_others():
    found = {}
    for name, command in cli.commands.items():
        parts = command.commands.items() if isinstance(command, click.Group) else [(None, command)]
        found.update({name if part is None else f"{name} {part}": one for part, one in parts})
    assert set(found) == set(MEANS_NOTHING) == set(ARGUMENTS)
    for name, command in found.items():
        shown = {one.name for one in command.params if isinstance(one, click.Option) and not one.hidden}
        assert shown & set(SHARED) == set(SHARED) - set(MEANS_NOTHING[name].split()), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "tiny", "x", "--probe", "none", "--risk", "0.1"], "--risk means nothing to ctl run without a probe"),
        (["run", GGUF, "x", "--mode", "wrong"], "--mode means nothing to ctl run without a probe"),
        (["run", GGUF, "x", "--shadow"], "--shadow means nothing to ctl run without a probe"),
        (["bench", "tiny", "--probe", "none", "--signal", "trial"], "--signal means nothing to ctl bench without"),
        (["inspect", "tiny", "--risk", "0.1"], "--risk means nothing to ctl inspect tiny"),
        (["inspect", "tiny", "--traces", "t.jsonl"], "--traces means nothing to ctl inspect tiny"),
        (["inspect", str(BUNDLED_PROBE), "--threads", "2"], "--threads means nothing"),
        (["calibrate", "tiny", "--tasks", "tiny", "--out", "h", "--heads", "--risk", "0.1"], "--risk means nothing"),
        (["calibrate", "tiny", "--tasks", "tiny", "--out", "h", "--heads", "--cues", "wait"], "--cues means nothing"),
        (["calibrate", "tiny", "--tasks", "tiny", "--out", "h", "--unweighted"], "--unweighted means nothing"),
        (["eval", "tiny", "--force"], "--force means nothing to ctl eval without --report"),
        (["advise", "policy", "tiny", "--texts", __file__, "-n", "3"], "-n means nothing to ctl advise policy --texts"),
        (["advise", "policy", "tiny", "--texts", __file__, "--force"], "--force means nothing to ctl advise policy"),
        (["run", "tiny", ""], "PROMPT is ''"),
        (["run", GGUF, " \n"], "PROMPT is ' \\n'"),
    ],
)
def test_an_option_that_means_nothing_here_is_refused(arguments, words, capfd):
    code, out, err = ctl(capfd, *arguments)
    assert code == 2 and not out and len(err.splitlines()) == 1 and words in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "tiny", "-n", "999999999999"],
        ["run", "tiny", "48 a-9", "--seed", str(2**64)],
        ["replay", "p.runs.jsonl", "--splits", "999999999999"],
        ["run", "tiny", "48 a-9", "--temperature", "nan"],
        ["calibrate", "tiny", "--tasks", "tiny", "--out", "p.safetensors", "--dry-run", "--time-limit", "nan"],
    ],
    ids=lambda arguments: arguments[-2],
)
def test_a_number_out_of_its_range_is_refused_before_any_work(arguments, capfd):
    code, out, err = ctl(capfd, *arguments)
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert f"Invalid value for '{arguments[-2]}'" in err and arguments[-1] in err


@pytest.mark.parametrize(("named", "batch"), [((), 4), (("--batch", "1"), 1)])
def test_four_runs_are_calibrated_together_unless_a_batch_is_named(named, batch, tmp_path, capfd):
    job = ["calibrate", "tiny", "--tasks", "tiny", "--out", str(tmp_path / "p.safetensors"), "--dry-run", "--json"]
    code, out, err = ctl(capfd, *job, *named)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["recipe"]["batch"] == batch


@pytest.mark.parametrize("threads", [0, -1, PER_CORE * cores() + 1])
def test_loaders_take_as_many_threads_as_there_are_cores_for(threads):
    for load, name in ((load_model, "tiny"), (load_masked, TINY_MASKED)):
        with pytest.raises(ControllerError, match=f"threads is {threads}; with {cores()} cores? it must be from 1 to"):
            load(name, threads=threads)
    check_cores("threads", PER_CORE * cores())


@pytest.mark.parametrize("command", [["run", "tiny", "48 a-9", "--threads"], ["eval", "tiny", "--workers"]])
def test_threads_and_processes_beyond_the_cores_are_refused_before_any_work(command, capfd):
    code, out, err = ctl(capfd, *command, "1000")
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert f"{command[-1][2:]} is 1000; with {cores()} core" in err


def test_a_model_without_a_probe_runs_plainly_and_says_so(capfd):
    code, out, err = ctl(capfd, "run", GGUF, "48 a-9 b+6 c-3", "--max-new-tokens", "5")
    assert code == 0 and out.splitlines()[0].startswith("no --probe, so") and not err
    code, out, _ = ctl(capfd, "run", "tiny", "48 a-9 b+6 c-3", "--max-new-tokens", "5")
    assert code == 0 and "no --probe" not in out


def test_tiny_says_what_it_understands(capfd):
    short = ["--max-new-tokens", "3", "--probe", "none"]
    code, out, _ = ctl(capfd, "run", "tiny", "What is 2+2?", *short)
    assert code == 0 and "tiny answers chains such as '48 a-9 b+6 c-3' only" in out
    assert "only; what" not in ctl(capfd, "run", "tiny", "48 a-9 b+6 c-3", *short)[1]
    assert all(understands(problem.question) for problem in fresh_problems(200, 0))


TWO_GRADERS = """
import sys
sys.path[0] = "/nowhere"
from reasonctl.calibration.cli.main import main
for name in ("mine:right", "yours:right"):
    print("--", file=sys.stderr)
    try:
        main([*sys.argv[1:], name])
    except SystemExit as end:
        print(name, end.code or 0)
"""


def test_a_grader_lies_in_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text("def right(question, gold, answer):\n    return True\n")
    (tmp_path / "json.py").write_text("raise SystemExit('the installed json comes first')\n")
    out = tmp_path / "p.safetensors"
    job = ["calibrate", "tiny", "--tasks", "tiny", "--out", str(out), "--dry-run", "--grader"]
    done = subprocess.run(
        [sys.executable, "-c", TWO_GRADERS, *job], cwd=tmp_path, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-2:] == ["mine:right 0", "yours:right 2"], done.stderr
    said = done.stderr.rpartition("--\n")[2]
    assert "yours:right' can't be imported" in said and len(said.splitlines()) == 1


def test_ngrams_are_made_from_collected_runs(tmp_path, capfd):
    probe, out = tmp_path / "p.safetensors", tmp_path / "own.ngrams"
    job = [
        "calibrate",
        "tiny",
        "--tasks",
        "tiny",
        "--out",
        str(probe),
        "-n",
        "4",
        "--fit",
        "3",
        "--time-limit",
        "0.001",
    ]
    assert ctl(capfd, *job, "--workers", "1", "--max-new-tokens", "200")[0] == 0
    code, printed, _ = ctl(capfd, "ngrams", "tiny", f"{probe}.runs.jsonl", "--out", str(out), "--json")
    assert code == 0 and json.loads(printed.splitlines()[-1])["ngrams"] > 10 and out.exists()


def test_a_hub_id_without_a_network_fails_at_once(monkeypatch, capfd):
    def refused(*_: object, **__: object) -> socket.socket:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "create_connection", refused)
    for proxy in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    code, _, err = ctl(capfd, "run", "no-such/model", "x")
    assert code == 2 and "no folder 'no-such/model'" in err and "give its folder's path" in err
    assert len(err.splitlines()) == 1
