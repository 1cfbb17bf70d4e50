"""`ctl calibrate --heads` as its user meets it, a kill in the middle included, and what comes of the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.load import load_model
from reasonctl.calibration.cli.main import main
from reasonctl.controller import Call, Chain, Controller, Decision, Keys, Temperature, TopP, Trace, parse_policy
from support.ctl import ctl
from support.example_scripts import load
from support.heads_files import for_model, heads_file
from support.policy_calls import CUED, OPEN, ExitAtFirst
from support.processes import wait_for

COMMAND = ["calibrate", "tiny", "--tasks", "tiny", "--heads", "-n", "40", "--max-new-tokens", "300", "--workers", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "h.safetensors"
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--out", str(path)])
    assert not ended.value.code
    return path


def test_heads_are_made_shown_and_used(made, capfd):
    assert sorted(path.name for path in made.parent.iterdir()) == ["h.safetensors", "h.safetensors.runs.jsonl"]
    code, out, _ = ctl(capfd, "inspect", str(made), "--json")
    card = json.loads(out.splitlines()[-1])["heads"]
    assert code == 0 and card["runs"]["collected"] == 40 and card["sampler"]["policy"] == "temperature(1)"
    assert card["training"]["weighted"] and 0 < card["report"]["temperature"] < 2
    policy = ["--policy", f"autodeco({made})", "--probe", "none", "--json"]
    code, out, err = ctl(capfd, "run", "tiny", "48 a-9 b+6 c-3", "-v", *policy)
    assert code == 0 and "autodeco(" in err and len(json.loads(out.splitlines()[-1])["tokens"]) > 10


def test_an_existing_file_is_kept(made, capfd):
    before = made.read_bytes()
    code, _, err = ctl(capfd, *COMMAND, "--out", str(made))
    assert code == 2 and "--force" in err and made.read_bytes() == before


def test_heads_of_another_model_are_one_line(tmp_path, capfd):
    path = for_model(tmp_path / "h.safetensors", load_model("tiny", threads=1), fingerprint="cd" * 32)
    code, _, err = ctl(capfd, "run", "tiny", "48 a-9", "--probe", "none", "--policy", f"autodeco({path})")
    assert code == 2 and err.startswith("Error: heads were fitted on") and len(err.splitlines()) == 1


def test_too_few_right_runs_are_one_line(tmp_path, capfd):
    few = [*COMMAND[:6], "10", *COMMAND[7:]]
    code, _, err = ctl(capfd, *few, "--out", str(tmp_path / "h.safetensors"))
    assert code == 2 and "heads need at least 20" in err


def test_a_stage_of_another_package_says_where_it_is():
    code = "from reasonctl.controller import parse_policy\nparse_policy('autodeco(x)')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert "import reasonctl.probes first" in told.splitlines()[-1]


class TriesFirst(ExitAtFirst):
    """Tries an answer at the first cue, then leaves."""

    trials = True

    def __init__(self):
        self.tried: list[int] = []

    def decide(self, at):
        trial = yield from at.answer(6)
        self.tried += trial.tokens
        return Decision(True, at.cue.name, at.cue.index, at.cue.first - at.prompt, 1.0, 0.5)


def test_a_trial_and_the_exit_that_it_tries_have_the_same_temperatures(tmp_path):
    policy, compared = parse_policy(f"autodeco({heads_file(tmp_path / 'h.safetensors')})"), 0
    assert policy.layers(3) == (2,)
    for seed in range(30):
        rule, trace = TriesFirst(), Trace()
        call = Call([5, 0], 25, frozenset(), Keys(seed=seed), policy)
        list(Controller(exit=rule).stream(CUED.session(), OPEN, call, trace))
        if trace.forced is not None and not trace.repeated:
            answer = trace.tokens[sum(trace.forced) :]
            n = min(len(answer), len(rule.tried))
            assert n and answer[:n] == rule.tried[:n]
            compared += 1
    assert compared > 5


def test_the_example_s_likelihood_is_the_chain_s_law():
    example = load("studies/autodeco.py")
    logits = np.random.default_rng(0).normal(size=(200, 9)) * 3
    labels = np.arange(200) % 9
    got, outside = example.likelihood(logits, labels, 0.8, 0.9)
    for at, (row, label) in enumerate(zip(logits, labels, strict=True)):
        law = Chain(Temperature(0.8), TopP(0.9)).probs(row)
        own = np.exp(row) / np.exp(row).sum()
        assert got[at] == pytest.approx(np.log((1 - example.MIXED) * law[label] + example.MIXED * own[label]))
        assert outside[at] == (law[label] == 0)
    assert 0 < outside.mean() < 1


@pytest.mark.slow
def test_a_kill_in_training_leaves_no_trace(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "h.safetensors"
    checkpoint = tmp_path / "h.safetensors.training"
    start = [
        sys.executable,
        "-c",
        "from reasonctl.calibration.cli.main import main; main()",
        *COMMAND,
        "-n",
        "120",
        "--out",
    ]
    subprocess.run([*start, str(whole)], capture_output=True, check=True)
    command = [*start, str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        assert wait_for(lambda: checkpoint.exists() or job.poll() is not None, 300)
        assert job.poll() is None, "the job ended before it was killed"
        os.kill(job.pid, signal.SIGKILL)
    assert checkpoint.exists() and not out.exists()
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "training: 0 of" not in told.stderr  # it began behind its checkpoint
    assert out.read_bytes() == whole.read_bytes() and not checkpoint.exists()
