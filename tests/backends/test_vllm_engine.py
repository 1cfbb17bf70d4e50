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

pytestmark = pytest.mark.vllm

SECONDS = 900


@cache
def _made(text: str, variables: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, "tests"]), **dict(variables)}
    command = [sys.executable, "-m", "support.vllm_jobs", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def job(variables: dict[str, str] | None = None, **job: Any) -> dict[str, Any]:
    """The result of a job of `support.vllm_jobs`."""
    return _made(json.dumps(job), tuple((variables or {}).items()))


def check_same(found: dict[str, Any], n: int) -> None:
    """Every run, full and exited, is ours token by token; so is every decision."""
    for arm in ("full", "exit"):
        assert found[arm]["same"] == n, found[arm]["first_difference"]
    assert found["exit"]["same_decisions"] and found["exit"]["decisions"] >= found["exit"]["exits"] > n / 2
    assert found["exit"]["apart"] < 1e-4 and found["exit"]["unread"] == 0


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
