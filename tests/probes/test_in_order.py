"""Runs that end in any order are taken in in the order in which they began; a monitor in order of ends is planted."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from reasonctl.backends.load import BUNDLED_PROBE
from reasonctl.backends.toy import ToyEngine
from reasonctl.calibration.runs.making import PreparedRun, run_window
from reasonctl.controller import Call, Controller, Decision, Ended, Greedy, Keys, Scheduler, Trace
from reasonctl.probes import load_exit
from reasonctl.probes.risk.drift import DriftMonitor
from reasonctl.probes.risk.in_order import InOrder
from support.scheduled import call, reasoner
from support.scripted import Scripted
from support.toy_models import writing
from support.toy_thinking import TOKENIZER

STREAMS, RUNS, BATCH, LEVEL = 500, 96, 32, 0.05

DECODED, LONGEST = 72, 12
"""Runs of a decoded stream, and most tokens of one."""
TOY, GREEDY = replace(writing([b"a", b"b"]), engine=ToyEngine(vocabulary=4, batch=BATCH)), Greedy()


class ByEnds(InOrder):
    """Takes every run in when it ends."""

    def begin(self, run: object) -> None:
        pass


def ended(score: float) -> Trace:
    return Trace(decisions=[Decision(False, "wait", 0, 9, score, 1.0)], finish_reason="stop")


def test_a_later_run_that_ends_first_waits():
    rule, traces = load_exit(BUNDLED_PROBE), [ended(0.2), ended(0.4), ended(0.6), ended(0.8)]
    for trace in traces:
        rule.begin(trace)
    first, second, broken, last = traces
    at_other_risk = rule.at(risk=0.2)
    at_other_risk.finish(last)
    rule.finish(second)
    assert rule.monitor.runs == 0 and second.drift is None and last.drift is None
    rule.finish(first)
    assert (first.drift["runs"], second.drift["runs"], last.drift) == (1, 2, None)
    rule.abandon(broken)
    assert last.drift["runs"] == 3 and broken.drift is None
    rule.finish(single := ended(0.5))  # one that was never announced waits for nobody
    assert single.drift["runs"] == 4


@pytest.mark.parametrize(("order", "sorted_by_length"), [(InOrder, False), (ByEnds, True)])
def test_runs_under_a_scheduler_are_taken_in_as_they_were_admitted(order, sorted_by_length):
    taken, places = [], order()

    class Taking(Scripted):
        def begin(self, trace):
            places.begin(trace)

        def finish(self, trace):
            places.end(trace, lambda: taken.append(trace.run))

    engine, scheduler = reasoner(), Scheduler()
    for number, most in enumerate([40, 10, 30, 20]):
        controller = Controller(exit=Taking(lambda at: False))
        scheduler.add(number, controller.run(engine, TOKENIZER, call(number, most), Trace()))
    ends = [output.key for output in scheduler if isinstance(output, Ended)]
    assert ends != [0, 1, 2, 3]
    assert taken == (ends if sorted_by_length else [0, 1, 2, 3])


def raises_alarm(stream: int, places: InOrder) -> bool:
    """Whether a stream of runs like the reference raises an alarm; a run's score falls with its length."""
    rng = random.Random(stream)
    monitor = DriftMonitor([rng.random() for _ in range(200)], level=LEVEL, seed=stream)
    running: list[tuple[float, int, float]] = []
    raised = False
    for number in range(RUNS + BATCH):
        if number >= BATCH:
            _, run, score = heapq.heappop(running)
            places.end(run, lambda score=score: monitor.update([score]))
            raised |= monitor.alarm
        if number < RUNS:
            score = rng.random()
            places.begin(number)
            heapq.heappush(running, (number + 100 * (1 - score), number, score))
    return raised


def alarms(order: type[InOrder]) -> int:
    """Streams with an alarm."""
    return sum(raises_alarm(stream, order()) for stream in range(STREAMS))


def test_false_alarms_keep_their_rate_in_order_and_not_by_ends():
    """Fixed seeds. In order of their ends the first runs are the short ones, whose scores are high."""
    assert binomtest(alarms(InOrder), STREAMS, LEVEL, "greater").pvalue > 0.01
    assert alarms(ByEnds) > 4 * LEVEL * STREAMS


class Watched(Scripted):
    """Never exits; the monitor takes its runs in as `places` says. A run's score is the share of runs that are longer.

    So in order of ends high scores come first.
    """

    def __init__(self, places: InOrder, monitor: DriftMonitor, scores: list[float]) -> None:
        super().__init__(lambda at: False)
        self.places, self.monitor, self.scores, self.ended = places, monitor, scores, list[int]()

    def begin(self, trace: Trace) -> None:
        self.places.begin(trace)

    def finish(self, trace: Trace) -> None:
        self.ended.append(trace.run)
        self.places.end(trace, lambda: self.monitor.update([self.scores[trace.run]]))


def batched(stream: int, places: InOrder) -> Watched:
    """A stream of runs of different lengths, decoded in batches: a run joins when one ends."""
    rng = random.Random(stream)
    scores = [rng.random() for _ in range(DECODED)]
    watched = Watched(places, DriftMonitor([rng.random() for _ in range(200)], level=LEVEL, seed=stream), scores)
    runs = [
        PreparedRun(
            Controller(exit=watched),
            Call([1], 1 + int(LONGEST * (1 - score)), frozenset(), Keys(seed=stream, run=i), GREEDY),
        )
        for i, score in enumerate(scores)
    ]
    run_window(TOY, runs, BATCH)
    return watched


@pytest.mark.parametrize("order", [InOrder, ByEnds])
def test_a_scheduled_stream_ends_out_of_order_and_all_of_it_is_taken_in(order):
    watched = batched(0, order())
    assert watched.ended != sorted(watched.ended) == list(range(DECODED)) and watched.monitor.runs == DECODED


@pytest.mark.slow
def test_false_alarms_of_500_streams_of_batched_runs_keep_their_rate():
    """Fixed seeds. The planted order is that of the runs' ends."""
    found = {order: sum(batched(i, order()).monitor.alarm for i in range(STREAMS)) for order in (InOrder, ByEnds)}
    print(
        f"streams with a false alarm, of {STREAMS} at level {LEVEL}: {found[InOrder]}; in order of ends {found[ByEnds]}"
    )
    assert binomtest(found[InOrder], STREAMS, LEVEL, "greater").pvalue > 0.01
    assert binomtest(found[ByEnds], STREAMS, LEVEL, "greater").pvalue < 1e-9
