"""The n-gram drafters in the loop: same tokens as plain, drafts where they pay, databases that fit the model."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Cues,
    Greedy,
    Keys,
    Sampling,
    Trace,
    parse_draft,
)
from reasonctl.controller.core.tokenizer import vocabulary_hash
from reasonctl.controller.drafting.hierarchy import Hierarchy, HierarchyRun
from reasonctl.controller.drafting.ngrams import build_table, save_table
from reasonctl.controller.drafting.planning.cost import CostCurve
from reasonctl.controller.drafting.planning.payoff import ALLOWANCE, ENDOWMENT
from support.scripted import Scripted
from support.together import together

FLAT = CostCurve({0: {1: 1.0, 32: 1.0}})
LINEAR = CostCurve({0: {1: 1.0, 32: 32.0}})


class Fixed(CostCurve):
    """A curve that no measured time corrects: the toy's own forwards take no time."""

    def note(self, rows, seconds, context=0):
        pass


def fixed(curve):
    return Fixed(curve.seconds)


class Words(ToyTokenizer):
    def pieces(self):
        return enumerate(text.encode() for text in self.texts)


WORDS = Words([f"{chr(97 + i)} " for i in range(12)])
REPEATING = ToyEngine(vocabulary=12, order=2, seed=3, concentration=0.03)
RANDOM = ToyEngine(vocabulary=12, order=1, seed=4, concentration=50.0)


def run(engine, drafter, *, seed=0, most=120, policy=None, rule=None, stop=None, prompt=(1, 2)):
    trace = Trace()
    call = Call(list(prompt), most, frozenset(), Keys(seed=seed), policy or Sampling(), stop)
    events = list(Controller(drafter=drafter, exit=rule).stream(engine.session(), WORDS, call, trace))
    assert [e.token for e in events] == trace.tokens
    return trace


@pytest.mark.parametrize("engine", [REPEATING, RANDOM], ids=["repeating", "random"])
@pytest.mark.parametrize("policy", [Greedy(), Sampling(), Sampling(temperature=0.5, top_k=3)], ids=str)
def test_a_drafted_run_is_a_plain_run(engine, policy):
    drafter, accepted = Hierarchy(curve=fixed(FLAT)), 0
    for seed in range(12):
        plain = run(engine, None, seed=seed, policy=policy)
        drafted = run(engine, drafter, seed=seed, policy=policy)
        assert drafted.tokens == plain.tokens
        accepted += drafted.accepted
    assert accepted > 50


@pytest.mark.parametrize("engine", [REPEATING, RANDOM], ids=["repeating", "random"])
def test_a_run_loses_a_step_and_half_a_percent_at_most_however_wrong_its_drafter_is(engine, monkeypatch):
    """All candidates are held for nearly sure, where most are wrong; prices are those of a CPU with dear rows."""
    prices = fixed(CostCurve({0: {1: 1.0, 2: 1.6, 4: 2.75, 48: 17.0}}))
    steps: list[tuple[float, int]] = []
    watched = HierarchyRun.observe

    def observe(self, draft, accepted):
        steps.append((prices.at(1 + len(draft)), 1 + len(accepted)))
        watched(self, draft, accepted)

    monkeypatch.setattr(HierarchyRun, "observe", observe)
    drafted = 0
    for seed in range(12):
        steps.clear()
        drafter = Hierarchy(curve=prices)
        drafter.rates.of = lambda kind: 0.97
        drafted += run(engine, drafter, seed=seed, most=150).drafted
        cost = emitted = 0.0
        for price, brought in steps[1:]:  # the first feeds the prompt
            cost, emitted = cost + price, emitted + brought
            assert cost <= ENDOWMENT + (1 + ALLOWANCE) * emitted + 1e-9
    assert drafted > 20


def test_repeating_text_needs_few_forwards():
    trace = run(REPEATING, Hierarchy(curve=fixed(FLAT)), policy=Greedy(), most=200)
    assert trace.forwards < 40


def test_what_does_not_pay_is_not_drafted():
    """Where every row costs as much as a forward, nothing is drafted; nor where text can't be guessed."""
    steep = Hierarchy(curve=fixed(LINEAR))
    assert sum(run(REPEATING, steep, seed=s).drafted for s in range(5)) == 0
    third = Hierarchy(curve=fixed(CostCurve({0: {1: 1.0, 2: 1.5, 32: 16.5}})))
    drafted = [run(RANDOM, third, seed=s).drafted for s in range(6)]
    assert drafted[-1] < 5
    assert sum(run(REPEATING, third, seed=s).drafted for s in range(5)) > 50


def test_the_worst_a_steep_machine_loses():
    """Expected cost of drafted runs against plain ones under a known curve, drafting errors included."""
    curve = CostCurve({0: {1: 1.0, 2: 1.6, 4: 3.0, 32: 20.0}})
    for engine in (REPEATING, RANDOM):
        drafter, price, tokens = Hierarchy(curve=fixed(curve)), 0.0, 0

        class Billed(type(engine)):
            def forward(self, requests):
                nonlocal price
                price += sum(curve.at(1 + len(r.draft)) for r in requests)
                return super().forward(requests)

        billed = Billed(vocabulary=12, order=engine.order)
        billed.table = engine.table
        for seed in range(15):
            tokens += len(run(billed, drafter, seed=seed).tokens)
        assert price < 1.02 * tokens


def test_earlier_runs_are_a_database():
    drafter = Hierarchy(curve=fixed(FLAT))
    first = run(REPEATING, drafter, policy=Greedy(), most=30)
    second = run(REPEATING, drafter, policy=Greedy(), most=30)
    assert second.tokens == first.tokens and second.forwards < first.forwards
    alone = Hierarchy(curve=fixed(FLAT), recent=None)
    run(REPEATING, alone, policy=Greedy(), most=30)
    assert run(REPEATING, alone, policy=Greedy(), most=30).forwards >= first.forwards - 2


def test_one_drafter_serves_models_of_different_vocabularies():
    """What a run of one model wrote is no draft for the other: an id means another text there, or nothing."""
    drafter = Hierarchy(curve=fixed(FLAT))
    small, letters = ToyEngine(vocabulary=4, order=1, seed=4), Words(list("abcd"))
    for _ in range(3):
        run(REPEATING, drafter, policy=Greedy(), most=30)
        for seed in range(5):
            tokens = []
            for one in (drafter, None):
                trace, call = Trace(), Call([1, 2], 40, frozenset(), Keys(seed=seed), Sampling())
                list(Controller(drafter=one).stream(small.session(), letters, call, trace))
                tokens.append(trace.tokens)
            assert tokens[0] == tokens[1]
    same = Words([f"{chr(97 + i)} " for i in range(12)])
    drafter.forget()
    run(REPEATING, drafter, policy=Greedy(), most=30)
    assert {key[0] for key in drafter.recent._next} == {f"12 {vocabulary_hash(same)}"}


def test_a_database_with_ids_beyond_the_vocabulary_is_refused():
    table = build_table([[1, 2, 3, 4, 5, 12]], vocabulary=vocabulary_hash(WORDS), source="toy")
    with pytest.raises(ControllerError, match="other token ids"):
        run(REPEATING, Hierarchy(model=table))


def test_all_tokens_of_a_block_are_learnt_from():
    drafter = Hierarchy(curve=fixed(FLAT))
    for _ in range(2):
        run(REPEATING, drafter, policy=Greedy(), most=30)
    assert {"recent", "recent+"} <= set(drafter.rates._seen)


def test_a_model_s_database_helps_and_must_fit(tmp_path):
    texts = [run(REPEATING, None, seed=s).tokens for s in range(20)]
    table = build_table(texts, vocabulary=vocabulary_hash(WORDS), source="toy")
    save_table(tmp_path / "toy.ngrams", table)
    drafter = parse_draft(f"hierarchy(8, model={tmp_path / 'toy.ngrams'})")
    assert drafter.size == 8
    drafter.curve, drafter.recent = fixed(FLAT), None
    bare = Hierarchy(size=8, curve=fixed(FLAT), recent=None)
    forwards = [sum(run(REPEATING, d, seed=s, most=20).forwards for s in range(50, 60)) for d in (drafter, bare)]
    assert forwards[0] < 0.9 * forwards[1]
    other = build_table(texts, vocabulary="other", source="foreign")
    with pytest.raises(ControllerError, match="foreign.*other token ids"):
        run(REPEATING, Hierarchy(model=other))


def test_forced_text_goes_with_its_draft_in_one_forward():
    """An exit's suffix is fed whole, and the run after it is what a run prompted with it would be."""
    engine = ToyEngine(vocabulary=12, order=2, seed=3, concentration=0.3)
    fed = []

    class Listening(ToyEngine):
        def forward(self, requests):
            fed.extend(list(r.pending) for r in requests)
            return super().forward(requests)

    listening = Listening(vocabulary=12, order=2, seed=3, concentration=0.3)
    listening.table = engine.table
    exits = 0
    for seed in range(12):
        fed.clear()
        rule = Scripted(act=lambda at: at.cue.index == 0, suffix="a b c a b ", markers=None, cues=Cues(["d"]))
        drafter = Hierarchy(curve=fixed(FLAT))
        trace = run(listening, drafter, seed=seed, rule=rule, most=60)
        plain = run(engine, None, seed=seed, rule=Scripted(**vars_of(rule)), most=60)
        assert trace.tokens == plain.tokens
        if trace.forced:
            exits += 1
            at, n = trace.forced
            assert trace.tokens[at : at + n] in fed  # one forward fed all of it
    assert exits >= 6


def vars_of(rule):
    return {"act": rule.act, "suffix": rule.suffix, "markers": rule.markers, "cues": rule.cues}


def test_stops_end_inside_an_accepted_block():
    def stop(tokens, own):
        return len(tokens) >= end

    plain = run(REPEATING, Hierarchy(curve=fixed(FLAT)), policy=Greedy(), most=80)
    assert plain.forwards < 40
    # A plain run stops wherever the drafted one was in the middle of a block.
    end = 2 + 61
    stopped = run(REPEATING, None, policy=Greedy(), most=80, stop=stop)
    drafted = run(REPEATING, Hierarchy(curve=fixed(FLAT)), policy=Greedy(), most=80, stop=stop)
    assert drafted.tokens == stopped.tokens and drafted.finish_reason == "stop"
    assert drafted.accepted > 0


def test_many_loops_in_one_forward():
    engine = ToyEngine(vocabulary=12, order=2, seed=3, concentration=0.03)
    controller, plain = Controller(drafter=Hierarchy(curve=fixed(FLAT))), Controller()
    out = []
    for used in (plain, controller):
        traces = [Trace() for _ in range(4)]
        calls = [Call([1, 2], 40, frozenset(), Keys(seed=1, run=i), Sampling()) for i in range(4)]
        loops = [used.loop(engine.session(), WORDS, c, t) for c, t in zip(calls, traces, strict=True)]
        together(loops)
        out.append([t.tokens for t in traces])
    assert out[0] == out[1]


@pytest.mark.parametrize(
    "text", ["hierarchy(0)", "hierarchy(2.5)", "hierarchy(model=)", "hierarchy(table=x)", "ngram(model=x)", "hierarky"]
)
def test_wrong_texts_are_one_line(text):
    with pytest.raises(ControllerError) as caught:
        parse_draft(text)
    assert "\n" not in str(caught.value)


def test_the_first_use_measures_and_keeps_the_law(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    engine = ToyEngine(vocabulary=12, order=2, seed=3, concentration=0.03)
    engine.identity = "toy"
    assert run(engine, Hierarchy()).tokens == run(engine, None).tokens
    assert list(tmp_path.glob("costs/*.json"))
