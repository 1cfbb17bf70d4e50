"""Batches on vLLM's `LLM`: an engine that dies amid them is told in one line, and any other failure as it is."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from reasonctl.backends.vllm.batch import run_all
from reasonctl.backends.vllm.client_run import ClientRun
from reasonctl.controller import ControllerError
from support.toy_thinking import EOS, PROMPT
from support.vllm_simulated import client_of, rule_of

NAMES = ("vllm", "vllm.v1", "vllm.v1.engine", "vllm.v1.engine.exceptions")


class EngineDeadError(Exception):
    """As vLLM's own; its text names a log that a user of a command hasn't got."""


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch):
    """What a batch imports of vLLM, whether it is installed or not."""
    modules = {name: ModuleType(name) for name in NAMES}
    modules["vllm"].SamplingParams = SimpleNamespace
    modules["vllm.v1.engine.exceptions"].EngineDeadError = EngineDeadError
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


class Engine:
    """Ends every run at once; from its second batch on it fails."""

    def __init__(self, failure):
        self.failure, self.batches = failure, 0

    def generate(self, prompts, params, use_tqdm):
        self.batches += 1
        if self.batches > 1:
            raise self.failure
        ended = SimpleNamespace(token_ids=[EOS], logprobs=None, finish_reason="stop")
        return [SimpleNamespace(outputs=[ended]) for _ in prompts]


def batches(failure):
    """Two batches of three runs, of which the second one fails; what was raised, and the runs."""
    engine, client = Engine(failure), client_of(rule_of())
    runs = [ClientRun(client, list(PROMPT), 60, {}) for _ in range(6)]
    run_all(engine, runs[:3], [{}] * 3)
    with pytest.raises(Exception) as raised:  # noqa: PT011 -- which one is what the tests ask
        run_all(engine, runs[3:], [{}] * 3)
    return raised.value, runs


def test_an_engine_that_has_died_is_told_in_one_line():
    """What was made before it died is kept; the engine's own error stays as the cause."""
    failure = EngineDeadError("EngineCore encountered an issue.\nSee stack trace (above) for the root cause.")
    error, runs = batches(failure)
    assert isinstance(error, ControllerError) and error.__cause__ is failure
    assert str(error).startswith("vLLM's engine has ended amid the runs") and "\n" not in str(error)
    assert [run.finish for run in runs] == ["stop"] * 3 + [None] * 3
    assert [run.written for run in runs] == [[EOS]] * 3 + [[]] * 3


def test_any_other_failure_is_not_called_the_engines_death():
    failure = RuntimeError("a mistake of ours")
    assert batches(failure)[0] is failure
