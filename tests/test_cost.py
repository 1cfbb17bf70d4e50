"""Costs and what follows from them: curves, the cache folder, and drafts that are cut to what pays."""

from __future__ import annotations

import itertools

import pytest
from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import ROOT, Decode, Draft
from reasonctl.controller.cost import CostCurve, cost_path, known_curve, load_curve, measure, save_curve
from reasonctl.controller.speed import MARGIN, Rates, best_part

FLAT = CostCurve({0: {1: 1.0, 32: 1.0}})
LINEAR = CostCurve({0: {1: 1.0, 32: 32.0}})


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


def test_recent_forwards_correct_the_curve():
    curve = CostCurve({0: {1: 1.0, 4: 2.0}})
    for seconds in (2.0, 2.0, 90.0):
        curve.note(1, seconds)
    assert curve.now(1) == 2.0  # a median: one slow forward changes nothing
    assert curve.now(4) == 4.0  # the drift of plain rows
    for seconds in (3.0, 3.0, 3.0):
        curve.note(4, seconds)
    assert curve.now(4) == 3.0


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
    session = ToyEngine(vocabulary=5).session()
    _, requests = run(measure(session, [1], rows=(1, 2), rounds=50, budget=0.0))
    assert len(requests) == 1 + 2 * 3


def test_a_curve_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))

    def engine():
        made = ToyEngine(vocabulary=5)
        made.identity = "toy 5"
        return made

    first = engine()
    curve, requests = run(known_curve(first, 8, [1, 2, 3], first.session()))
    assert requests and load_curve(cost_path("toy 5")) == curve
    assert run(known_curve(first, 8, [1, 2], first.session()))[1] == []  # this process
    again = engine()
    found, requests = run(known_curve(again, 8, [1, 2], again.session()))
    assert found == curve and requests == []  # the cache folder
    assert cost_path("toy 6") != cost_path("toy 5")


@pytest.mark.parametrize(
    "text", ["", "{", '{"seconds": {}}', '{"seconds": {"1": {"1": -1}}}', '{"seconds": [1]}', "[]"]
)
def test_a_broken_curve_is_measured_again(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    assert load_curve(path) is None
    save_curve(path, FLAT, "flat")
    assert load_curve(path) == FLAT


def test_a_cache_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    save_curve(tmp_path / "file" / "below" / "curve.json", FLAT, "flat")


TREE = Draft((1, 2, 3, 4, 5, 6), (ROOT, 0, 1, ROOT, 3, 0))
VALUES = (0.8, 0.6, 0.5, 0.15, 0.1, 0.05)


def rate(nodes, curve):
    return (1 + sum(VALUES[n] for n in nodes)) / curve.at(1 + len(nodes))


def subtrees(draft):
    for size in range(len(draft) + 1):
        for nodes in itertools.combinations(range(len(draft)), size):
            if all(draft.parents[n] == ROOT or draft.parents[n] in nodes for n in nodes):
                yield nodes


@pytest.mark.parametrize("slope", [0.0, 0.05, 0.12, 0.3, 0.55, 0.7, 1.0])
def test_the_best_part_is_the_best_of_all_subtrees(slope):
    curve = CostCurve({0: {1: 1.0, 2: 1.0 + slope, 32: 1.0 + 31 * slope}})
    found = best_part(TREE, VALUES, curve, 0, 99)
    best = max(rate(nodes, curve) for nodes in subtrees(TREE))
    assert best_rate(found, curve) >= best / MARGIN
    assert best_rate(found, curve) == pytest.approx(best) or len(found) == 0


def best_rate(found, curve):
    return (1 + sum(VALUES[TREE.tokens.index(t)] for t in found.tokens)) / curve.at(1 + len(found))


def test_what_does_not_pay_is_not_drafted():
    assert len(best_part(TREE, VALUES, FLAT, 0, 99)) == 6
    assert len(best_part(TREE, VALUES, LINEAR, 0, 99)) == 0


def test_leaves_of_a_part_are_bounded():
    for leaves in (1, 2, 3):
        found = best_part(TREE, VALUES, FLAT, 0, leaves)
        assert len(set(range(len(found))) - set(found.parents)) == leaves
    assert best_part(TREE, VALUES, FLAT, 0, 1).tokens == (1, 2, 3)


def test_rates_forget():
    rates = Rates({})
    for _ in range(400):
        rates.note("a", True)
    assert rates.of("a") > 0.9
    for _ in range(100):
        rates.note("a", False)
    assert rates.of("a") < 0.2
