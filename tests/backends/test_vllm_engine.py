"""vLLM itself with our worker and processor: the runs are those of our own loop on transformers.

Each test starts an engine in a process of its own, which takes 20 seconds on a quiet machine. `make vllm` runs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from reasonctl.probes.risk import refutes

pytestmark = pytest.mark.vllm

SECONDS = 900


@cache
def _run(module: str, text: str, variables: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """The last line of what a module of `support` writes in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, "tests"]), **dict(variables)}
    command = [sys.executable, "-m", module, text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def job(variables: dict[str, str] | None = None, **job: Any) -> dict[str, Any]:
    """The result of a job of `support.vllm_jobs`."""
    return _run("support.vllm_jobs", json.dumps(job), tuple((variables or {}).items()))


def check_same(found: dict[str, Any], n: int) -> None:
    """Every run, full and exited, is ours token by token; so is every decision."""
    for arm in ("full", "exit"):
        assert found[arm]["same"] == n, found[arm]["first_difference"]
    assert found["exit"]["same_decisions"] and found["exit"]["decisions"] >= found["exit"]["exits"] > n / 2
    assert found["exit"]["apart"] < 1e-4 and found["exit"]["unread"] == 0


def test_what_a_user_may_do_wrong() -> None:
    """An impossible risk is refused, aborted requests are forgotten, and at 0.6 exits harm few runs."""
    found = job(n=200, ours=False, temperature=0.6)
    assert "reasonctl_risk is 7; it must lie between 0 and 1" in found["refused"] and found["left_over"] == 0
    assert not refutes(found["harm"], 200, 0.05), found["harm"]
    assert found["exit"]["exits"] > 180 and found["exit"]["tokens"] < 0.5 * found["full"]["tokens"]


def check_alike(found: dict[str, Any], other: dict[str, Any]) -> None:
    """Two engines have made the same runs and the same decisions."""
    for arm in ("full", "exit"):
        assert found[arm]["digest"] == other[arm]["digest"] and found[arm]["scores"] == other[arm]["scores"], arm


def test_runs_are_ours() -> None:
    """With 60 runs at once each cue is followed by itself."""
    check_same(job(n=200, at_once=60), 200)


def test_many_runs_at_once_are_the_same() -> None:
    """128 at a time go through arrays."""
    check_alike(job(n=200, ours=False), job(n=200, at_once=60))


def test_parts_of_prompts_and_requests_that_must_wait_change_nothing() -> None:
    """40 tokens a step, so that prompts come in parts; few blocks, so that requests leave the batch and come back."""
    engine = {
        "max_num_batched_tokens": 40,
        "max_num_seqs": 32,
        "enable_chunked_prefill": True,
        "num_gpu_blocks_override": 34,
    }
    found = job(n=200, engine=engine, ours=False)
    check_alike(found, job(n=200, at_once=60))
    assert found["counts"]["resumed"] > 10 and found["exit"]["unread"] == 0


@pytest.mark.parametrize("form", ["append", "append-open"])
def test_exits_whose_cue_stays_are_ours(form: str) -> None:
    check_same(job(n=60, form=form), 60)


def check_alike_in_two_processes(found: dict[str, Any], n: int) -> None:
    """Both processes of an engine decide the same, and the runs are ours."""
    arm = found["exit"]
    assert arm["same"] == n, arm["first_difference"]
    assert arm["ranks_alike"] and arm["same_decisions"] and arm["decisions"] >= arm["exits"] > n / 4


def test_two_processes_that_share_the_tensors_give_the_same() -> None:
    check_alike_in_two_processes(job(n=30, engine={"tensor_parallel_size": 2}, arms=["exit"]), 30)


def test_scores_at_the_threshold_are_the_first_processs() -> None:
    """Scores are planted at the threshold and next to it; the second process has each on the other side."""
    found = job(n=30, engine={"tensor_parallel_size": 2}, arms=["exit"], planted="shared")
    check_alike_in_two_processes(found, 30)
    assert found["exit"]["decisions"] > found["exit"]["exits"] + 10


def test_the_second_model_runner_gives_the_same() -> None:
    """On a CPU its kernels are interpreted, at some 50 tokens a second."""
    found = job({"TRITON_INTERPRET": "1"}, n=10, runner="v2")
    check_same(found, 10)


def test_the_second_runner_keeps_the_state_of_requests_that_must_wait() -> None:
    """Prompts in parts, and blocks for some of the requests only; every cue is decided, and no run ends early."""
    engine = {
        "max_num_batched_tokens": 40,
        "max_num_seqs": 32,
        "enable_chunked_prefill": True,
        "num_gpu_blocks_override": 34,
    }
    one = job(n=14, arms=["shadow"], ours=False)["shadow"]
    found = job({"TRITON_INTERPRET": "1"}, n=14, arms=["shadow"], ours=False, engine=engine, runner="v2")
    assert found["shadow"]["digest"] == one["digest"] and found["shadow"]["scores"] == one["scores"]
    assert found["counts"]["resumed"] > 3 and found["shadow"]["unread"] == 0


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_a_step_reads_the_device_a_fixed_number_of_times(runner: str) -> None:
    """However many requests are at a cue: their states in one transfer; in V2 also the tokens, and new texts."""
    small = {"n": 6, "runner": runner, "engine": {"max_num_seqs": 8}}
    asked = {"n": 80} if runner == "v1" else small
    variables = (("TRITON_INTERPRET", "1"),) if runner == "v2" else ()
    found = _run("support.vllm_overhead", json.dumps(asked), variables)
    assert found["same_texts"] and 1 <= found["reads_per_step"] <= (1 if runner == "v1" else 3)


def test_runs_at_a_temperature_have_our_law() -> None:
    """Eight chi-square tests, four of full runs and four of exited ones: a false alarm in 0.8 % of all seeds."""
    found = _run("support.vllm_law", json.dumps({"n": 250, "engine": {"enable_chunked_prefill": False}}))
    for arm in ("full", "exit"):
        assert min(found[arm]["p"].values()) > 0.001, found[arm]


def test_collecting_gives_the_same_records_and_the_same_probe() -> None:
    found = _run("support.vllm_collecting", "16")
    assert found["same_texts"] == found["same_cues"] == 16 and found["cues"] > 100
    assert found["state_apart"] < 1e-4 * found["state_size"] and found["entropy_apart"] < 1e-4
    assert found["logprob_apart"] < 1e-4 and found["logprob_counts"] == found["cues"]
    assert found["scores_apart"] < 1e-3
