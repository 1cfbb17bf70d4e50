"""Giving up in the loop: the rule leaves where the recorded table says it does, and says what it did."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends.load import BUNDLED_PROBE, load_model
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Call, Controller, ControllerError, Keys, Trace, parse_policy
from reasonctl.probes import load_exit

PROBE = BUNDLED_PROBE


def trace_of(rule, index: int, question: str) -> Trace:
    model = load_model("tiny", threads=1)
    keys = Keys(seed=2, run=index)
    call = Call(model.prompt(question), 500, model.eos, keys, parse_policy("temperature(0.6)"))
    trace = Trace()
    session = model.engine.session()
    for _ in Controller(exit=rule).stream(session, model.tokenizer, call, trace):
        pass
    session.close()
    return trace


@pytest.mark.slow
def test_runs_below_the_curve_are_left_and_the_others_are_not_touched():
    plain, giving = load_exit(PROBE, risk=0.02), load_exit(PROBE, risk=0.02, give_up=0.2)
    assert np.isfinite(giving.lower.curve.t0) and "give up below a curve" in giving.why
    left = 0
    for i, problem in enumerate(load_task("tiny").problems(40, stream=77)):
        before, after = trace_of(plain, i, problem.question), trace_of(giving, i, problem.question)
        crossed = [d for d in before.decisions if not d.exit and giving.lower.curve.below(d.score, d.position)]
        if crossed:
            left += 1
            assert after.exit.gave_up and after.exit.index == crossed[0].index
            assert after.why.startswith("gave up at cue") and after.cost < before.cost + 12
        else:
            assert after.tokens == before.tokens and not (after.exit and after.exit.gave_up)
    assert left >= 2


def test_giving_up_is_off_by_default_and_has_limits():
    assert load_exit(PROBE).lower is None
    for changes, says in (
        ({"give_up": 0.05, "signal": "entropy"}, "giving up needs the signal 'hidden'"),
        *(
            ({"give_up": 0.05, "mode": mode}, f"mode '{mode}' don't go together.*use mode 'harm'")
            for mode in ("selective", "wrong", "disagree", "event")
        ),
        ({"give_up": 1.5}, "risk is 1.5"),
    ):
        with pytest.raises(ControllerError, match=says):
            load_exit(PROBE, **changes)
    promised = load_exit(PROBE, give_up=0.05).guarantee(sampler={}, max_new_tokens=1, tasks="tiny")
    assert promised["give_up"] == 0.05 and "give_up" not in load_exit(PROBE).guarantee(
        sampler={}, max_new_tokens=1, tasks="tiny"
    )
