"""What looking costs in tokens, counted where they are fed: at the engine, on both backends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from reasonctl.backends.load import BUNDLED_PROBE
from reasonctl.calibration.runs.worker import collect_run, one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes import ProbeExit, load_exit
from support import recipes

RECIPE = replace(recipes.RECIPE, layers=(1 / 3, 2 / 3, 1.0))
QUESTION = load_task("tiny").problems(1, stream=6)[0].question


@dataclass
class Meter:
    """Stands in for an engine's forward: which session was fed how many tokens, request by request, without drafts."""

    forward: Any
    sessions: list[Any]
    fed: list[list[int]]

    def __call__(self, requests):
        for request in requests:
            # By identity, and kept alive: a closed session's id may come again.
            at = next((i for i, one in enumerate(self.sessions) if one is request.session), None)
            if at is None:
                at = len(self.sessions)
                self.sessions.append(request.session)
                self.fed.append([])
            self.fed[at].append(len(request.pending))
        return self.forward(requests)


@pytest.fixture(params=["llama.cpp", "transformers"])
def metered(request, monkeypatch):
    recipe = replace(RECIPE, backend=request.param)
    model = recipe.load()
    meter = Meter(model.engine.forward, [], [])
    monkeypatch.setattr(model.engine, "forward", meter)
    return recipe, model, meter


def test_a_forced_exit_feeds_its_suffix_and_its_answer_and_never_the_prefix(metered):
    recipe, model, meter = metered
    record = collect_run(recipe, 0, QUESTION)
    prompt, suffix = model.prompt(QUESTION), len(model.tokenizer.encode(recipe.suffix))
    run, *forks = meter.fed
    assert len(forks) == len(record.cues) >= 3
    for fork, cue in zip(forks, record.cues, strict=True):
        answer = len(cue.logprobs)
        # A cue's token may carry text ahead of the cue ("\nWait"): one more token of suffix.
        assert suffix <= fork[0] <= suffix + 1 < len(prompt) + cue.position
        assert cue.trial == fork[0] + answer
        assert sum(fork) <= fork[0] + answer
        assert set(fork[1:]) <= {1} and len(fork) <= answer  # answers that are alike are drafted
    assert sum(map(len, forks)) < sum(len(cue.logprobs) for cue in record.cues)
    assert sum(run) <= len(prompt) + record.tokens  # nor does the run itself see anything twice


def test_looking_at_hidden_states_feeds_nothing(metered):
    recipe, model, meter = metered
    found = load_exit(BUNDLED_PROBE)
    never = ProbeExit(found.content, found.promise, replace(found.threshold, value=2.0))
    assert never.reads and never.signal_name == "hidden"
    counts = {}
    for name, rule in (("plain", None), ("looking", never)):
        meter.sessions.clear(), meter.fed.clear()
        trace, _ = one_run(recipe, model, 0, QUESTION, rule)
        counts[name] = meter.fed[:]
    assert len(trace.decisions) >= 3
    assert counts["looking"] == counts["plain"] and len(counts["plain"]) == 1
