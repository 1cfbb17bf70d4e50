"""An exit's answer ends by the rule's own end, in a trial and in use alike, and nothing else ends by it."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Closing, Controller, ControllerError, Cues, Decision, Keys, Sampling, Trace
from reasonctl.controller.decoding.close_thinking import ThinkingControl
from reasonctl.controller.thinking.answer_end import AnswerEnd
from support.scripted import RandomTree, Scripted

TEXTS = ["<eos>", "a ", "5", "Wait", ", ", "{", "}", "\\", "\n", "</think>", "<think>", "}.", "\\boxed{", "Answer:"]
EOS, CLOSE, OPEN = 0, TEXTS.index("</think>"), TEXTS.index("<think>")
TOKENIZER = ToyTokenizer(TEXTS)
SUFFIXES = {"model": "</think>", "line": "</think>Answer:", "box": "</think>\\boxed{"}


def _engine():
    """Cues while thinking, braces and line breaks in the answer, and now and then a second closing marker."""
    engine, weights = ToyEngine(vocabulary=len(TEXTS), order=2, seed=4), np.ones(len(TEXTS))
    weights[[EOS, TEXTS.index("Wait"), CLOSE, OPEN, TEXTS.index("\\boxed{")]] = 0.4, 3, 0.15, 0.01, 0.01
    engine.table = engine.table * weights / (engine.table * weights).sum(1, keepdims=True)
    return engine


ENGINE = _engine()


def run(seed, most=70, drafter=None, engine=ENGINE, **settings):
    call, trace = Call([1, OPEN], most, frozenset({EOS}), Keys(seed=seed), Sampling()), Trace()
    list(Controller(drafter=drafter, **settings).stream(engine.session(), TOKENIZER, call, trace))
    return trace


def rule(ends, act, **more):
    return Scripted(act, SUFFIXES[ends], cues=Cues(["wait"]), answer_ends=ends, **more)


def written(ends, answer):
    """The tokens up to the first that ends an answer, of tokens after a forced text."""
    follows = AnswerEnd(TOKENIZER, ends)
    for i, token in enumerate(answer):
        if follows.push(token) or token == EOS:
            return answer[: i + 1]
    return answer


def check(ends, drafter=None, seeds=16, answer_tokens=64):
    """Trials that were complete, and tokens that the end saved."""
    whole = saved = 0
    for seed in range(seeds):
        tries = rule(ends, lambda at: False, answer_tokens=answer_tokens)
        plain = run(seed, exit=tries, drafter=drafter)
        assert plain.tokens == run(seed).tokens
        for i, trial in enumerate(tries.tried):
            made = run(seed, exit=rule(ends, lambda at, i=i: at.cue.index == i), drafter=drafter)
            answer = made.tokens[sum(made.forced) :]
            if trial.complete:
                assert list(trial.tokens) == answer and made.finish_reason == "stop"
                # The cue and one more token were taken back. A marker that was written again isn't a trial's cost.
                assert made.repeated or made.cost == made.exit.position + 2 + trial.cost
                whole += 1
            else:
                assert made.finish_reason == "length" or len(trial.tokens) == answer_tokens
                assert list(trial.tokens) == answer[: len(trial.tokens)]
            free = run(seed, exit=Scripted(lambda at, i=i: at.cue.index == i, SUFFIXES[ends], cues=Cues(["wait"])))
            unended = free.tokens[sum(free.forced) :]
            if not made.repeated:
                assert answer == written(ends, unended)
            saved += len(unended) - len(answer)
    return whole, saved


@pytest.mark.parametrize("drafter", [None, RandomTree(len(TEXTS))], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("ends", SUFFIXES)
def test_what_was_tried_is_what_the_exit_gives(ends, drafter):
    whole, saved = check(ends, drafter)
    assert whole > 20 and (saved > 50) == (ends != "model") and (saved == 0) == (ends == "model")


@pytest.mark.parametrize("ends", ["line", "box"])
def test_an_exit_that_ignores_the_end_is_caught(monkeypatch, ends):
    def only_in_trials(self):
        return AnswerEnd(TOKENIZER, "model" if self.settings.rule else self.settings.answer_ends)

    monkeypatch.setattr(ThinkingControl, "_new_answer", only_in_trials)
    with pytest.raises(AssertionError):
        check(ends)


@pytest.mark.parametrize("ends", ["line", "box"])
def test_budgets_and_the_models_own_close_know_no_end(ends):
    natural = closed = 0
    for seed in range(20):
        watched = run(seed, exit=rule(ends, lambda at: False))
        assert watched.tokens == run(seed).tokens
        if watched.closed_by == "model":
            answer = watched.tokens[watched.thinking[1] :]
            natural += len(written(ends, answer)) < len(answer)
        budgets = [run(seed, exit=rule(e, lambda at: False), budget=9, most=60) for e in (ends, "model")]
        if budgets[0].closed_by == "budget":
            answer = budgets[0].tokens[sum(budgets[0].forced) :]
            closed += len(written(ends, answer)) < len(answer)
    assert natural > 0 and closed > 5


class TriesAll(Scripted):
    """Tries every cue of a row with every closing, in an order that the test gives."""

    def decide(self, at):
        self.seen.append(at)
        places = [(cue, Closing(SUFFIXES[ends], ends)) for cue in (at.cue, *at.cue.also) for ends in SUFFIXES]
        for cue, closing in places if self.act(at) else reversed(places):
            self.tried.append((cue, closing, (yield from at.answer(self.answer_tokens, cue, closing=closing))))
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, 0.5)


@pytest.mark.parametrize("order", [True, False])
def test_the_trials_of_a_row_share_a_fork_and_are_those_of_forks_of_their_own(order):
    forks = tried = 0
    for seed in range(12):
        engine = _engine()
        session, made = engine.session(), []
        fork = session.fork
        session.fork = lambda fork=fork, made=made: made.append(1) or fork()
        names = Cues(["wait", "every(3)"])
        together = TriesAll(lambda at: order, SUFFIXES["model"], cues=names, answer_tokens=30)
        call, trace = Call([1, OPEN], 60, frozenset({EOS}), Keys(seed=seed), Sampling()), Trace()
        list(Controller(exit=together).stream(session, TOKENIZER, call, trace))
        assert trace.tokens == run(seed, most=60).tokens and len(made) == len(together.seen)
        assert trace.trials == len(together.tried) == 3 * sum(1 + len(at.cue.also) for at in together.seen)
        assert trace.trial_tokens >= sum(trial.cost for *_, trial in together.tried)
        assert (
            trace.trial_forwards
            == sum(trial.forwards for *_, trial in together.tried)
            == trace.forwards - len(trace.tokens)
        )
        assert trace.cost == len(trace.tokens) + trace.trial_tokens
        forks += len(made)
        for cue, closing, trial in together.tried:
            alone = run(seed, most=60, exit=At(closing, cue))
            assert alone.tokens[sum(alone.forced) :][:30] == list(trial.tokens)
            tried += 1
    assert tried > 3 * forks > 90


class At(Scripted):
    """Exits at one cue, found by its place."""

    def __init__(self, closing, cue):
        super().__init__(lambda at: at.cue.first == cue.first, closing.suffix, cues=Cues(cue.names))
        self.answer_ends = closing.answer_ends


def test_a_trial_drafts_from_the_one_before_and_gives_the_same(monkeypatch):
    """Exactness by a second session that takes no drafts; the drafts save forwards, and no token is counted less."""
    forwards = {True: 0, False: 0}
    for seed in range(20):
        rules = {}
        for drafts in (True, False):
            engine = _engine()
            session = engine.session()
            if not drafts:
                session.can = type(session.can)(**{**vars(session.can), "branches": 0})
            rules[drafts] = rule("box", lambda at: False, answer_tokens=30)
            call, trace = Call([1, OPEN], 60, frozenset({EOS}), Keys(seed=seed), Sampling()), Trace()
            list(Controller(exit=rules[drafts]).stream(session, TOKENIZER, call, trace))
            forwards[drafts] += trace.trial_forwards
        for drafted, plain in zip(rules[True].tried, rules[False].tried, strict=True):
            assert (drafted.tokens, drafted.logprobs, drafted.text) == (plain.tokens, plain.logprobs, plain.text)
            assert (drafted.cost, drafted.complete) == (plain.cost, plain.complete)
            assert plain.rows == plain.cost - 1 and drafted.rows >= drafted.cost - len(drafted.tokens)
    assert forwards[True] < forwards[False]


class TriesLong(Scripted):
    """Tries a closing that no run has room for."""

    def decide(self, at):
        self.tried.append((yield from at.answer(5, closing=Closing("</think>" + 80 * "a "))))
        return Decision(False, at.cue.name, at.cue.index, 0, 0.0, 0.5)


def test_a_closing_without_room_feeds_nothing():
    tried = []
    for seed in range(6):
        rule = TriesLong(bool, SUFFIXES["model"], answer_tokens=1)
        trace = run(seed, exit=rule)
        assert trace.tokens == run(seed).tokens and trace.trial_tokens == trace.trials == 0
        tried += rule.tried
    assert tried and all(trial.cost == 0 and not trial.complete for trial in tried)


def test_an_end_that_the_suffix_cannot_have_is_refused_before_work():
    with pytest.raises(ControllerError, match="opens none"):
        Controller(exit=Scripted(bool, "</think>So ", answer_ends="box"))
