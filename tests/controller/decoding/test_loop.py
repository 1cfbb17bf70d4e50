"""The one loop on the toy backend, whose laws are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Cues,
    Decision,
    Draft,
    Greedy,
    Keys,
    PromptLookup,
    Sampling,
    Stateless,
    Trace,
)
from support.scripted import RandomTree, Scripted
from support.together import together

TEXTS = ["<eos>", "a ", "b ", "Wait", "ing ", ", ", "</think>", "<think>", "So ", " Wait", "it", "Wa", " "]
WAIT, CLOSE, OPEN = TEXTS.index("Wait"), TEXTS.index("</think>"), TEXTS.index("<think>")
TOKENIZER = ToyTokenizer(TEXTS)


def toy() -> ToyEngine:
    """Many cues, and a thinking span that seldom closes by itself."""
    engine = ToyEngine(vocabulary=len(TEXTS), order=2, seed=30)
    weights = np.ones(len(TEXTS))
    weights[[WAIT, TEXTS.index(" Wait"), CLOSE]] = 3, 3, 0.1
    engine.table = engine.table * weights / (engine.table * weights).sum(1, keepdims=True)
    engine.table[:, OPEN + 1] += engine.table[:, OPEN]  # "So " stands where it would open thinking again
    engine.table[:, OPEN] = 0
    return engine


ENGINE = toy()
PROMPT = [1, OPEN]


def run(
    *,
    seed=0,
    drafter=None,
    rule=None,
    policy=None,
    prompt=PROMPT,
    most=60,
    eos=(),
    stop=None,
    engine=ENGINE,
    trace=None,
):
    controller = Controller(exit=rule, drafter=drafter)
    call = Call(prompt, most, frozenset(eos), Keys(seed=seed), policy or Sampling(), stop)
    trace = trace if trace is not None else Trace()
    session = engine.session()
    events = list(controller.stream(session, TOKENIZER, call, trace))
    assert [event.token for event in events] == trace.tokens
    assert [event.position for event in events] == list(range(len(prompt), len(prompt) + len(events)))
    # What was emitted but the last token is in the cache, and nothing else.
    assert session.tokens == (list(prompt) + trace.tokens)[: session.length]
    assert session.length >= len(prompt) + len(trace.tokens) - 1
    return trace.tokens, trace


DRAFTERS = [
    PromptLookup(size=4),
    PromptLookup(longest=2, size=7),
    RandomTree(len(TEXTS)),
    RandomTree(len(TEXTS), roots=8, depth=2),
]


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: f"{type(d).__name__}")
def test_drafted_runs_are_plain_runs(drafter):
    accepted = 0
    for seed in range(40):
        plain, _ = run(seed=seed)
        drafted, trace = run(seed=seed, drafter=drafter)
        assert drafted == plain
        accepted += trace.accepted
    assert accepted > 20  # the draft path was walked
    assert run(policy=Greedy(), drafter=drafter)[0] == run(policy=Greedy())[0]


def test_drafting_saves_forwards():
    _, plain = run(policy=Greedy())
    _, drafted = run(policy=Greedy(), drafter=PromptLookup(size=8))
    assert drafted.forwards < plain.forwards == 60


def answered(head, seed, most=60, again="So "):
    """A run prompted with `head`; closing markers that it writes are taken back for what the suffix puts behind one."""
    if len(head) >= most:
        return head[:most]
    rest, _ = run(seed=seed, prompt=PROMPT + head, most=most - len(head))
    if CLOSE not in rest:
        return head + rest
    return answered(head + rest[: rest.index(CLOSE)] + TOKENIZER.encode(again), seed, most, again)


@pytest.mark.parametrize("drafter", [None, *DRAFTERS], ids=lambda d: type(d).__name__)
def test_exit_replaces_the_cue_and_the_answer_goes_on_as_if_prompted_so(drafter):
    exits = 0
    for seed in range(40):
        rule = Scripted(act=lambda at: at.cue.index == 1)
        plain, _ = run(seed=seed)
        tokens, trace = run(seed=seed, drafter=drafter, rule=rule)
        if trace.exit is None:
            assert tokens == plain
            continue
        exits += 1
        at = trace.exit.position
        before = rule.seen[-1].cue.before
        head = plain[:at] + TOKENIZER.encode(before + rule.suffix)
        assert tokens[: len(head)] == head
        assert trace.forced == (at, len(head) - at)
        assert tokens == answered(head, seed)
        assert trace.cost > len(tokens)  # the cue that was taken back was generated too
    assert exits >= 10


def test_never_exiting_changes_nothing_and_hidden_rows_are_the_cues_own():
    cues = 0
    for drafter in (None, *DRAFTERS):
        for seed in range(20):
            rule = Scripted(act=lambda at: False)
            tokens, trace = run(seed=seed, drafter=drafter, rule=rule)
            assert tokens == run(seed=seed)[0]
            assert len(trace.decisions) == len(rule.seen)
            for at in rule.seen:
                assert list(at.hidden[2]) == [(PROMPT + tokens)[at.cue.last], at.cue.last, 2]
            cues += len(rule.seen)
    assert cues > 100


def test_trial_answers_are_what_the_exit_itself_would_give():
    """Collecting and exiting follow one routine: same keys, same answer; and a trial changes no token of the run."""
    tried = 0
    for drafter in (None, RandomTree(len(TEXTS))):
        for seed in range(20):
            collect = Scripted(act=lambda at: False, answer_tokens=9)
            tokens, trace = run(seed=seed, rule=collect, drafter=drafter)
            assert tokens == run(seed=seed)[0]
            for i, answer in enumerate(collect.answers):
                leave = Scripted(act=lambda at, i=i: at.cue.index == i)
                exited, exit_trace = run(seed=seed, rule=leave)
                start = sum(exit_trace.forced)
                assert exited[start : start + 9] == answer
                tried += 1
    assert tried > 40


def test_a_retracted_cue_is_never_shown():
    for seed in range(60):
        rule = Scripted(act=lambda at: True)
        tokens, trace = run(seed=seed, rule=rule)
        if trace.exit:
            text = TOKENIZER.decode(tokens[: sum(trace.forced)])
            assert not Cues(["wait"]).pattern.search(text)
            assert text.count("</think>") == 1


def test_no_cue_counts_after_thinking():
    for seed in range(30):
        rule = Scripted(act=lambda at: False)
        tokens, _ = run(seed=seed, rule=rule)
        if CLOSE in tokens:
            closed = len(PROMPT) + tokens.index(CLOSE)
            assert all(at.cue.last < closed for at in rule.seen)


def test_ends():
    tokens, trace = run(seed=3, eos=(2,))
    assert tokens[-1] == 2 and trace.finish_reason == "stop" and 2 not in tokens[:-1]
    tokens, trace = run(seed=3, most=7)
    assert len(tokens) == 7 and trace.finish_reason == "length"
    tokens, trace = run(seed=3, stop=lambda so_far, own: len(so_far) == 12)
    assert len(tokens) == 10 and trace.finish_reason == "stop"
    for drafter in DRAFTERS:
        for seed in range(10):
            assert run(seed=seed, drafter=drafter, eos=(2,), most=33)[0] == run(seed=seed, eos=(2,), most=33)[0]


def test_an_exit_that_does_not_fit_is_not_made():
    for most in range(1, 30):
        rule = Scripted(act=lambda at: True)
        tokens, trace = run(seed=4, rule=rule, most=most)
        assert len(tokens) <= most
        if trace.exit is None:
            assert tokens == run(seed=4, most=most)[0]


def test_many_loops_share_a_forward():
    engine = toy()
    traces = [Trace() for _ in range(5)]
    loops = []
    for row, trace in enumerate(traces):
        rule = Scripted(act=lambda at: at.cue.index == 1) if row % 2 else None
        controller = Controller(exit=rule, drafter=PromptLookup() if row > 2 else None)
        call = Call(PROMPT, 40 + row, frozenset(), Keys(seed=9, run=row), Sampling())
        loops.append(controller.loop(engine.session(), TOKENIZER, call, trace))
    got = together(loops)
    assert engine.forwards <= 45 < sum(trace.forwards for trace in traces)
    for row in range(5):
        rule = Scripted(act=lambda at: at.cue.index == 1) if row % 2 else None
        call = Call(PROMPT, 40 + row, frozenset(), Keys(seed=9, run=row), Sampling())
        alone = [e.token for e in Controller(exit=rule).stream(ENGINE.session(), TOKENIZER, call)]
        assert got[row] == alone


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_forward_holds_no_more_than_the_engine_takes(batch):
    engine, sizes = toy(), []
    engine.batch, forward = batch, engine.forward
    engine.forward = lambda requests: sizes.append(len(requests)) or forward(requests)
    calls = [Call(PROMPT, 12 + row, frozenset(), Keys(seed=9, run=row), Sampling()) for row in range(5)]
    loops = [Controller(drafter=RandomTree(len(TEXTS))).loop(engine.session(), TOKENIZER, c, Trace()) for c in calls]
    got = together(loops)
    assert max(sizes) == batch
    for call, tokens in zip(calls, got, strict=True):
        assert tokens == [event.token for event in Controller().stream(ENGINE.session(), TOKENIZER, call)]


def test_a_policy_without_cue_words_and_a_rule_that_waits_for_them_exclude_each_other():
    class Silent(Greedy):
        suppresses_cues = True

    with pytest.raises(ControllerError, match="suppresses cue words and the exit rule waits for them \\(wait\\)"):
        Controller(exit=Scripted(act=lambda at: False), policy=Silent())
    with pytest.raises(ControllerError, match="would never be asked"):
        run(rule=Scripted(act=lambda at: False), policy=Silent())
    Controller(exit=Scripted(act=lambda at: False, cues=Cues(["paragraph", "every(8)"])), policy=Silent())
    assert run(policy=Silent())[0] == run(policy=Greedy())[0]


def test_a_rule_without_a_threshold_says_what_is_missing():
    class Short(Scripted):
        why = "never exit: 40 calibration runs can't promise it: 5 more runs are needed"

        def decide(self, at):
            return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.3, float("inf"))
            yield

    why = next(t.why for seed in range(20) if (t := run(seed=seed, rule=Short(act=bool))[1]).decisions)
    assert "5 more runs are needed" in why and "cues met" in why and "\n" not in why


def test_bad_requests_are_refused_before_work():
    with pytest.raises(ControllerError, match="suffix is empty"):
        Controller(exit=Scripted(act=lambda at: False, suffix=" "))
    with pytest.raises(ControllerError, match="exactly once"):
        Controller(exit=Scripted(act=lambda at: False, suffix="So "))
    with pytest.raises(ControllerError, match="max_new_tokens is 0"):
        run(most=0)
    with pytest.raises(ControllerError, match="no tokens"):
        run(prompt=[])
    with pytest.raises(ValueError, match="siblings"):
        Draft((3, 3), (-1, -1))
    with pytest.raises(ControllerError, match="seed is -1"):
        run(seed=-1)


# The law. N = 6,000 runs of 3 tokens, alpha = 1e-4 per test (false-alarm rate 3e-4 over the three laws);
# the planted errors below are far enough from the law to be caught with power > 0.999 at this N.
N, ALPHA = 6_000, 1e-4
SMALL = ToyEngine(vocabulary=4, order=1, seed=3)
LAW_TEXTS = ToyTokenizer(list("abcd"))
LAW = Sampling(temperature=0.7, top_p=0.9)


class Guess(Stateless):
    """Always drafts the same small tree, right often enough to matter."""

    def propose(self, tokens, room):
        return Draft((1, 2, 0, 3, 1), (-1, -1, 0, 0, 1)) if room >= 2 else Draft()
        yield


def exact_law(policy) -> np.ndarray:
    def row(tokens):
        return policy.probs(np.log(SMALL.probs(tokens)))

    law = np.zeros((4, 4, 4))
    for a, pa in enumerate(row([0])):
        for b, pb in enumerate(row([0, a])):
            law[a, b] = pa * pb * row([0, a, b])
    return law.ravel()


def p_value(sample) -> float:
    law = exact_law(LAW)
    counts = np.bincount(sample, minlength=64).astype(float)
    assert counts.sum() == N
    if counts[law == 0].any():
        return 0.0
    kept = law > 0
    return float(chisquare(counts[kept], law[kept] * N).pvalue)


def outcomes(drafter) -> list[int]:
    out = []
    for i in range(N):
        call = Call([0], 3, frozenset(), Keys(seed=77, run=i), LAW)
        a, b, c = (e.token for e in Controller(drafter=drafter).stream(SMALL.session(), LAW_TEXTS, call))
        out.append(16 * a + 4 * b + c)
    return out


@pytest.mark.parametrize("drafter", [None, Guess()], ids=["plain", "tree"])
def test_the_law_is_the_targets(drafter):
    assert p_value(outcomes(drafter)) > ALPHA


def wrong_outcomes(error: str) -> list[int]:
    """Verification with a planted error: on the draft (1, 2 | 0, 3 below 1; 1 below 2)."""
    rng = np.random.default_rng(5)
    children = {-1: [1, 2], 0: [0, 3], 1: [1]}

    def law(tokens, truncated=True):
        policy = LAW if truncated else Sampling(temperature=0.7)
        return policy.probs(np.log(SMALL.probs(tokens)))

    out = []
    for _ in range(N):
        tokens, node = [0], -1
        while len(tokens) < 4:
            p = law(tokens, truncated=error != "untruncated")
            drafted = children.get(node, [])
            token = int(rng.choice(4, p=p))
            hit = token in drafted
            if not hit and drafted and error == "redraw":
                token = int(rng.choice(4, p=p))  # drawn again from P after a miss
            if hit and error == "wrong child":
                tokens.append(token)
                node = drafted.index(token) + 1 if node == -1 else 5
                # the row of the sibling's child decides the next token
                other = drafted[(drafted.index(token) + 1) % len(drafted)]
                if len(tokens) < 4:
                    tokens.append(int(rng.choice(4, p=law([*tokens[:-1], other]))))
                continue
            tokens.append(token)
            node = drafted.index(token) if hit and node == -1 else 5
        out.append(16 * tokens[1] + 4 * tokens[2] + tokens[3])
    return out


@pytest.mark.parametrize("error", ["redraw", "untruncated", "wrong child"])
def test_planted_errors_are_caught(error):
    assert p_value(wrong_outcomes(error)) < ALPHA


def test_the_planted_verifier_without_an_error_passes():
    assert p_value(wrong_outcomes("none")) > ALPHA
