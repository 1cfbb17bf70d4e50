"""Runs that are read instead of decoded: the same records, the same threshold, in a fraction of the forwards."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from reasonctl.backends import load_model
from reasonctl.calibration.runs.logged import LoggedRun
from reasonctl.calibration.runs.making import run_once
from reasonctl.calibration.runs.own_runs import check_own, explained_by
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.runs.splits import runs_path
from reasonctl.calibration.runs.trials import Trials
from reasonctl.calibration.runs.worker import Collect, collect_run, one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Call, Controller, ControllerError, Keys
from reasonctl.probes.files import load_probe
from support.ctl import ctl
from support.jobs import job
from support.recipes import RECIPE

ROUNDING = 2e-3
"""Hidden states of one batch of rows and of single rows differ by less, relative to the largest."""


def logged(trace, model) -> LoggedRun:
    tokens = tuple(token for token in trace.tokens if token not in model.eos)
    return LoggedRun(tokens, "log.jsonl:1")


def runs_of(recipe, n, stream=7):
    """The recipe's own runs, as a log has them."""
    model, problems = recipe.load(), load_task("tiny").problems(n, stream=stream)
    traces = [one_run(recipe, model, i, problem.question, None).trace for i, problem in enumerate(problems)]
    return [(problem, logged(trace, model)) for problem, trace in zip(problems, traces, strict=True)]


def bare(record):
    """A record without the numbers that rounding may change."""
    cues = [replace(cue, hidden="", entropy=0.0, logprobs=(), score=None) for cue in record.cues]
    return replace(record, cues=tuple(cues), others=())


@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
@pytest.mark.parametrize("policy", ["temperature(0.6)", "penalties(repeat=1.05) | temperature(0.6)"])
def test_a_run_that_is_read_has_the_records_of_the_decoded_one(backend, policy):
    """Trials included, also where the policy has a state."""
    recipe = replace(RECIPE, backend=backend, policy=policy, max_new_tokens=100)
    model = recipe.load()
    ((problem, run),) = runs_of(recipe, 1)
    decoded = collect_run(recipe, 0, problem.question)
    read = collect_run(recipe, 0, problem.question, logged=run)
    assert bare(read) == bare(decoded) and read.cues
    for mine, theirs in zip(read.cues, decoded.cues, strict=True):
        assert np.abs(mine.state - theirs.state).max() < ROUNDING * np.abs(theirs.state).max()
        assert mine.entropy == pytest.approx(theirs.entropy, abs=1e-2)
    plain, _ = one_run(recipe, model, 0, problem.question, None, run)
    explained = explained_by(recipe, [(problem, run)])
    assert plain.tokens[: len(run.tokens)] == list(run.tokens)
    assert plain.forwards <= len(run.tokens) / 20
    assert explained.impossible == 0 and explained.tokens == len(plain.tokens)


def test_a_cue_without_a_trial_ends_no_walk():
    model, ((problem, run),) = RECIPE.load(), runs_of(RECIPE, 1)
    rules = [Collect(RECIPE, model, 0, Trials(at)) for at in ("records", "all")]
    plain, untried, tried = (one_run(RECIPE, model, 0, problem.question, rule, run).trace for rule in (None, *rules))
    assert len(rules[0].seen) == len(rules[1].seen) == len(untried.decisions) > 2
    assert untried.forwards == plain.forwards < tried.forwards - tried.trial_forwards


def test_the_models_own_runs_are_taken_and_another_temperatures_refused():
    own = runs_of(RECIPE, 10)
    assert "0 impossible" in check_own(RECIPE, own)
    hot = runs_of(replace(RECIPE, policy="temperature(1.3)"), 10)
    with pytest.raises(
        ControllerError, match=r"surprisal of 0\.\d+ nats, and temperature\(0.6\) of tiny expects 0\.\d"
    ):
        check_own(RECIPE, hot)
    with pytest.raises(ControllerError, match="another sampler"):
        check_own(replace(RECIPE, policy="greedy"), own)
    with pytest.raises(ControllerError, match=r"[1-9]\d* impossible"):
        check_own(replace(RECIPE, policy="top_k(1) | temperature(0.6)"), hot)


def test_a_log_of_another_model_is_refused():
    import torch

    other = load_model("tiny", backend="transformers", threads=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in other.library.parameters():
            weights.add_(0.3 * weights.std() * torch.randn_like(weights))
    runs = []
    for i, problem in enumerate(load_task("tiny").problems(4, stream=7)):
        call = Call(other.prompt(problem.question), 60, other.eos, Keys(seed=3, run=i), RECIPE.parsed_policy())
        trace, _ = run_once(other, Controller(), call)
        runs.append((problem, logged(trace, other)))
    with pytest.raises(ControllerError, match="another model or another sampler wrote it"):
        check_own(RECIPE, runs)


@pytest.mark.parametrize("backend", ["llama", pytest.param("hf", marks=pytest.mark.slow)])
def test_calibrating_on_a_log_gives_the_decoded_jobs_threshold(tmp_path, capfd, backend):
    decoded, read = tmp_path / "decoded.safetensors", tmp_path / "read.safetensors"
    code, out, _ = ctl(capfd, *job(decoded, 20), "--no-report", "--backend", backend)
    assert code == 0
    wanted = json.loads(out.splitlines()[-1])["calibration"]
    records = RunFile(runs_path(decoded), {}).read()
    log, answers = tmp_path / "log.jsonl", tmp_path / "answers.jsonl"
    log.write_text(
        "no JSON\n"
        + "".join(
            json.dumps({"prompt": one.question, "completion": one.text, "finish_reason": one.finish}) + "\n"
            for one in records
        )
    )
    answers.write_text("".join(json.dumps({"question": one.question, "answer": one.gold}) + "\n" for one in records))
    arguments = [
        *("calibrate", "tiny", "--runs", str(log), "--fit", "12", "--risk", "0.3", "--max-new-tokens", "200"),
        *("--workers", "1", "--no-report", "--json", "--backend", backend),
    ]
    code, _, err = ctl(capfd, *arguments, "--out", str(read))
    assert code == 2 and "--mode harm needs right answers, and a log has none" in err
    code, _, err = ctl(capfd, *arguments, "--out", str(read), "--tasks", str(answers), "--temperature", "1.5")
    assert code == 2 and "another sampler wrote it" in err and not runs_path(read).exists()
    code, out, err = ctl(capfd, *arguments, "--out", str(read), "--tasks", str(answers))
    assert code == 0 and "20 of 21 lines of log.jsonl are read" in err and "no JSON object (log.jsonl:1)" in err
    found = json.loads(out.splitlines()[-1])["calibration"]
    assert found == {**wanted, "threshold": pytest.approx(wanted["threshold"], abs=ROUNDING), "auc": found["auc"]}
    file = RunFile(runs_path(read), {})
    near_ties = 0
    for mine, theirs in zip(file.read(), records, strict=True):
        assert (mine.tokens, mine.finish, mine.gold) == (theirs.tokens, theirs.finish, theirs.gold)
        for one, other in zip(mine.cues, theirs.cues, strict=True):
            assert one.labelled == other.labelled
            assert (one.score is None) == (other.score is None)
            assert one.score is None or one.score == pytest.approx(other.score, abs=ROUNDING)
            near_ties += one.answer != other.answer
    assert near_ties <= 1
    assert file.stored_settings().text("source") == "log"
    assert load_probe(read).card.report["source"] == "the log log.jsonl, 20 of 21 lines"
    log.write_text(log.read_text() + "one more\n")
    read.unlink()
    code, _, err = ctl(capfd, *arguments, "--out", str(read), "--tasks", str(answers))
    assert code == 2 and "holds runs collected with another log" in err


def test_a_file_from_before_logs_had_a_digest_is_gone_on_with(tmp_path):
    file = RunFile(tmp_path / "r.jsonl", {"source": "log"})
    file.open(force=False)
    file.close()
    newer = RunFile(file.path, {"source": "log", "log": "abc"})
    newer.check()
    newer.open(force=True)
    newer.close()
    RunFile(tmp_path / "s.jsonl", {"source": "log", "log": "abc"}).open(force=False)
    with pytest.raises(ControllerError, match="another log"):
        RunFile(tmp_path / "s.jsonl", {"source": "log", "log": "abd"}).check()
