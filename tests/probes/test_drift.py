"""The drift monitor: its false alarms, its p-values, its power, its state; and monitors that must be caught.

Streams are seeded. "At most `level`" is tested with a binomial bound whose own false-alarm rate is 1e-3.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
from scipy.stats import beta, binom, ks_2samp, kstest

from reasonctl.controller import ControllerError
from reasonctl.probes.risk.drift import BETS, SWITCH, DriftMonitor, bet
from support.simulated_runs import simulate

LEVEL, STREAMS, RUNS = 0.05, 300, 200

Draw = Callable[[random.Random], float]
NULLS: dict[str, tuple[int, Draw]] = {
    "smooth": (40, lambda rng: rng.random()),
    "ties": (40, lambda rng: rng.choice([-math.inf, 0.25, 0.5, 0.75])),
    "one calibration run": (1, lambda rng: rng.gauss(0, 1)),
}


def alarms(make: Callable[[list[float], int], DriftMonitor], n: int, draw: Draw) -> int:
    """Streams with an alarm where calibration and use have one law."""
    count = 0
    for stream in range(STREAMS):
        rng = random.Random(stream)
        monitor = make([draw(rng) for _ in range(n)], stream)
        for _ in range(RUNS):
            monitor.update(_scores(draw(rng)))
            if monitor.alarm:
                count += 1
                break
    return count


def _scores(first: float) -> list[float]:
    return [] if first == -math.inf else [first, 0.9]


LIMIT = binom.isf(1e-3, STREAMS, LEVEL)


@pytest.mark.parametrize("null", NULLS)
def test_false_alarms_at_any_time_are_at_most_the_level(null: str) -> None:
    count = alarms(lambda reference, seed: DriftMonitor(reference, level=LEVEL, seed=seed), *NULLS[null])
    print(f"{null}: {count} of {STREAMS} streams raise a false alarm in {RUNS} runs; level {LEVEL}")
    assert count <= LIMIT


class FixedReference(DriftMonitor):
    """Ranks every run among the calibration runs only."""

    def _p_value(self, score: float) -> float:
        p = super()._p_value(score)
        self._ranked.remove(score)
        return p


def test_ranks_in_a_fixed_reference_are_caught() -> None:
    count = alarms(lambda reference, seed: FixedReference(reference, level=LEVEL, seed=seed), *NULLS["smooth"])
    print(f"fixed reference: {count} of {STREAMS} streams raise a false alarm")
    assert count > LIMIT


def test_peeking_at_p_values_for_a_fixed_number_of_runs_is_caught() -> None:
    class Peeking(DriftMonitor):
        def update(self, scores):
            super().update(scores)
            if self.runs % 25 == 0 and ks_2samp(self.reference, self._met).pvalue <= self.level:
                self._log_highest = math.inf
            else:
                self._log_highest = -math.inf
            return 0.0

    count = alarms(lambda reference, seed: Peeking(reference, level=LEVEL, seed=seed), *NULLS["smooth"])
    print(f"peeking: {count} of {STREAMS} streams raise a false alarm")
    assert count > LIMIT


@pytest.mark.parametrize("null", NULLS)
def test_p_values_are_uniform_and_independent_under_the_null(null: str) -> None:
    n, draw = NULLS[null]
    pairs = []
    for stream in range(300):
        rng = random.Random(1000 + stream)
        monitor = DriftMonitor([draw(rng) for _ in range(n)], seed=stream)
        pairs.append([monitor._p_value(draw(rng)) for _ in range(6)])
    p = np.array(pairs)
    assert kstest(p.ravel(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(p, rowvar=False)[np.triu_indices(6, 1)]
    assert np.abs(correlation).max() < 4.2 / math.sqrt(300)  # 15 pairs, two-sided: 4e-4


def test_without_drift_the_evidence_is_1_on_average() -> None:
    rng = random.Random(5)
    values = []
    for stream in range(2000):
        monitor = DriftMonitor([rng.random() for _ in range(20)], seed=stream)
        values.append([monitor.update([rng.random()]) for _ in range(5)][-1])
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - 1) < 3.3 * error  # two-sided 1e-3


def test_bets_are_densities() -> None:
    grid = (np.arange(200_000) + 0.5) / 200_000
    for a, b in BETS:
        assert beta.pdf(grid, a, b).mean() == pytest.approx(1, abs=2e-3)
    monitor = DriftMonitor([0.5], seed=3)
    p = DriftMonitor([0.5], seed=3)._p_value(0.7)
    assert monitor.update([0.7]) == pytest.approx(np.mean([beta.pdf(p, a, b) for a, b in BETS]))


def test_mapie_agrees_on_p_values_and_switching() -> None:
    from mapie.exchangeability_testing import OnlineMartingaleTest

    mapie, uniforms = OnlineMartingaleTest(jump_size=SWITCH, random_state=1), np.random.default_rng(1)
    rng = random.Random(2)
    history = [rng.choice([0.1, 0.4, 0.6, 0.9]) for _ in range(12)]
    monitor = DriftMonitor(history)
    monitor._keys.uniform = lambda position, purpose: uniforms.uniform()
    weights, wealth = [1 / 3] * 3, 1.0
    for _ in range(100):
        score = rng.choice([0.1, 0.4, 0.6, 0.9])
        p = monitor._p_value(score)
        assert p == pytest.approx(mapie.compute_p_value(score, np.array(history)))
        history.append(score)
        weights, growth = bet(weights, [1 + slope * (p - 0.5) for slope in (-1, 0, 1)])
        wealth *= growth
        assert mapie.update_simple_jumper_martingale(p) == pytest.approx(wealth)


SHIFTS: dict[str, tuple[float, float, int]] = {  # mean, spread, most runs until the alarm in half of the streams
    "half a standard deviation": (0.5, 1.0, 90),
    "a standard deviation": (-1.0, 1.0, 30),
    "wider": (0.0, 1.7, 55),
    "narrower": (0.0, 0.5, 45),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_drift_is_noticed(shift: str) -> None:
    """300 calibration runs, level 0.01, 40 streams; after 100 runs without drift it takes longer, as it must."""
    mean, spread, most = SHIFTS[shift]
    for before in (0, 100):
        needed = []
        for stream in range(40):
            rng = random.Random(stream)
            monitor = DriftMonitor([rng.gauss(0, 1) for _ in range(300)], level=0.01, seed=stream)
            for _ in range(before):
                monitor.update([rng.gauss(0, 1)])
            while not monitor.alarm and monitor.runs < before + 400:
                monitor.update([rng.gauss(mean, spread)])
            needed.append(monitor.runs - before)
        print(f"{shift}, after {before} runs without drift: alarm after {median(needed)} runs")
        assert median(needed) <= most * (2 if before else 1)


def test_a_lasting_drift_keeps_its_alarm_and_stays_finite() -> None:
    monitor = DriftMonitor([i / 50 for i in range(50)])
    for _ in range(3000):
        monitor.update([2.0])
    assert monitor.alarm and "drift: scores in use differ" in monitor.why
    calm = random.Random(1)
    for _ in range(2000):
        monitor.update([calm.choice([2.0, 0.1])])
    assert monitor.alarm and math.isfinite(monitor.evidence) and json.dumps(monitor.to_dict(), allow_nan=False)


def test_a_stored_monitor_goes_on_where_it_was() -> None:
    rng = random.Random(3)
    whole = DriftMonitor([rng.random() for _ in range(30)] + [-math.inf], level=0.02, seed=9)
    halves = DriftMonitor(whole.reference, level=0.02, seed=9)
    for i in range(60):
        if i % 7 == 3:
            halves = DriftMonitor.from_dict(json.loads(json.dumps(halves.to_dict(), allow_nan=False)))
        scores = [] if i % 5 == 0 else [rng.random(), rng.random()]
        assert whole.update(scores) == halves.update(scores)
    assert (whole.runs, whole.alarm, whole.why) == (halves.runs, halves.alarm, halves.why) and whole.runs == 60


def test_the_reference_is_each_runs_first_score() -> None:
    table = simulate(40, seed=1)
    monitor = DriftMonitor.of(table)
    assert list(monitor.reference) == table.scores[table.offsets[:-1]].tolist()
    empty = table.select([0, 1])
    object.__setattr__(empty, "offsets", np.array([0, 0, empty.cues]))
    assert DriftMonitor.of(empty).reference == (-math.inf, table.scores[0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DriftMonitor([0.1], level=0.0), "level is 0.0"),
        (lambda: DriftMonitor([]), "needs calibration scores"),
        (lambda: DriftMonitor([math.nan]), "needs calibration scores"),
        (lambda: DriftMonitor([0.1]).update([math.nan]), "not a number"),
        (lambda: DriftMonitor.from_dict({}), "state is broken"),
        (lambda: DriftMonitor.from_dict({**DriftMonitor([0.1]).to_dict(), "weights": [1.0]}), "state is broken"),
        (lambda: DriftMonitor.from_dict({**DriftMonitor([0.1]).to_dict(), "met": 3}), "state is broken"),
    ],
)
def test_bad_values_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ControllerError, match=says):
        make()
