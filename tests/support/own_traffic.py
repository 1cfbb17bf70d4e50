"""A store of made-up traffic: runs with a known share of failures, labelled as the model's own would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reasonctl.calibration.learning import LearnedSettings, StoreLimits, learn
from reasonctl.calibration.learning.labelling import packed, without_texts
from reasonctl.calibration.learning.learned import Learned
from reasonctl.calibration.learning.promises import first_of, plan_of
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.tasks.problem import Problem
from support.run_records import cue, run
from support.toy_models import writing

SETTINGS = LearnedSettings(fit=40, markers=None, suffix="?", cues=("wait",), layers=(1.0,), share=0.5)
CALL = {"policy": "greedy", "max_new_tokens": 60}
MODEL = writing([b"a", b"b"])


def opened(
    path: Path, *, risk: float = 0.1, settings: LearnedSettings = SETTINGS, client_share: float = 0.25, **limits: object
) -> Learned:
    """The rule of a store, with a model and a call."""
    rule = learn(path, risk=risk, settings=settings, limits=StoreLimits(**limits), client_share=client_share)
    rule.traffic.store.connection.execute("PRAGMA synchronous = OFF")  # a disk that is busy makes no test slow
    rule.check(MODEL)
    rule.traffic.fix("call", CALL)
    return rule


def record(rule: Learned, number: int, rng: np.random.Generator, *, wrong: bool = False) -> RunRecord:
    """A run whose answer is known from some cue on; the state at each cue says so with noise.

    wrong: The state says so, and the answer is another one.
    """
    known, text = int(rng.integers(1, 6)), rule.traffic.stage().plan
    frozen = None if text is None else plan_of(text)
    highest, cues = -np.inf, []
    for i in range(8):
        state = np.array([4.0 * (i >= known) - 2.0, 0.0, 0.0]) + 0.3 * rng.normal(size=3)
        met = cue(position=10 * i, row=10 * i, tokens=10 * i + 5, state=state, same=i >= known and not wrong)
        if frozen is not None:
            score = frozen.probe.score(met.state)
            met = replace(met, score=score)
            if not score > max(highest, frozen.floor):
                met = replace(met, answer=None, tokens=None, trial=0, logprobs=(), same=False)
            highest = max(highest, score)
        cues.append(met)
    made = run(
        run=number, problem=Problem(f"run {number}", None).id, tokens=100, cues=tuple(cues), gold=None, right=False
    )
    return without_texts(made, states=frozen is None)


def add(rule: Learned, runs: int, seed: int, *, left: bool = False, client: str = "", wrong: Sequence[int] = ()) -> int:
    """Runs of the traffic that come, end and are labelled; or are left. How many were admitted.

    client: Who asks. wrong: Which of them say something else at their end.
    """
    rng, traffic, admitted = np.random.default_rng(seed), rule.traffic, 0
    for i in range(runs):
        stage = traffic.stage()
        number = traffic.admit(stage, [seed, i, 5], 3, client, first_of(0.1, 0.9, stage.promise))
        assert number is not None or client
        if number is None:
            continue
        admitted += 1
        if left:
            traffic.leave(stage.promise, number)
            continue
        traffic.end(stage.promise, number, [seed, i], [1, 2, 3])
        traffic.label(stage.promise, number, packed(record(rule, number, rng, wrong=i in wrong)), 7, keep=False)
    return admitted
