"""A server's clients save what `ctl eval` says: the same problems through both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reasonctl.backends.load import BUNDLED_PROBE
from reasonctl.calibration.evaluation.pairs import Pair, evaluate_pairs
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes import load_exit
from support.recipes import RECIPE
from support.serving import POLICY, Running, running

TASK = load_task("tiny")
PROBLEMS = TASK.problems(60, stream=8)


def evaluated(policy: str) -> list[Pair]:
    """The problems as `ctl eval` runs them."""
    recipe, rule = replace(RECIPE, policy=policy, max_new_tokens=768), load_exit(BUNDLED_PROBE, risk=0.05)
    return evaluate_pairs(
        recipe, PROBLEMS, TASK.grader, rule, workers=1, with_baselines=False, progress=lambda done, of: None
    )


def asked(served: Running, problems: Sequence[Problem], **fields: Any) -> list[dict[str, Any]]:
    """What a server did with the problems."""
    answers = (
        served.ask(messages=[{"role": "user", "content": problem.question}], **{"seed": i, **fields})
        for i, problem in enumerate(problems)
    )
    return [answer.reasonctl["choices"][0] for answer in answers]


@pytest.mark.slow
def test_tokens_saved_through_a_server_are_those_of_an_evaluation() -> None:
    """Greedy, so that both draw the same tokens: each run costs the same in both, with the probe and without."""
    pairs = evaluated("greedy")
    with running() as served:
        controlled = asked(served, PROBLEMS, temperature=0)
        sampled = asked(served, PROBLEMS)
    with running(probe=False) as served:
        plain = asked(served, PROBLEMS, temperature=0)
    assert [one["cost"] for one in controlled] == [pair.controlled.tokens for pair in pairs]
    assert [one["cost"] for one in plain] == [pair.baseline.tokens for pair in pairs]
    assert sum(one["cost"] for one in controlled) < 0.6 * sum(one["cost"] for one in plain)
    assert all(one["saved"] == 0 for one in plain)

    # What a server says that its exits saved comes from the calibration's runs, and so from their sampler. False alarm:
    # 0.3 % at three standard errors, and the seeds are fixed.
    own = evaluated(POLICY)
    saved = np.array([pair.baseline.tokens - pair.controlled.tokens for pair in own], dtype=float)
    said = np.array([one["saved"] for one in sampled])
    error = np.sqrt((saved.var(ddof=1) + said.var(ddof=1)) / len(PROBLEMS))
    print(f"saved {saved.mean():.1f} a run, said {said.mean():.1f}, standard error {error:.1f}")
    assert abs(said.mean() - saved.mean()) <= 3 * error
    cost = np.array([one["cost"] for one in sampled], dtype=float)
    evaluated_cost = np.array([pair.controlled.tokens for pair in own], dtype=float)
    error = np.sqrt((cost.var(ddof=1) + evaluated_cost.var(ddof=1)) / len(PROBLEMS))
    print(
        f"cost {cost.mean():.1f} through the server, {evaluated_cost.mean():.1f} evaluated, standard error {error:.1f}"
    )
    assert abs(cost.mean() - evaluated_cost.mean()) <= 3 * error
