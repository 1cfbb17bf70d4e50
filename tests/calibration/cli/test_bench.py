"""`ctl bench`: what it asks, and that no round profits from the rounds before it."""

from __future__ import annotations

from dataclasses import replace

from reasonctl.backends.load import load_model
from reasonctl.calibration.cli.bench import LENGTH, questions, timed
from reasonctl.calibration.evaluation.speed import CONTEXTS, ROUNDS, cost_curve, interleaved
from reasonctl.calibration.tasks.draft_prompts import DRAFT_PROMPTS
from reasonctl.controller import Call, Controller, Greedy, Hierarchy, Keys, ModelDrafter, TriForce
from reasonctl.controller.drafting.planning.cost import CostCurve
from reasonctl.controller.drafting.planning.cost_cache import cost_path, load_curve
from support.recipes import RECIPE

FLAT = CostCurve({0: {1: 1.0, 32: 1.0}})


def test_rounds_of_the_same_question_are_alike():
    model = load_model("tiny", threads=1)
    call = Call(model.prompt("48 a-9 b+6 c-3"), 40, model.eos, Keys(seed=1), Greedy())
    drafter = Hierarchy(curve=FLAT)
    drafter.rates.note = lambda kind, hit: None  # acceptance may be learnt; texts may not
    arms = interleaved(model, {"plain": Controller(), "drafted": Controller(drafter=drafter)}, [call] * 4)
    forwards = [trace.forwards for trace, _ in arms["drafted"].runs]
    assert len(set(forwards)) == 1 and forwards[0] < arms["plain"].runs[0][0].forwards
    assert len(drafter.recent) > 0


def test_timed_runs_are_as_long_as_was_asked_for():
    recipe = replace(RECIPE, max_new_tokens=700)
    assert [timed(recipe, asked).max_new_tokens for asked in (None, 20, 700)] == [LENGTH, 20, 700]
    assert timed(replace(recipe, max_new_tokens=50), None).max_new_tokens == 50


def test_forgetting_reaches_the_inner_drafter():
    memories = [Hierarchy(), Hierarchy()]
    for memory in memories:
        memory.recent.add(range(20))
    TriForce(memories[0]).forget()
    ModelDrafter(load_model("tiny", threads=1), kind="chain", inner=memories[1]).forget()
    assert [len(memory.recent) for memory in memories] == [0, 0]
    Hierarchy(recent=None).forget()
    ModelDrafter(load_model("tiny", threads=1)).forget()


def test_all_kinds_are_asked_in_a_few_rounds():
    first = questions("some model")[: len(DRAFT_PROMPTS)]
    assert all(any(question in group for question in first) for group in DRAFT_PROMPTS.values())
    assert len(set(questions("some model"))) > ROUNDS and len(set(questions("tiny"))) == ROUNDS


def test_a_curve_at_one_context_keeps_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    monkeypatch.setattr("reasonctl.calibration.evaluation.speed.SECONDS", 0.0)
    model = load_model("tiny", threads=1)
    whole = cost_curve(model, [5, 6, 7])
    assert len(whole.seconds) > 1
    short = cost_curve(model, [5, 6, 7], contexts=CONTEXTS[:1])
    kept = load_curve(cost_path(model.engine.identity))
    assert kept is not None and kept.seconds == {**whole.seconds, **short.seconds}
