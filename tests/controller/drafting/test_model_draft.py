"""Drafts of a smaller model: the distribution under every tree, plans that pay, sessions that stay in step."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Cues,
    Greedy,
    Keys,
    ModelDrafter,
    PromptLookup,
    Proposal,
    Sampling,
    Trace,
    parse_draft,
    parse_policy,
)
from support.exact_probs import node_probs
from support.scripted import Scripted
from support.statistics import exact_three, merged_p_value
from support.together import together
from support.toy_drafts import (
    ALPHA,
    CHEAP,
    DEAR,
    FLAT,
    SMALL,
    TARGET,
    TOKENS,
    Fixed,
    Words,
    drafter,
    rng,
    run,
    small,
    three_tokens,
)

KINDS = ["chain", "sequoia", "dyspec", "dyspec-greedy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [Sampling(), Sampling(temperature=0.7, top_p=0.9)], ids=["whole", "truncated"])
@pytest.mark.parametrize("n", [250, pytest.param(30_000, marks=pytest.mark.slow)])
def test_the_distribution_is_the_target_s(kind, policy, n):
    counts, accepted = three_tokens(drafter(kind, size=5, depth=3, adaptive=False), policy, n)
    assert accepted > n
    assert merged_p_value(counts, exact_three(policy)) > ALPHA


def test_a_draft_under_another_distribution_than_it_says_is_caught(monkeypatch):
    from reasonctl.controller.drafting.growth import Growth

    honest = Growth.give

    def dishonest(self, node, probs):
        honest(self, node, probs)
        self._probs[node] = np.roll(probs, 1)

    monkeypatch.setattr(Growth, "give", dishonest)
    counts, _ = three_tokens(drafter("sequoia", size=5, depth=3, adaptive=False), Sampling(), 500)
    assert merged_p_value(counts, exact_three(Sampling())) < ALPHA


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [True, False])
def test_greedy_runs_are_plain_runs(kind, adaptive):
    target = ToyEngine(vocabulary=5, order=3, seed=2, concentration=0.2)
    near = ToyEngine(vocabulary=5, order=3, seed=2, concentration=0.2)
    near.table = 0.6 * target.table + 0.4 * rng.dirichlet(np.ones(5), size=len(target.table))
    made = drafter(kind, engine=near, adaptive=adaptive, size=6)
    plain, drafted = run(None, engine=target, policy=Greedy()), run(made, engine=target, policy=Greedy())
    assert drafted.tokens == plain.tokens
    assert drafted.accepted > 20 and drafted.forwards < 0.7 * plain.forwards


def test_the_draft_session_follows_what_was_accepted():
    made = drafter("sequoia", size=6, adaptive=False)
    seen = []
    start = made.start

    def watched(target):
        run = start(target)
        propose = run.propose

        def checked(tokens, room):
            draft = yield from propose(tokens, room)
            committed = run.session.session.tokens[: len(tokens)]
            assert committed == list(tokens)[: len(committed)]
            seen.append(len(draft))
            return draft

        run.propose = checked
        return run

    made.start = watched
    run(made, most=40)
    assert len(seen) > 5 and max(seen) == 6


def test_plans_follow_cost_and_acceptance():
    twin = drafter("sequoia", engine=TARGET)  # drafts its own distribution: everything is accepted
    good = [run(twin, run=i) for i in range(4)]
    assert good[-1].forwards < 60 / 3
    dear = drafter("sequoia", curves=(DEAR, CHEAP))
    assert sum(run(dear, run=i).drafted for i in range(4)) == 0
    slow = drafter("sequoia", curves=(FLAT, FLAT))  # the draft costs as much as the target
    assert sum(run(slow, run=i).drafted for i in range(4)) == 0
    bad = ToyEngine(vocabulary=5)
    bad.table = np.roll(TARGET.table, 2, axis=1) ** 3 + 1e-9
    bad.table /= bad.table.sum(1, keepdims=True)
    poor = drafter("chain", engine=bad, curves=(Fixed({0: {1: 1.0, 2: 1.4, 32: 13.0}}), Fixed({0: {1: 0.1}})))
    drafted = [run(poor, run=i).drafted for i in range(8)]
    assert drafted[0] > 0 and sum(drafted[4:]) <= 32


def test_other_vocabularies_and_models_without_rollback_are_refused():
    other = ModelDrafter(small(tokenizer=Words(list("abcdf"))), curves=(FLAT, CHEAP))
    with pytest.raises(ControllerError, match="'small' has other token ids"):
        run(other)

    call = Call([0], 9, frozenset(), Keys(seed=1), Sampling())
    for lacks in ({"rollback": False}, {"checkpoints": True}, {"branches": 0}):
        with pytest.raises(ControllerError, match="can't take rejected tokens back"):  # before the first token
            Controller(drafter=ModelDrafter(small(**lacks))).stream(TARGET.session(), TOKENS, call)
    with pytest.raises(ControllerError, match="depth 0"):
        drafter("chain", depth=0)


def test_the_text_form_opens_the_model():
    opened = []

    def load(name):
        opened.append(name)
        return small()

    made = parse_draft("sequoia(small.gguf, 12)", load)
    assert opened == ["small.gguf"] and (made.settings.kind, made.settings.size) == ("sequoia", 12)
    assert parse_draft("model(small.gguf)", load).settings.kind == "chain"
    assert parse_draft("dyspec_greedy(small.gguf)", load).settings.kind == "dyspec-greedy"
    for text in ("sequoia", "sequoia(x, y)", "model(x, 0)"):
        with pytest.raises(ControllerError):
            parse_draft(text, load)
    with pytest.raises(ControllerError, match="can't be opened here"):
        parse_draft("dyspec(small.gguf)")


def test_many_loops_share_the_forwards_of_both_models():
    controller = Controller(drafter=drafter("sequoia", size=5, adaptive=False))
    traces = [Trace() for _ in range(3)]
    calls = [Call([0], 30, frozenset(), Keys(seed=1, run=i), Sampling()) for i in range(3)]
    loops = [controller.loop(TARGET.session(), TOKENS, c, t) for c, t in zip(calls, traces, strict=True)]
    together(loops)
    alone = [run(drafter("sequoia", size=5, adaptive=False), run=i, most=30, seed=1) for i in range(3)]
    assert [t.tokens for t in traces] == [t.tokens for t in alone]


def test_exits_inside_drafted_blocks():
    """A cue inside an accepted block ends the block there, and the draft model follows the run that goes on."""
    letters = Words([f"{c} " for c in "abcde"])
    near = ToyEngine(vocabulary=5)
    near.table = 0.7 * TARGET.table + 0.3 * SMALL.table
    exits = 0
    for seed in range(20):
        traces = []
        for used in (None, ModelDrafter(small(near, letters), kind="sequoia", size=6, adaptive=False)):
            rule = Scripted(act=lambda at: at.cue.index == 1, suffix="a b a b ", markers=None, cues=Cues(["d"]))
            trace = Trace()
            call = Call([0, seed % 5], 50, frozenset(), Keys(seed=seed), Greedy())
            list(Controller(drafter=used, exit=rule).stream(TARGET.session(), letters, call, trace))
            traces.append(trace)
        assert traces[0].tokens == traces[1].tokens and traces[0].forced == traces[1].forced
        exits += traces[0].forced is not None
    assert exits > 0 and traces[1].forwards < traces[0].forwards


@pytest.mark.parametrize("n", [400, pytest.param(30_000, marks=pytest.mark.slow)])
def test_two_levels_keep_the_distribution(n):
    made = drafter("chain", size=5, depth=5, adaptive=False, inner=PromptLookup(size=3))
    counts, accepted = three_tokens(made, Sampling(), n)
    assert accepted > n
    assert merged_p_value(counts, exact_three(Sampling())) > ALPHA


def test_two_levels_give_the_draft_model_s_own_chain_in_fewer_forwards():
    """The middle level's tokens are those that it would have drawn alone, by the same keys."""
    target = ToyEngine(vocabulary=5, order=3, seed=2, concentration=0.03)
    near = ToyEngine(vocabulary=5, order=3, seed=2, concentration=0.03)
    near.table = 0.9 * target.table + 0.1 / 5
    for policy in (Greedy(), Sampling()):
        alone, two = (
            drafter("chain", engine=near, size=6, depth=6, adaptive=False, inner=b) for b in (None, PromptLookup())
        )
        near.forwards = 0
        first = run(alone, engine=target, policy=policy)
        plain = near.forwards
        second = run(two, engine=target, policy=policy)
        assert second.tokens == first.tokens and second.accepted == first.accepted
        assert near.forwards - plain < 0.7 * plain
    with pytest.raises(ControllerError, match="chains"):
        drafter("sequoia", inner=PromptLookup())


def test_a_middle_level_that_redraws_after_a_rejection_is_biased():
    """TriForce's toy: without the residual at the middle level what is emitted is wrong by 0.08; with it, exact."""
    q, m, p = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.4, 0.3]), np.array([0.2, 0.3, 0.5])
    least = np.minimum(q, m)
    residual = np.maximum(m - q, 0) / np.maximum(m - q, 0).sum()
    wrong, right = least + (1 - least.sum()) * m, least + (1 - least.sum()) * residual
    assert wrong == pytest.approx([0.42, 0.36, 0.22]) and right == pytest.approx(m)

    def final(proposed):
        return sum(proposed[x] * node_probs(p, Proposal(m, (x,)))[0] for x in range(3))

    assert 0.5 * np.abs(final(wrong) - p).sum() == pytest.approx(0.08)
    assert final(right) == pytest.approx(p, abs=1e-12)


def test_a_run_that_never_begins_holds_no_session():
    opened = []

    class Counting(ToyEngine):
        def session(self):
            opened.append(super().session())
            return opened[-1]

    made = drafter("chain", engine=Counting(vocabulary=5), adaptive=False)
    call = Call([0], 9, frozenset(), Keys(seed=1), Sampling())
    stream = Controller(drafter=made).stream(TARGET.session(), TOKENS, call)
    assert opened == []
    next(stream), next(stream)
    assert len(opened) == 1 and opened[0].tokens
    stream.close()
    assert opened[0].tokens == []  # closed, though the run was left in the middle


@pytest.mark.parametrize("kind", KINDS)
def test_under_a_grammar_drafts_of_a_model_are_verified_by_it(kind):
    """The draft model's distributions know no grammar; what is written keeps to it."""
    policy, accepted = parse_policy(r'grammar("root ::= (\"a\" | \"b\" \"c\"+ \"d\")+") | temperature(1.2)'), 0
    for i in range(10):
        trace = run(drafter(kind), policy=policy, run=i, most=30)
        assert re.fullmatch("(a|bc+d)*(b|bc+)?", TOKENS.decode(trace.tokens))
        accepted += trace.accepted
    assert accepted > 5
