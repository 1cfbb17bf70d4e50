"""The contract of an exit rule: what must be written, and what a rule that writes no more than that does."""

from __future__ import annotations

import pytest

from reasonctl.controller import ControllerError, Cues, ExitRule, Trace
from reasonctl.probes import FixedExit, NeverExit
from support.policy_calls import ExitAtFirst


def test_a_rule_must_decide():
    with pytest.raises(TypeError, match="decide"):
        ExitRule()


@pytest.mark.parametrize(
    "rule",
    [ExitAtFirst(), NeverExit(cues=Cues(["wait"]), suffix="."), FixedExit(cues=Cues(["wait"]), suffix=".", index=1)],
)
def test_a_rule_that_only_decides_reads_tries_and_promises_nothing(rule):
    assert rule.layers(24) == () and rule.trials is False and rule.why == ""
    assert rule.in_use("temperature(0.6)", 100) == [] and rule.check(object()) == []
    trace = Trace()
    rule.finish(trace)
    assert trace == Trace()
    with pytest.raises(ControllerError, match=f"risk is 0.1, and a {type(rule).__name__} promises none"):
        rule.at(risk=0.1)
