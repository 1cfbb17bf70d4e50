"""Signals and baseline rules on one footing: on recorded runs where it is known what predicts the answer."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from reasonctl.calibration.evaluation.baselines import EQUAL_COST, ORACLE, budget_of_cost
from reasonctl.calibration.evaluation.signals import BUDGET, Comparison, compare_signals
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.controller import ControllerError
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import count_failures
from support.run_records import cue, run
from support.simulated_runs import one_run, simulate

CUES, RISKS = 6, (0.05, 0.1)


def recorded(n: int, seed: int, *, telling: str = "hidden") -> list[RunRecord]:
    """Runs whose answer settles at a random cue. telling: what shows it, the hidden state or the cue's word."""
    rng = np.random.default_rng(seed)
    runs = []
    for number in range(n):
        settles, cues = int(rng.integers(CUES + 1)), []
        for k in range(CUES):
            right = k >= settles
            state = rng.normal(size=4)
            state[0] += 3.0 * right if telling == "hidden" else 0.0
            name = "hmm" if (right if telling == "word" else rng.random() < 0.5) else "wait"
            answer = "7" if right else str(rng.integers(90, 99))
            made = {
                "name": name,
                "position": 20 * k + int(rng.integers(10)),
                "tokens": 20 * k + 18,
                "trial": 6,
                "answer": answer,
                "right": bool(right),
                "same": bool(right),
                "logprobs": (-float(rng.random()),),
                "entropy": float(rng.random()),
                "value": str(rng.integers(9)),
                "state": state,
            }
            cues.append(cue(**made))
        runs.append(run(run=number, gold="7", tokens=160, cues=tuple(cues)))
    return runs


def compared(
    runs: list[RunRecord], *, risk: float = RISKS[0], confidence: float | None = None, **changes: object
) -> Comparison:
    asked = {"risks": RISKS, "splits": 2, "seed": 1}
    return compare_signals(runs, Promise(risk=risk, confidence=confidence), **{**asked, **changes})


@cache
def found() -> Comparison:
    return compared(recorded(400, 0))


def entry(comparison: Comparison, name: str, risk: float = 0.1):
    (one,) = (e for e in comparison.entries if (e.signal, e.risk) == (name, risk))
    return one


def test_every_row_stands_beside_every_risk():
    names = [e.signal for e in found().entries if e.risk == 0.05]
    assert names[0] == "hidden" and names[-6:] == [
        "cue index",
        "index + word",
        "index + word + text",
        BUDGET,
        EQUAL_COST,
        ORACLE,
    ]
    assert [e.signal for e in found().entries if e.risk == 0.1] == names
    assert found() == compared(recorded(400, 0)) != compared(recorded(400, 0), seed=2)


def test_the_gain_over_fixed_cues_is_that_of_the_asked_risk():
    strict, loose = found(), compared(recorded(400, 0), risk=RISKS[-1])
    assert (strict.gain_risk, loose.gain_risk) == (RISKS[0], RISKS[-1])
    assert strict.entries == loose.entries and strict.gain != loose.gain


def test_what_tells_saves_most():
    saved = {e.signal: e.saved for e in found().entries if e.risk == 0.1}
    rules = {name: share for name, share in saved.items() if name not in (ORACLE, EQUAL_COST)}
    assert max(rules, key=rules.get) in ("hidden", "stack")
    assert saved["hidden"] > saved["index + word"] + 0.05 and saved[ORACLE] > saved["index + word"]
    assert entry(found(), ORACLE).failed == 0.0 and found().gain_low > 0.05
    word = compared(recorded(400, 0, telling="word"))
    assert entry(word, "index + word").saved > entry(word, "hidden").saved + 0.1
    assert entry(word, "cue index").saved < entry(word, "index + word").saved - 0.1


@pytest.mark.parametrize("risk", RISKS)
def test_the_budget_of_equal_cost_costs_the_same_and_fails_more(risk):
    hidden, budget = entry(found(), "hidden", risk), entry(found(), EQUAL_COST, risk)
    assert budget.saved == pytest.approx(hidden.saved, abs=1e-9) and (budget.low, budget.high) == pytest.approx(
        (hidden.low, hidden.high)
    )
    assert budget.failed > 2 * hidden.failed and budget.certified == hidden.certified == 1.0
    same_risk = entry(found(), BUDGET, risk)
    assert same_risk.saved < hidden.saved and same_risk.failed < budget.failed


def test_a_risk_that_nothing_can_promise_saves_nothing():
    strict = compared(recorded(80, 3), risk=0.001, confidence=0.9, risks=(0.001,))
    for one in strict.entries:
        if one.signal != ORACLE:
            assert (one.saved, one.failed, one.exit_rate, one.certified) == (0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ControllerError, match="the promise's risk is 0.02; it must be one of"):
        compared(recorded(80, 3), risk=0.02)
    with pytest.raises(ControllerError, match="7 runs are too few"):
        compared(recorded(7, 0))


# The budget itself


def test_a_coin_between_two_budgets_meets_the_cost_exactly():
    table = one_run([0.5, 0.5], [False, True], runs=10)  # see laws.one_run for positions and costs
    first, second = (table.outcomes(np.full(10, k)).tokens.mean() for k in (0, 1))
    full = table.full_tokens.mean()
    for share in (0.0, 0.25, 1.0):
        found = budget_of_cost(table, share * first + (1 - share) * second, "harm")
        assert found.tokens.mean() == pytest.approx(share * first + (1 - share) * second)
        assert found.failed == pytest.approx(share) and found.exit_rate == 1.0
        assert found.saved == pytest.approx(full - found.tokens.mean())
    half = budget_of_cost(table, (second + full) / 2, "selective")
    assert half.exit_rate == pytest.approx(0.5) and half.failed == 0.0 and half.accuracy == 1.0
    late = budget_of_cost(table, (first + second) / 2, "selective")
    assert late.failed == pytest.approx(0.5)
    wrong = one_run([0.5], [False], runs=10)
    costs = wrong.exit_tokens.mean(), wrong.full_tokens.mean()
    sometimes = budget_of_cost(wrong, sum(costs) / 2, "selective")  # half of the runs exit, and all of those fail
    assert (sometimes.exit_rate, sometimes.failed) == pytest.approx((0.5, 1.0))


def test_costs_out_of_reach_take_the_nearest_budget():
    table = one_run([0.5, 0.5], [False, True], runs=10)
    assert budget_of_cost(table, 1.0, "harm").exit_rate == 1.0
    never = budget_of_cost(table, 1e6, "harm")
    assert (never.exit_rate, never.saved, never.failed) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree", "selective"])
def test_the_mixture_lies_between_its_budgets(mode):
    table = simulate(300, 5)
    timed = table.with_scores(table.positions)
    for budget in (10, 25, 40):
        exits = timed.first_exit(float(budget))
        out = table.outcomes(exits)
        failed, n = count_failures(out, mode)
        found = budget_of_cost(table, float(out.tokens.mean()), mode)
        assert found.saved == pytest.approx(table.full_tokens.mean() - out.tokens.mean())
        assert found.failed <= failed / n + 0.1


def test_no_cues_no_exits():
    empty: dict = dict.fromkeys(("positions", "scores", "right", "same", "exit_tokens", "cue_name"), [])
    table = Table(**empty, offsets=[0, 0], full_right=[True], full_tokens=[9], problem=[0])
    assert budget_of_cost(table, 9.0, "harm").exit_rate == 0.0
