"""Costs of forwards: curves, what corrects them, how they are measured, and the folder that keeps them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    NO_DRAFT,
    ROOT,
    Call,
    Controller,
    ControllerError,
    Decode,
    Draft,
    Keys,
    Sampling,
    Stateless,
    Trace,
)
from reasonctl.controller.core.decode import Clock
from reasonctl.controller.drafting.planning import cost, cost_cache
from reasonctl.controller.drafting.planning.acceptance import AcceptanceRates
from reasonctl.controller.drafting.planning.cost import CostCurve, Stopwatch, measure, rising
from reasonctl.controller.drafting.planning.cost_cache import cost_path, keep_curve, known_curve, load_curve, save_curve
from reasonctl.controller.drafting.planning.payoff import best_part
from support.together import together

FLAT = CostCurve({0: {1: 1.0, 32: 1.0}})
LINEAR = CostCurve({0: {1: 1.0, 32: 32.0}})
TREE = Draft((1, 2, 3, 4, 5, 6), (ROOT, 0, 1, ROOT, 3, 0))
VALUES = (0.8, 0.6, 0.5, 0.15, 0.1, 0.05)


def run(generator):
    """(result, requests) of a measurement on whatever engine its session has."""
    requests, reply = [], None
    try:
        while True:
            request = generator.send(reply)
            requests.append(request)
            (reply,) = request.session.engine.forward((request,))
    except StopIteration as end:
        return end.value, requests


def test_a_curve_between_and_beyond_its_points():
    curve = CostCurve({100: {1: 1.0, 4: 2.5, 8: 3.5}, 200: {1: 2.0, 4: 5.0, 8: 7.0}})
    assert [curve.at(n) for n in (1, 2, 4, 6, 8, 16)] == pytest.approx([1, 1.5, 2.5, 3, 3.5, 5.5])
    assert [curve.at(4, c) for c in (0, 100, 150, 200, 900)] == pytest.approx([2.5, 2.5, 3.75, 5, 5])


def seen(curve, rows, times, n, context=0):
    for _ in range(n):
        curve.note(rows, times * curve.at(rows, context), context)


def test_recent_forwards_correct_the_curve():
    curve = CostCurve({0: {1: 1.0, 4: 2.0}, 1000: {1: 3.0, 4: 4.0}})
    seen(curve, 1, 2.0, 30)
    assert curve.now(1) == pytest.approx(2.0, rel=0.02)
    # Of drafts nothing was seen: they drift with plain forwards, at every length of context.
    assert curve.now(4) == pytest.approx(4.0, rel=0.02) and curve.now(4, 1000) == pytest.approx(8.0, rel=0.02)
    seen(curve, 1, 90.0, 1)
    assert curve.now(1) < 2.2  # one slow forward changes little
    seen(curve, 1, 2.0, 60)
    seen(curve, 4, 3.0, 60, context=1000)
    assert curve.now(4) == pytest.approx(6.0, rel=0.02) and curve.now(4, 1000) == pytest.approx(12.0, rel=0.02)
    assert curve.now(1) == pytest.approx(2.0, rel=0.02)
    assert curve.now(3) > 1.2 * 2.0 * curve.at(3)  # what makes one size dear concerns its neighbours too


def test_a_few_slow_forwards_of_one_size_are_no_verdict_for_ever():
    curve = CostCurve({0: {1: 1.0, 32: 2.0}})
    for n in (1, 2, 4, 8):
        seen(curve, n, 1.0, 20)
    seen(curve, 8, 5.0, 3)
    assert curve.now(8) > 1.15 * curve.at(8)
    seen(curve, 4, 1.0, 200)
    assert curve.now(8) == pytest.approx(curve.at(8), rel=0.05)
    # Nor are those of all drafts, once nothing is drafted any more.
    seen(curve, 4, 3.0, 60)
    assert curve.now(4) > 2.5 * curve.at(4)
    seen(curve, 1, 1.0, 4000)
    assert curve.now(4) == pytest.approx(curve.at(4), rel=0.05)


def test_a_plain_step_is_due_now_and_then_while_drafting():
    curve = CostCurve({0: {1: 1.0, 32: 2.0}})
    due = []
    for _ in range(300):
        due.append(curve.plain_due(1.05))
        seen(curve, 1 if due[-1] else 4, 1.0, 1)
    assert 3 <= sum(due) <= 5
    seen(curve, 4, 1.0, 100)
    assert curve.plain_due(1.0) and not curve.plain_due(3.0)  # where drafting gains much it is asked less often


def test_a_plain_price_that_fell_turns_drafting_off():
    """It was taken while the machine was busy; without plain steps drafting would seem to pay for ever."""
    curve = CostCurve({0: {1: 1.0, 8: 1.7}})
    seen(curve, 1, 2.0, 50)
    seen(curve, 8, 2.0, 50)
    draft, values, drafted = Draft.chain(range(7)), [0.5**i for i in range(1, 8)], []
    for _ in range(1200):
        found = best_part(draft, values, curve, 0, leaves=1, size=7)
        drafted.append(len(found))
        # Drafts stay dear; plain forwards are what they were at first.
        curve.note(1 + len(found), curve.at(1 + len(found)) * (2.0 if found.tokens else 1.0))
    assert drafted[0] > 0 and sum(map(bool, drafted[-400:])) < 40


def test_measuring_leaves_the_session_as_it_was():
    engine = ToyEngine(vocabulary=5)
    session = engine.session()
    engine.forward((Decode(session, [1, 2, 3]),))
    seconds, requests = run(measure(session.fork(), [1, 2, 3, 4], rows=(1, 2, 4), rounds=3))
    assert set(seconds) == {1, 2, 4} and min(seconds.values()) > 0
    assert session.tokens == [1, 2, 3]
    # One round warms up; then three are timed.
    assert [len(r.draft) for r in requests[1:]] == [0, 1, 3] * 4
    assert all(r.session is not session for r in requests)


def test_measuring_stops_when_its_seconds_are_over():
    """In the middle of a round too, on models so slow that a round takes longer than all of them."""
    session = ToyEngine(vocabulary=5).session()
    seconds, requests = run(measure(session, [1], rows=(1, 2, 4), rounds=50, budget=0.0))
    assert len(requests) == 1 + 2 and set(seconds) == {1, 2}


def test_only_what_fits_is_measured():
    class Short(ToyEngine):
        def session(self):
            session = super().session()
            session.can = replace(session.can, rows=4)
            return session

    seconds, _ = run(measure(Short(vocabulary=5).session(), [1], rows=(1, 2, 4, 8)))
    assert set(seconds) == {1, 2, 4}


def named(identity="toy 5", **changes):
    class Named(ToyEngine):
        def session(self):
            session = super().session()
            session.can = replace(session.can, **changes)
            return session

    made = Named(vocabulary=5)
    made.identity = identity
    return made


def test_a_curve_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    curve, requests = run(known_curve(named(), [1, 2, 3]))
    assert requests and load_curve(cost_path("toy 5")) == curve
    # Another attach to the same model goes on with what was seen.
    found, requests = run(known_curve(named(), [1, 2]))
    assert found is curve and requests == []
    cost_cache._BY_PATH.clear()
    found, requests = run(known_curve(named(), [1, 2]))  # another process: the cache folder
    assert found == curve and found is not curve and requests == []
    assert cost_path("toy 6") != cost_path("toy 5")


def test_the_first_curve_is_of_the_context_it_says(tmp_path, monkeypatch):
    """Behind a prefix that is in the cache already a fork would be measured at another length, and kept for good."""
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    engine = named()
    used = engine.session()
    engine.forward((Decode(used, [1, 2, 3] * 300),))
    lengths = []

    class Listening(type(engine)):
        def forward(self, requests):
            lengths.extend(len(r.session.tokens) + len(r.pending) for r in requests)
            return super().forward(requests)

    engine.__class__ = Listening
    curve, _ = run(known_curve(engine, used.tokens))
    assert list(curve.seconds) == [cost.CONTEXT] and max(lengths) == cost.CONTEXT + 1


def test_where_there_is_no_room_to_measure_nothing_pays_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    curve, requests = run(known_curve(named(free=70), [1, 2, 3]))
    assert requests == [] and len(best_part(TREE, VALUES, curve, 0, leaves=99, size=99)) == 0
    assert not list(tmp_path.glob("costs/*"))
    assert run(known_curve(named(), [1, 2, 3]))[1]


def test_a_short_measurement_leaves_other_contexts_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    keep_curve(named(), CostCurve({64: {1: 1.0, 8: 2.0}, 2048: {1: 3.0, 8: 5.0}}))
    kept = keep_curve(named(), CostCurve({64: {1: 1.5, 8: 2.5}}))
    assert load_curve(cost_path("toy 5")) == kept == CostCurve({64: {1: 1.5, 8: 2.5}, 2048: {1: 3.0, 8: 5.0}})


def test_drivers_time_the_forward_and_nothing_else():
    """Neither what happens between a loop's requests, nor the forwards of other loops, nor shared ones."""

    class Slow(ToyEngine):
        batch = 1

        def forward(self, requests):
            time.sleep(0.01)
            return super().forward(requests)

    class Drafter(Stateless):
        def __init__(self):
            self.clocks = []

        def start(self, target):
            self.clock = target.clock
            return self

        def propose(self, tokens, room):
            time.sleep(0.03)
            return NO_DRAFT
            yield

        def observe(self, draft, accepted):
            self.clocks.append(self.clock.seconds)

    engine, texts = Slow(vocabulary=5), ToyTokenizer(list("abcde"))
    for batch in (1, 2):
        engine.batch, drafters = batch, [Drafter(), Drafter()]
        calls = [Call([0], 4, frozenset(), Keys(seed=1, run=i), Sampling()) for i in range(2)]
        loops = [
            Controller(drafter=d).loop(engine.session(), texts, c, Trace())
            for d, c in zip(drafters, calls, strict=True)
        ]
        together(loops)
        for drafter in drafters:
            assert len(drafter.clocks) == 4
            assert all(c is None if batch == 2 else 0.009 < c < 0.025 for c in drafter.clocks)


@pytest.mark.parametrize(
    "text", ["", "{", '{"seconds": {}}', '{"seconds": {"1": {"1": -1}}}', '{"seconds": [1]}', "[]"]
)
def test_a_broken_curve_is_measured_again(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.warns(RuntimeWarning, match="curve.json.*measured anew"):
        assert load_curve(path) is None
    save_curve(path, FLAT, "flat")
    assert load_curve(path) == FLAT


def test_a_cache_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    save_curve(tmp_path / "file" / "below" / "curve.json", FLAT, "flat")


def test_a_step_that_feeds_owed_tokens_again_corrects_no_price():
    curve = CostCurve({0: {1: 1.0, 8: 1.0}})
    watch = Stopwatch(curve, Clock(seconds=9.0))
    watch.begin(0, owed=2)
    watch.end(1)
    assert curve.now(1) == 1.0
    watch.begin(0)
    watch.end(1)
    assert curve.now(1) > 1.0


@pytest.mark.parametrize("fades", [False, True])
def test_a_prior_that_fades_leaves_what_is_seen(fades):
    rates = AcceptanceRates({"a": 0.7}, strength=10.0, fades=fades)
    for i in range(3000):
        rates.note("a", i % 20 != 0)
    assert rates.of("a") == pytest.approx(0.95, abs=0.03) if fades else rates.of("a") < 0.925
    rates.relax()
    assert 0.75 < rates.of("a") < 0.94


def test_rates_forget():
    rates = AcceptanceRates({})
    for _ in range(400):
        rates.note("a", True)
    assert rates.of("a") > 0.9
    for _ in range(100):
        rates.note("a", False)
    assert rates.of("a") < 0.2


FALLING = {1: 0.010, 2: 0.008}


def test_a_curve_that_falls_gives_a_price_for_every_number_of_rows():
    """A cold first forward is slower than the next one of two rows."""
    curve = CostCurve({64: FALLING})
    assert all(curve.at(n, c) > 0 for n in range(1, 500) for c in (0, 64, 9000))
    curve.note(49, 0.1, 64)
    assert len(best_part(TREE, VALUES, curve, 0, leaves=99, size=99)) <= 6


def test_one_known_price_makes_no_draft_free():
    curve = CostCurve({0: {1: 0.5}})
    assert [curve.at(n) for n in (1, 2, 8)] == [0.5, 1.0, 4.0]
    assert not len(best_part(TREE, VALUES, curve, 0, leaves=99, size=99))


def test_what_is_measured_and_read_rises(tmp_path):
    assert rising(FALLING) == {1: 0.008, 2: 0.008}
    assert rising({8: 3.0, 1: 0.0, 4: 5.0, 2: 2.0}) == {1: cost.SHORTEST, 2: 2.0, 4: 3.0, 8: 3.0}
    slow_first = iter([0.06, 0.03])

    class Uneven(ToyEngine):
        def forward(self, requests):
            time.sleep(next(slow_first, 0.0) if len(requests[0].session.tokens) else 0.0)
            return super().forward(requests)

    seconds, _ = run(measure(Uneven(vocabulary=5).session(), [1], rows=(1, 2, 4), budget=0.0))
    assert set(seconds) == {1, 2} and seconds[1] <= seconds[2]
    path = tmp_path / "curve.json"
    path.write_text('{"identity": "x", "seconds": {"64": {"1": 0.010, "2": 0.008}}}')
    assert load_curve(path) == CostCurve({64: {1: 0.008, 2: 0.008}})


@pytest.mark.parametrize(
    "seconds", [{}, {0: {}}, {0: {1: 0.0}}, {0: {1: -1.0}}, {0: {1: float("nan")}}, {0: {0: 1.0}}, {-1: {1: 1.0}}]
)
def test_a_senseless_curve_is_refused(seconds):
    with pytest.raises(ControllerError, match="a cost curve"):
        CostCurve(seconds)
