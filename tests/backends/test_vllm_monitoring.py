"""The drift monitor of one engine among several: which runs it takes in, in which order, and at which level."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reasonctl.backends.vllm.monitoring import Monitored
from reasonctl.backends.vllm.options import RequestOptions
from reasonctl.probes.risk import DriftMonitor
from support.vllm_simulated import rule_of

LEVEL = 0.02
REFERENCE = [i / 100 for i in range(100)]
UNLIKE = 0.995
"""A first score that hardly any calibration run has."""


@pytest.fixture
def rule():
    made = rule_of()
    made.monitor = DriftMonitor(REFERENCE, level=LEVEL, seed=3)
    return made


class Stream:
    """One engine's monitor, and the requests that it is told of."""

    def __init__(self, rule, replicas):
        self.said, self.rule, self.number = [], rule, 0
        self.monitored = Monitored(rule, replicas, self.said.append)

    def request(self, *scores, name=None, finished=True, **options):
        """A request that has begun; ending it is up to the test."""
        made = SimpleNamespace(
            rule=self.rule,
            options=RequestOptions(**options),
            begun=False,
            decisions=[SimpleNamespace(score=score) for score in scores],
            finished_thinking=finished,
        )
        self.number += 1
        made.name = f"{self.number}" if name is None else name
        self.monitored.begin(made.name, made)
        return made

    def end(self, request):
        self.monitored.end(request.name, request)

    def run(self, *scores, **given):
        self.end(self.request(*scores, **given))

    @property
    def taken(self):
        return self.monitored.monitor.runs


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_each_engine_tests_at_its_part_of_the_level(rule, replicas):
    """The alarm is raised where the evidence reaches the number of engines over the level, and said once."""
    stream = Stream(rule, replicas)
    assert stream.monitored.monitor.level == pytest.approx(LEVEL / replicas)
    last = 0.0
    while not stream.said:
        last = stream.monitored.monitor.evidence
        stream.run(UNLIKE, 0.1)
        assert stream.taken < 200
    assert last < replicas / LEVEL <= stream.monitored.monitor.evidence
    stream.run(UNLIKE)
    assert len(stream.said) == 1 and "calibrate on runs like these" in stream.said[0]


def test_the_rules_own_monitor_takes_no_part(rule):
    stream = Stream(rule, 2)
    stream.run(UNLIKE)
    assert stream.taken == 1 and rule.monitor.runs == 0


def test_runs_are_taken_in_in_the_order_of_their_beginnings(rule):
    """Short runs end first, and wait for those before them; one that came back keeps its place."""
    stream, alone = Stream(rule, 1), DriftMonitor(REFERENCE, level=LEVEL, seed=3)
    scores = [0.3, UNLIKE, 0.5, 0.9]
    requests = [stream.request(score) for score in scores]
    stream.monitored.begin(requests[0].name, requests[0])
    for i in (3, 1, 2):
        stream.end(requests[i])
    assert stream.taken == 0
    stream.end(requests[0])
    for score in scores:
        alone.update([score])
    assert stream.taken == 4 and stream.monitored.monitor.evidence == alone.evidence


@pytest.mark.parametrize("given", [{"off": True}, {"answer": True}, {"name": "3_17"}, {"finished": False}])
def test_what_is_no_run_of_its_own_is_left_out(rule, given):
    """Runs in full, answers after an exit, further samples of a prompt, and runs aborted before their first cue."""
    stream = Stream(rule, 1)
    stream.run(*(() if "finished" in given else (UNLIKE,)), **given)
    stream.run(0.5)
    assert stream.taken == 1


def test_a_run_without_a_cue_counts(rule):
    stream = Stream(rule, 1)
    stream.run()
    assert stream.taken == 1


def test_a_rule_that_reads_nothing_isnt_watched(rule):
    rule.reads = False
    assert Monitored(rule, 1, print).monitor is None
