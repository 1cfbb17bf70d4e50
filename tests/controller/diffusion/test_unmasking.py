"""Unmasking: exact laws on a toy, orders, schedules, blocks, remasking, grammars, batches, early commit."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import Chain, ControllerError, Grammar, Greedy, Keys, parse_policy
from reasonctl.controller.diffusion import (
    AnswerAfter,
    Commit,
    Confidence,
    Denoise,
    Order,
    Stability,
    Unmask,
    Unmasking,
    Unsure,
    by_entropy_bound,
    parse_unmasking,
    run_all,
    run_one,
    schedule,
)
from reasonctl.controller.diffusion.orders import entropies
from support.masked_toys import JointEngine, exact_law
from support.statistics import ALPHA, merged_p_value

RUNS = 1200
ENGINE = JointEngine()


def asked(order="left", *, run=0, policy=None, engine=ENGINE, eos=frozenset(), tokenizer=None, seed=1, **settings):
    order = order if isinstance(order, Order) else parse_unmasking(order, engine.length).order
    found = Unmasking(engine.length, order=order, **settings)
    return Unmask([0], found, policy or Chain(), Keys(seed=seed, run=run), eos, tokenizer)


def counts(order, **settings):
    traces = run_all(ENGINE, [asked(order, run=run, **settings) for run in range(RUNS)])
    found = np.zeros(ENGINE.joint.shape)
    for trace in traces:
        found[tuple(trace.tokens)] += 1
    return found


def most_confident(probs, drawn, masks):
    return [int(np.argmax([probs[row, token] for row, token in enumerate(drawn)]))]


def least_entropy(probs, drawn, masks):
    return [int(np.argmin(entropies(probs)))]


def least_margin(probs, drawn, masks):
    top = np.sort(probs, -1)
    return [int(np.argmax(top[:, -1] - top[:, -2]))]


def bounded(probs, drawn, masks):
    return by_entropy_bound(entropies(probs), 0.5)


LAWS = {
    "left": (ENGINE.joint, {}),
    "random": (ENGINE.joint, {}),
    "entropy": (exact_law(ENGINE, least_entropy), {}),
    "margin": (exact_law(ENGINE, least_margin), {}),
    "confidence": (exact_law(ENGINE, most_confident, draws_all=True), {}),
    "entropy_bound(0.5)": (exact_law(ENGINE, bounded), {}),
}


@pytest.mark.parametrize("order", LAWS)
def test_the_law_is_the_enumerated_one(order):
    """Six tests of 27 texts; a false alarm each in 1e-4, with a fixed seed."""
    law, settings = LAWS[order]
    assert abs(law.sum() - 1) < 1e-9
    assert merged_p_value(counts(order, **settings), law) > ALPHA


def test_one_position_at_a_time_draws_from_the_joint_and_confidence_does_not():
    """The order by entropy reads no drawn token, so it changes nothing; one by the drawn token's chance does."""
    np.testing.assert_allclose(LAWS["entropy"][0], ENGINE.joint)
    assert merged_p_value(counts("confidence"), ENGINE.joint) < ALPHA


def test_all_at_once_is_the_product_of_marginals():
    product = exact_law(ENGINE, lambda probs, drawn, masks: range(len(masks)))
    found = counts("random", steps=1)
    assert merged_p_value(found, product) > ALPHA and merged_p_value(found, ENGINE.joint) < ALPHA


def test_order_temperature_draws_positions_from_the_softmax_of_scores():
    probs = ENGINE.rows([ENGINE.mask] * 3)
    scores = -entropies(probs) / 0.4
    wanted = np.exp(scores) / np.exp(scores).sum()
    order = Order("entropy", temperature=0.4)
    traces = run_all(ENGINE, [asked(order, run=run) for run in range(RUNS)])
    first = np.bincount([trace.order[0][0] for trace in traces], minlength=3)
    assert merged_p_value(first, wanted) > ALPHA and first.min() > 0


@pytest.mark.parametrize("masks,steps", [(128, 128), (128, 50), (7, 3), (2, 4)])
def test_steps_write_as_many_as_lladas(masks, steps):
    torch = pytest.importorskip("torch")
    # LLaDA's get_num_transfer_tokens: everywhere masks // steps, one more in the first masks % steps.
    theirs = torch.full((steps,), masks // steps)
    theirs[: masks % steps] += 1
    assert schedule(masks, steps) == theirs.tolist()
    if steps <= masks:
        trace = run_one(JointEngine(2, 7), asked("entropy", engine=JointEngine(2, 7), steps=min(steps, 7)))
        assert [len(step) for step in trace.order] == schedule(7, min(steps, 7))


@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 100.0])
def test_the_entropy_bound_is_transformers_own(bound):
    torch = pytest.importorskip("torch")
    gemma = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
    sampler = gemma.EntropyBoundSampler(gemma.EntropyBoundSamplerConfig(entropy_bound=max(bound, 1e-9)), 24, 9, 4)
    logits = torch.randn(40, 24, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 4
    sampler.accept_canvas(torch.zeros(40, 24).long(), torch.ones(40, 24).long(), logits, 0)
    for row, theirs in zip(logits.softmax(-1).numpy(), sampler.accepted_token_mask, strict=True):
        ours = by_entropy_bound(entropies(row), max(bound, 1e-9))
        assert sorted(ours) == torch.nonzero(theirs).flatten().tolist()


def test_blocks_are_finished_from_left_to_right_and_steps_are_dealt_to_them():
    engine = JointEngine(2, 7)
    trace = run_one(engine, asked("random", engine=engine, block=3, steps=5))
    assert [len(step) for step in trace.order] == [2, 1, 2, 1, 1] and trace.forwards == 5
    assert sorted(sum(trace.order[:2], [])) == [0, 1, 2] and trace.order[-1] == [6]


def test_remasking_masks_the_least_sure_again_and_they_are_drawn_anew():
    engine = JointEngine(3, 4, seed=5)
    traces = run_all(engine, [asked("entropy", engine=engine, run=run, remask=0.5) for run in range(60)])
    assert all(len(trace.remasked) == 2 and trace.forwards == 6 for trace in traces)
    assert all(engine.mask not in trace.tokens for trace in traces)
    plain = run_all(engine, [asked("entropy", engine=engine, run=run) for run in range(60)])
    assert any(a.tokens != b.tokens for a, b in zip(traces, plain, strict=True))


def test_the_same_keys_give_the_same_text_alone_and_in_a_batch():
    runs = [asked("confidence", run=run, block=run % 3 + 1) for run in range(12)]
    engine = JointEngine()
    together = run_all(engine, runs)
    assert engine.batches[0] == 12
    assert [trace.tokens for trace in together] == [run_one(ENGINE, one).tokens for one in runs]
    other = run_all(ENGINE, [asked("confidence", run=run, seed=2) for run in range(12)])
    assert [trace.tokens for trace in together] != [trace.tokens for trace in other]


def test_left_to_right_draws_with_the_uniforms_of_a_plain_run():
    trace = run_one(ENGINE, asked("left", run=4))
    text = [ENGINE.mask] * 3
    for at in range(3):
        mass = np.cumsum(ENGINE.rows(text)[at])
        text[at] = int(np.searchsorted(mass, Keys(seed=1, run=4).uniform(1 + at) * mass[-1], side="right"))
    assert trace.tokens == text


def test_an_end_token_ends_the_run_once_nothing_before_it_is_masked():
    engine = JointEngine(3, 4)
    traces = run_all(engine, [asked("left", engine=engine, run=run, eos=frozenset({1})) for run in range(20)])
    assert {trace.finish_reason for trace in traces} == {"stop", "length"}
    for trace in traces:
        assert 1 not in trace.tokens[:-1] and trace.forwards == len(trace.tokens)


@pytest.mark.parametrize("order", ["confidence", "random", "entropy_bound(1)", "left"])
def test_every_text_is_of_the_grammar(order):
    tokenizer, engine = ToyTokenizer(["a", "b", ",", "", ""]), JointEngine(4, 6)
    policy = Chain(Grammar('root ::= "a" ("," "b")*'))
    runs = [
        asked(order, run=run, engine=engine, policy=policy, eos=frozenset({3}), tokenizer=tokenizer, steps=3)
        for run in range(20)
    ]
    texts = {tokenizer.decode(trace.tokens) for trace in run_all(engine, runs)}
    assert len(texts) > 1 and all(text.startswith("a") and text in "a,b,b,b" for text in texts)


@pytest.mark.parametrize("policy", ["think: greedy ; answer: temperature(1)"])
def test_policies_that_a_canvas_can_not_have_are_refused(policy):
    with pytest.raises(ControllerError, match="any order"):
        run_one(ENGINE, asked(policy=parse_policy(policy)))


def test_stages_act_at_every_position():
    runs = [asked("random", run=run, policy=parse_policy("top_k(1)"), steps=1) for run in range(9)]
    assert len({tuple(trace.tokens) for trace in run_all(ENGINE, runs)}) == 1


def test_a_commit_writes_the_most_probable_tokens_and_saves_forwards():
    never = asked("entropy", policy=Greedy(), commit=Commit(Confidence()))
    full = run_one(ENGINE, never)
    assert full.committed is None and len(full.signals) == full.forwards == 3 == len(full.answers)
    at = min(full.signals[1], 0.99) - 1e-9
    first = next(step for step, signal in enumerate(full.signals) if signal > at)
    early = run_one(ENGINE, asked("entropy", policy=Greedy(), commit=Commit(Confidence(), at)))
    assert early.committed == first and early.forwards == first + 1
    assert early.tokens == full.answers[first]  # what calibration recorded is what is deployed
    assert "committed at forward" in early.why and "no commit" in full.why


def test_a_threshold_is_strict_and_a_nan_is_refused():
    full = run_one(ENGINE, asked("entropy", policy=Greedy(), commit=Commit(Confidence())))
    same = run_one(ENGINE, asked("entropy", policy=Greedy(), commit=Commit(Confidence(), max(full.signals))))
    assert same.committed is None
    with pytest.raises(ControllerError, match="NaN"):
        Commit(Confidence(), float("nan"))


def test_signals_read_the_answer_span():
    span = AnswerAfter(ToyTokenizer(["x", "is ", "7", "8", ""]), "is ", frozenset({4}))
    assert span.find([0, 1, 2, 3, 4, 2]) == [2, 3, 4] and span.find([0, 2]) == [] and span.find([]) == []
    step = Unsure([0, 1, 2, 4], [0.1, 1.0, 0.6, 0.9], [[0, 1, 3, 4], [2, 1, 2, 4]])
    assert Confidence(span).score(step) == 0.6 and Confidence().score(step) == 0.1
    assert Stability(span).score(step) == 1.6  # the x before the answer may differ
    assert Confidence(span).score(Unsure([0, 0], [0.9, 0.9], [])) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 0},
        {"length": 4, "block": 5},
        {"length": 4, "steps": 5},
        {"length": 4, "block": 2, "steps": 1},
        {"length": 4, "remask": 1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ControllerError, match="it must|it is|at least|take from"):
        Unmasking(**wrong)


@pytest.mark.parametrize(
    "text",
    ["best", "left(2)", "entropy_bound", "entropy_bound(-1)", "entropy_bound(nan)", 'margin("x")', "left(steps=0.5)"]
    + [
        "left(temperature=1)",
        "entropy(steps=2,steps=3)",
        "entropy(cache=1)",
        "entropy(block=true)",
        "left(depth=2)",
    ],
)
def test_impossible_orders_are_refused(text):
    with pytest.raises(ControllerError):
        parse_unmasking(text, 8)


def test_a_cache_is_asked_for_when_a_block_begins():
    seen: list[Denoise] = []

    class Watched(JointEngine):
        def forward(self, requests):
            seen.extend(requests)
            return super().forward(requests)

    engine = Watched(2, 6)
    run_one(engine, asked("left", engine=engine, block=2, cache=True))
    assert [request.keep for request in seen] == [1, 0, 3, 0, 5, 0]


def test_runs_whose_logits_do_not_fit_are_refused_before_a_forward():
    """The first forward gives a row of float32 for each position of each run; one run isn't asked about."""
    engine = JointEngine()
    runs = [asked("left", engine=engine, run=run) for run in range(5)]
    needed = 5 * (1 + engine.length) * engine.vocabulary * 4
    engine.free_bytes = lambda: needed - 1
    with pytest.raises(ControllerError, match="the logits of 5 answers, each of up to 4 positions .* smaller batch"):
        run_all(engine, runs)
    assert not engine.batches
    engine.free_bytes = lambda: needed
    assert len(run_all(engine, runs)) == 5
    engine.free_bytes = lambda: 0
    assert len(run_all(engine, runs[:1])) == 1
