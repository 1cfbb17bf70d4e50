"""Plans of drafters with a model: what they price, how soon they stop, what they remember, what they foretell."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.load import load_model
from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import Call, Controller, Greedy, Keys, PromptLookup, Sampling, Trace
from reasonctl.controller.core import UNLIMITED
from reasonctl.controller.core import tokenizer as vocabulary
from reasonctl.controller.drafting.drafter import Target
from reasonctl.controller.drafting.growth import Growth, draw_threshold, finish
from reasonctl.controller.drafting.hierarchy import HierarchyRun
from reasonctl.controller.drafting.models.draft_distribution import DraftDistribution
from reasonctl.controller.drafting.planning.cost import SharedCurve
from reasonctl.controller.drafting.planning.experience import LONGEST_PAUSE, PAUSE, Ledger
from reasonctl.controller.drafting.planning.meter import Prices
from reasonctl.controller.drafting.planning.plan import DraftPlan
from reasonctl.controller.drafting.shapes import sequoia
from support.statistics import exact_three, merged_p_value
from support.toy_drafts import ALPHA, CHEAP, FLAT, SMALL, TARGET, TOKENS, Fixed, Words, drafter, run, three_tokens

rng = np.random.default_rng(3)
TEXT = ToyEngine(vocabulary=5, order=3, seed=2, concentration=0.2)
WRONG = ToyEngine(vocabulary=5, order=3)
WRONG.table = np.roll(TEXT.table, 1, axis=1)
STEEP = Fixed({0: {1: 1.0, 2: 1.5, 32: 16.5}})


class Watched:
    """The engine of a draft model that counts its forwards and the rows of each."""

    def __init__(self, engine):
        self.rows = rows = []

        class Counting(type(engine)):
            def forward(self, requests):
                rows.extend(len(r.pending) + len(r.draft) for r in requests)
                return super().forward(requests)

        self.engine = Counting(vocabulary=engine.vocabulary, order=engine.order)
        self.engine.table = engine.table


def test_a_draft_that_fails_is_tried_for_a_few_steps_and_the_pause_outlives_the_run():
    made = drafter("chain", engine=WRONG, curves=(STEEP, CHEAP), size=4)
    first = run(made, engine=TEXT, policy=Greedy(), most=PAUSE // 2)
    assert first.drafted > 0 and made.experience.ledger.steps == 4
    pause = made.experience.pauses.left
    assert pause > 20
    assert run(made, engine=TEXT, policy=Greedy(), most=20).drafted == 0
    assert pause - 20 <= made.experience.pauses.left < pause
    # What a long pause was for is asked again soon in another text.
    made.experience.pauses.left, made.experience.pauses.next_length = LONGEST_PAUSE, LONGEST_PAUSE
    run(made, engine=TEXT, policy=Greedy(), most=2)
    assert made.experience.pauses.left <= PAUSE


def test_after_a_pause_a_greedy_draft_is_judged_by_what_it_missed():
    """No step is spent on it: the forward that it needs anyway tells how it would have done."""
    watched = Watched(WRONG)
    bad = drafter("chain", engine=watched.engine, curves=(STEEP, CHEAP), size=4)
    bad.experience.pauses.left, bad.experience.pauses.after_attempt = 40, True
    assert run(bad, engine=TEXT, policy=Greedy(), most=100).drafted == 0
    assert max(watched.rows) > 30 and bad.experience.acceptance.ranks.of("0") < 0.35 and bad.experience.pauses.left > 0
    good = drafter("chain", engine=TEXT, curves=(STEEP, CHEAP), size=4)
    for _ in range(30):
        good.experience.acceptance.note_rank(None)  # it failed for long
    good.experience.pauses.left, good.experience.pauses.after_attempt = 40, True
    good.experience.acceptance.ranks.relax(), good.experience.acceptance.ranks.relax()
    trace = run(good, engine=TEXT, policy=Greedy(), most=200)
    assert good.experience.acceptance.ranks.of("0") > 0.8 and trace.forwards < 150


def test_the_ranks_learnt_are_those_of_the_missed_tokens():
    made = drafter("sequoia", engine=WRONG, curves=(FLAT, CHEAP))
    noted = []
    made.experience.acceptance.note_rank = lambda found, ranks=4: noted.append(found)
    made.experience.pauses.left, made.experience.pauses.after_attempt = 20, True
    trace = run(made, engine=TEXT, policy=Greedy(), most=22)
    tokens, expected = [0, *trace.tokens], []
    for at in range(1, 21):
        probs = WRONG.probs(tokens[:at])
        rank = int((probs > probs[tokens[at]]).sum())
        expected.append(rank if rank < 4 else None)
    assert noted[: len(expected)] == expected


def test_drafting_that_goes_on_paying_ends_the_growth_of_pauses():
    made = drafter("chain", engine=TEXT, size=4)
    made.experience.pauses.next_length = LONGEST_PAUSE
    run(made, engine=TEXT, policy=Greedy(), most=100)
    assert made.experience.pauses.next_length == PAUSE


@pytest.mark.parametrize("most, drafts", [(30, False), (400, True)])
def test_a_long_prompt_must_be_worth_its_feeding(most, drafts):
    own = Fixed({0: {1: 0.05, 32: 0.36}})  # 2,000 tokens take 20 of the target's steps
    made = drafter("chain", engine=TEXT, curves=(FLAT, own), size=4)
    trace, prompt = Trace(), [i % 5 for i in range(2000)]
    call = Call(prompt, most, frozenset(), Keys(seed=1), Greedy())
    list(Controller(drafter=made).stream(TEXT.session(), TOKENS, call, trace))
    assert (trace.drafted > 0) == drafts


def test_the_work_between_the_forwards_is_priced():
    made = drafter("sequoia", engine=TEXT, curves=(FLAT, CHEAP))
    run(made, engine=TEXT, policy=Sampling(), most=40)
    assert 1e-6 < made.experience.node_seconds < 1e-2
    made.experience.note_work(100.0, 1)
    made.experience.node_seconds = 5.0
    made.experience.note_work = lambda seconds, nodes: None
    assert run(made, engine=TEXT, policy=Sampling(), most=40).drafted == 0


def test_the_draft_model_s_curve_is_corrected_by_ordinary_steps():
    notes = []

    class Recording(Fixed):
        def note(self, rows, seconds, context=0):
            notes.append((rows, context))

    for kind in ("chain", "sequoia"):
        notes.clear()
        made = drafter(kind, engine=TEXT, curves=(FLAT, Recording({0: {1: 0.05, 32: 0.05}})), size=6)
        trace, prompt = Trace(), [i % 5 for i in range(100)]
        call = Call(prompt, 60, frozenset(), Keys(seed=1), Greedy())
        list(Controller(drafter=made).stream(TEXT.session(), TOKENS, call, trace))
        assert len(notes) > 20 and max(rows for rows, _ in notes) <= 32
        assert min(context for _, context in notes) >= 100


def test_greedy_chains_need_no_distribution(monkeypatch):
    expected = run(None, engine=TEXT, policy=Greedy()).tokens
    monkeypatch.setattr(DraftDistribution, "probs", lambda *_: pytest.fail("a distribution was asked for"))
    for inner in (None, PromptLookup()):
        made = drafter("chain", engine=TEXT, adaptive=False, inner=inner)
        trace = run(made, engine=TEXT, policy=Greedy())
        assert trace.tokens == expected and trace.accepted > 30


def test_a_dynamic_tree_is_no_deeper_than_its_plan():
    """A layer costs a forward of the draft model, which the plan weighed."""
    dear = Fixed({0: {1: 0.25, 32: 0.25}})
    sure = ToyEngine(vocabulary=5)
    sure.table = SMALL.table**8 / (SMALL.table**8).sum(1, keepdims=True)
    made = drafter("dyspec", engine=sure, curves=(FLAT, dear), depth=8)
    depths, sizes = [], []
    start = made.start

    def listened(target):
        run = start(target)
        observe = run.observe

        def heard(draft, accepted):
            observe(draft, accepted)
            if draft.tokens:
                depths.append((1 + max(draft.depths()), run.plan.shape.depth()))
                sizes.append((len(draft), len(run.plan.shape.parents)))

        run.observe = heard
        return run

    made.start = listened
    run(made, most=80)
    assert len(depths) > 15 and all(found <= planned for found, planned in depths)
    assert min(planned for _, planned in depths) < 8
    assert all(found <= 2 * planned for found, planned in sizes)


def test_the_threshold_of_a_plan_gives_its_tree_where_the_draft_model_says_what_is_accepted():
    acceptance = (0.6, 0.2, 0.08, 0.04)
    probs = np.array([*acceptance, *[0.02] * 4])
    for nodes in (4, 8, 16):
        plan, growth = sequoia(acceptance, nodes, 10), Growth(None)

        def probs_after(draft, asked):
            return [probs for _ in asked]
            yield

        threshold = plan.least_slot(acceptance)
        finish(draw_threshold(growth, probs_after, threshold=threshold, nodes=99, layers=plan.depth()))
        assert nodes / 2 <= len(growth) <= 2 * nodes
        assert 1 + sum(growth.values) >= 0.9 * plan.gain
    # One chain of two: its second node is tested if the first was accepted.
    assert sequoia((0.5,), 3, 9).least_slot((0.5,)) == 0.5
    assert sequoia((0.6, 0.3), 3, 2).least_slot((0.6, 0.3)) == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["chain", "sequoia"])
def test_what_a_step_brings_was_foretold(kind):
    """Expected tokens and seconds per step, the draft model's side included, on a clock that shows the curves."""
    target, own = Fixed({0: {1: 1.0, 32: 2.0}}), Fixed({0: {1: 0.1, 32: 3.2}})
    near = ToyEngine(vocabulary=5, order=3)
    near.table = 0.8 * TEXT.table + 0.2 / 5
    made = drafter(kind, engine=near, curves=(target, own), size=6, depth=4, adaptive=False)
    for i in range(6):
        run(made, engine=TEXT, run=i, most=100)
    ledger = made.experience.ledger
    assert ledger.steps > 100 and ledger.timed == ledger.steps
    # A prior holds the rates down, and the text's own ends cut steps short.
    assert 0.9 < ledger.emitted / ledger.expected_emitted < 1.25
    # A tree's layers are fed with what stands above them.
    price = target.at(5) + 4 * own.at(1) if kind == "chain" else target.at(7) + sum(map(own.at, (1, 3, 4, 5)))
    assert 0.95 * price < ledger.expected_seconds / ledger.steps < 1.25 * price
    assert 0 < ledger.seconds < 1  # the toy's own


@pytest.mark.parametrize("kind", ["chain", "sequoia", "dyspec", "dyspec-greedy"])
def test_the_rows_that_a_plan_prices_are_those_that_are_fed(kind):
    watched = Watched(SMALL)
    made = drafter(kind, engine=watched.engine, size=7, depth=4, adaptive=False)
    priced, start = [], made.start

    def listened(target):
        run = start(target)
        observe = run.observe

        def heard(draft, accepted):
            observe(draft, accepted)
            # What was accepted is fed once more, before the next draft.
            priced.append(sum(run.plan.draft_rows(draft.parents)) + len(accepted) if draft.tokens else 0)

        run.observe = heard
        return run

    made.start = listened
    accepted = run(made, most=80).accepted
    assert len(priced) > 20 and accepted > 20
    slack = accepted if kind == "chain" else 12  # a chain's accepted tokens are in the cache already
    assert sum(watched.rows) == pytest.approx(sum(priced), abs=slack)


def test_a_tree_is_chosen_by_what_its_own_layers_cost():
    """The deeper layers of a tree feed most of it again, and a step what the last one's tree brought: dear where a
    draft model's rows are. A chain stays in its cache."""
    sizes = []
    for own, chain in ((Fixed({0: {1: 0.02, 32: 1.2}}), True), (Fixed({0: {1: 0.02, 32: 0.05}}), False)):
        made = drafter("sequoia", curves=(FLAT, own), size=16)
        plan = DraftPlan(made.settings, made.experience)
        plan.choose(Prices(SharedCurve(FLAT, 1), SharedCurve(own, 1)), context=0, leaves=99, nodes=99)
        parents = plan.shape.parents
        assert (parents == tuple(range(-1, len(parents) - 1))) is chain
        fed = plan.draft_rows(parents, 1 if chain else round(plan.shape.gain))
        assert plan.ratio == pytest.approx(plan.shape.gain / (FLAT.at(1) + sum(map(own.at, fed))))
        sizes.append(len(parents))
    assert sizes[0] < sizes[1]


def test_a_dynamic_tree_foretells_from_its_own_slots():
    made = drafter("dyspec", engine=TARGET, curves=(FLAT, CHEAP), size=6, adaptive=False)
    for i in range(6):
        run(made, run=i)
    ledger = made.experience.ledger
    assert ledger.steps > 30 and 1.5 < ledger.expected_emitted / ledger.steps < 7
    assert ledger.emitted >= 0.9 * ledger.expected_emitted


def test_a_draft_model_that_is_too_sure_is_not_believed_for_long():
    """Its slots promise more than they bring; what a tree is expected to bring follows what slots have brought."""
    flatter = ToyEngine(vocabulary=5, order=3)
    flatter.table = 0.55 * TEXT.table + 0.45 / 5
    made = drafter("dyspec", engine=TEXT, curves=(FLAT, CHEAP), size=6, adaptive=False)
    promised, expected = [], made.experience.acceptance.expected_by_value
    made.experience.acceptance.expected_by_value = lambda draft, slots: (
        promised.append(1 + sum(slots)) or expected(draft, slots)
    )
    for i in range(4):
        run(made, engine=flatter, run=i, most=100)
    made.experience.ledger, promised[:] = Ledger(), []
    for i in range(4, 12):
        run(made, engine=flatter, run=i, most=100)
    ledger = made.experience.ledger
    assert ledger.steps == len(promised) > 150 and ledger.emitted < 0.8 * sum(promised)
    assert 0.9 < ledger.emitted / ledger.expected_emitted < 1.1


def test_a_sure_first_rank_is_not_held_down_by_later_ones():
    """Ranks exclude each other: what the first is known to take the later ones, never seen, can't have."""
    made = drafter("chain")
    for i in range(400):
        made.experience.acceptance.note_rank(0 if i % 20 else None, ranks=1)
    first, *later = made.experience.acceptance.by_rank()
    assert first > 0.92 and sum((first, *later)) < 1.0 and later == sorted(later, reverse=True)


def test_a_vocabulary_is_hashed_once_per_library_tokenizer(monkeypatch):
    hashed = []
    true = vocabulary.vocabulary_hash
    monkeypatch.setattr(vocabulary, "vocabulary_hash", lambda t: hashed.append(t) or true(t))
    gguf, hf = load_model("tiny", threads=1), load_model("tiny", backend="transformers", threads=1)
    for _ in range(3):
        assert vocabulary.vocabulary_of(LlamaTokenizer(gguf.library)) == vocabulary.vocabulary_of(hf.tokenizer)
    assert len(hashed) == 2
    hf.tokenizer.tokenizer.add_tokens(["<another>"])
    grown = type(hf.tokenizer)(hf.tokenizer.tokenizer)
    assert vocabulary.vocabulary_of(grown) != vocabulary.vocabulary_of(gguf.tokenizer)


@pytest.mark.parametrize("kind", ["chain", "sequoia", "dyspec", "dyspec-greedy"])
@pytest.mark.parametrize("n", [400, pytest.param(30_000, marks=pytest.mark.slow)])
def test_the_distribution_under_plans_is_the_target_s(kind, n):
    """Shapes, thresholds and pauses follow earlier runs and steps; what is drawn now decides none of them."""
    own = Fixed({0: {1: 0.12, 32: 0.3}})
    made = drafter(kind, curves=(Fixed({0: {1: 1.0, 2: 1.1, 32: 6.0}}), own), size=6, depth=3)
    counts, accepted = three_tokens(made, Sampling(), n)
    assert accepted > n / 4
    assert merged_p_value(counts, exact_three(Sampling())) > ALPHA


def test_a_threshold_that_looks_at_the_token_just_drawn_is_caught(monkeypatch):
    """A draw that is thrown away because of what it was."""
    draw = Growth.draw

    def choosy(self, parent):
        node, probability = draw(self, parent)
        if self.tokens[node] == 1 and self.children(parent) == 1:
            for kept in (self.tokens, self.parents, self.values, self._draws[parent]):
                kept.pop()
            node, probability = draw(self, parent)
        return node, probability

    monkeypatch.setattr(Growth, "draw", choosy)
    counts, _ = three_tokens(drafter("sequoia", size=5, depth=3, curves=(FLAT, CHEAP)), Sampling(), 1500)
    assert merged_p_value(counts, exact_three(Sampling())) < ALPHA


def test_a_lookup_has_a_plan_where_rejections_feed_tokens_again():
    """Elsewhere it drafts always, and asks for no room to measure."""
    texts = Words(list("abcdef"))
    for cuts, planned in ((0, True), (3, True), (4, False), (UNLIMITED, False)):
        engine = ToyEngine(vocabulary=6, seed=2)
        engine.cuts = cuts
        lookup = PromptLookup(size=4)
        run = lookup.start(Target(engine.session(), texts, Keys(seed=0), Sampling()))
        assert isinstance(run, HierarchyRun) == planned == (run is not lookup)
        assert bool(lookup.needs(engine, 50)) == planned
        if planned:
            assert run.drafter.size == 4 and run.drafter.recent is None
