"""An exit in each of its forms: what stays, what is dropped, what a trial of it gives, and which caches allow it."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Cues,
    Keys,
    Markers,
    Policy,
    PromptLookup,
    Span,
    Thinking,
    Trace,
)
from reasonctl.controller.decoding import close_thinking
from reasonctl.controller.thinking.exit_form import EXIT_FORMS, exit_place, parse_form
from support.scripted import RandomTree, Scripted
from support.toy_thinking import ENGINE, EOS, PROMPT, TEXTS, TOKENIZER, Recurrent, run

APPEND = EXIT_FORMS[1:]
DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
SUFFIX = "</think>So "


def rule_of(form, act=lambda at: at.cue.index == 1, **more):
    return Scripted(act=act, form=form, **more)


def texts_of(tokens):
    return [TEXTS[token] for token in tokens]


def check_place(rule, trace):
    """An exit in append form: the text ends in the cue's last token, and the suffix follows it directly."""
    at = rule.seen[-1]
    start, length = trace.forced
    kept = trace.tokens[:start]
    assert start == at.cue.last + 1 - len(PROMPT)
    assert trace.tokens[start : start + length] == TOKENIZER.encode(SUFFIX)
    assert trace.thinking[1] == start and trace.exit.position == at.cue.first - len(PROMPT)
    return TOKENIZER.decode(kept)


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("form", APPEND)
def test_the_cue_stays_and_the_suffix_follows_its_last_token(form, drafter):
    exits = 0
    for seed in range(40):
        rule = rule_of(form)
        tokens, trace = run(seed=seed, exit=rule, drafter=drafter)
        plain, _ = run(seed=seed, exit=rule_of(form))
        assert tokens == plain
        if trace.closed_by == "exit":
            exits += 1
            assert check_place(rule, trace).lower().endswith("wait")
            full, _ = run(seed=seed, exit=rule_of(form, act=lambda at: False))
            assert full[: trace.forced[0]] == tokens[: trace.forced[0]]
    assert exits > 10


@pytest.mark.parametrize("engine", [ENGINE, Recurrent()], ids=["rolls back", "recurrent"])
@pytest.mark.parametrize("drafter", DRAFTERS[:2], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize(
    "cues",
    [pytest.param(("wait",), marks=pytest.mark.slow), ("wait", "paragraph", "sentence", "every(3)")],
    ids=["wait", "all"],
)
@pytest.mark.parametrize("form", APPEND)
def test_what_was_tried_is_what_the_exit_gives_and_a_fresh_run_too(form, cues, drafter, engine):
    if engine is not ENGINE and drafter is not None:
        return  # it takes no drafts
    exits = 0
    for seed in range(30):
        for k in range(3):
            rule = rule_of(form, lambda at, k=k: at.cue.index == k, answer_tokens=60, cues=Cues(cues))
            tokens, trace = run(seed=seed, exit=rule, drafter=drafter, engine=engine)
            if trace.closed_by != "exit":
                break
            exits += 1
            start, length = trace.forced
            assert rule.answers[-1] == tokens[start + length :]
            # The same text as a prompt: the run goes on as if it had always stood there.
            fresh, _ = run(seed=seed, prompt=(*PROMPT, *tokens[: start + length]), most=60 - start - length)
            repeated = trace.repeated or TOKENIZER.decode(fresh).count("</think>")
            assert repeated or fresh == tokens[start + length :]
    assert exits > 20


class Spoken(Policy):
    """Writes a text, token by token, and then another one as the answer."""

    def __init__(self, *think, answer=("a ", "<eos>"), texts=TEXTS):
        self.think, self.answer, self.texts = think, answer, texts

    def start(self):
        return ("think", 0)

    def step(self, state, row):
        phase, i = state if state[0] == row.phase else (row.phase, 0)
        words = self.think if phase == "think" else self.answer
        return (phase, i + 1), self.texts.index(words[min(i, len(words) - 1)])


def spoken(form, *words, cues=("wait",), act=lambda at: True, engine=ENGINE, **settings):
    """(texts of the tokens, trace, rule) of a run that writes these tokens."""
    rule = rule_of(form, act, cues=Cues(cues))
    tokens, trace = run(exit=rule, policy=Spoken(*words), engine=engine, **settings)
    return texts_of(tokens), trace, rule


ENDED = ["</think>", "So ", "a ", "<eos>"]


def test_the_forms_of_one_exit():
    words = ("b ", "Wait", ", ", "a ", "</think>")
    assert spoken("replace", *words)[0] == ["b ", *ENDED]
    assert spoken("append", *words)[0] == ["b ", "Wait", *ENDED]
    assert spoken("append-open", *words)[0] == ["b ", "Wait", *ENDED]


def test_a_word_that_goes_on_is_a_cue_only_where_nobody_waits_for_its_end():
    words = ("b ", "Wait", "ing ", "a ", " Wait", ", ", "</think>")
    assert spoken("append", *words)[0] == ["b ", "Wait", "ing ", "a ", " Wait", *ENDED]
    assert spoken("append-open", *words)[0] == ["b ", "Wait", *ENDED]
    _, _, rule = spoken("append-open", *words, act=lambda at: False)
    assert [(at.cue.first, at.cue.last) for at in rule.seen] == [(3, 3), (6, 6)]


@pytest.mark.parametrize("next_token", ["</think>", "</th", "<eos>"])
def test_what_the_model_writes_after_the_cue_is_dropped(next_token):
    words = ("b ", "Wait", next_token, "ink>", "<eos>")
    for form in APPEND:
        texts, trace, _ = spoken(form, *words)
        if next_token == "<eos>" and form == "append":
            # The run has ended, as far as a rule knows that waits for this token.
            assert texts == ["b ", "Wait", "<eos>"] and trace.closed_by is None
        else:
            assert texts == ["b ", "Wait", *ENDED]
            assert trace.finish_reason == "stop" and trace.closed_by == "exit"


def test_a_run_that_ends_at_its_limit_is_no_exit():
    for form in APPEND:
        for most in range(1, 6):
            texts, trace, rule = spoken(form, "b ", "Wait", ", ", "b ", "b ", "b ", most=most)
            exited = most > 2 + 2  # two tokens of thinking and two of the suffix leave room for an answer
            assert (trace.closed_by == "exit") == bool(rule.seen) == exited, (form, most)
            assert exited or texts == ["b ", "Wait", ", ", "b ", "b "][:most]


SPLIT = [
    "<eos>",
    "b ",
    "Wait",
    "Wait\u2014".encode()[:6],
    "\u2014".encode()[2:],
    "</think>",
    "So ",
    "Wait</th",
    "ink>",
    ", ",
    "<think>",
    "a ",
    "Wait</think>",
]


@pytest.mark.parametrize(
    ("words", "passed"), [((3, 4, 1), True), ((7, 9, 1), True), ((12, 1, 1), True), ((2, 9, 1), False)]
)
def test_no_suffix_splits_a_character_or_a_marker_or_closes_twice(words, passed):
    """The dash's last byte, or the marker's other half, would be missing: such a cue is passed over."""
    engine = ToyEngine(vocabulary=len(SPLIT), seed=1)

    class Writes(Policy):
        def start(self):
            return None

        def step(self, state, row):
            i = len(row.tokens) - 2
            return None, words[i] if i < len(words) else 0

    met = {}
    for form in EXIT_FORMS:
        rule = rule_of(form, lambda at: False)
        call = Call([1, 10], 8, frozenset({0}), Keys(seed=0), Writes())
        list(Controller(exit=rule).stream(engine.session(), ToyTokenizer(SPLIT), call, Trace()))
        met[form] = [at.cue.last for at in rule.seen]
    assert met["replace"] == [2] and met["append"] == met["append-open"] == ([] if passed else [2])


def test_a_cue_that_ends_inside_its_token_keeps_the_token():
    texts, trace, rule = spoken("append", "b ", "\n\n", "a ", cues=("paragraph",))
    assert texts == ["b ", "\n\n", *ENDED]
    # The sentence ends in the last character of one token, whose other characters stay too.
    texts, *_ = spoken("append", "b ", "Enough. ", "a ", cues=("sentence",))
    assert texts == ["b ", "Enough. ", *ENDED]


def test_cues_of_one_row_are_one_exit():
    """A larger set of cues sees the same places; where several end in a row the exit is the same."""
    for form in APPEND:
        everything = ("wait", "paragraph", "sentence", "every(2)")
        _, _, rule = spoken(
            form, "b ", "Enough. ", "\n\n", " Wait", ", ", "</think>", cues=everything, act=lambda at: False
        )
        rows = [(at.cue.last, [at.cue.name, *(one.name for one in at.cue.also)]) for at in rule.seen]
        assert rows == [(3, ["sentence", "every(2)"]), (4, ["paragraph"]), (5, ["wait", "every(2)"])]


OPEN_WORDS = ["<eos>", "a ", "Hm", "m", "mm", "Hmm", "<think>", "</think>So "]


def open_rows(cues, tokens):
    """(last token, names) of each cue that an open form finds."""
    span = Span(ToyTokenizer(OPEN_WORDS), Markers("<think>", "</think>"), Cues(cues), form="append-open")
    span.begin([6])
    found = [span.push(token) for token in tokens]
    return [(one.last, name) for cue in found if cue for one in (cue, *cue.also) for name in one.names]


@pytest.mark.parametrize("tokens", [(2, 3, 1, 1), (2, 3, 3, 1, 1), (5, 3, 1, 1), (2, 4, 1, 1), (5, 1, 2, 1, 1)])
def test_a_larger_set_of_open_words_finds_the_same_places(tokens):
    words = ("hm", "hmm", "hmmm")
    everything = open_rows(words, tokens)
    assert everything and len(set(everything)) == len(everything)
    for word in words:
        assert open_rows((word,), tokens) == [(last, name) for last, name in everything if name == word]
    assert len({last for last, name in everything if name == "hm"}) <= 1 + tokens.count(5)


@pytest.mark.parametrize("form", EXIT_FORMS)
def test_a_stream_never_shows_what_is_taken_back(form):
    """The session's own record of what was shown is compared in `run`; here with what may still go."""
    shown_cues = 0
    for seed in range(40):
        for drafter in DRAFTERS:
            tokens, trace = run(seed=seed, exit=rule_of(form, answer_tokens=4), drafter=drafter)
            shown_cues += trace.closed_by == "exit"
    assert shown_cues > 30


@pytest.mark.parametrize(("form", "late"), [("replace", 1), ("append", 0), ("append-open", 0)])
def test_only_a_cue_that_may_be_taken_back_is_held(form, late):
    session = ENGINE.session()
    call = Call(list(PROMPT), 20, frozenset({EOS}), Keys(seed=0), Spoken("b ", "Wait", ", ", "a ", "</think>", "<eos>"))
    rule, lengths = rule_of(form, lambda at: False), {}
    for event in Controller(exit=rule).stream(session, TOKENIZER, call, Trace()):
        lengths.setdefault(event.position - len(PROMPT), session.length - len(PROMPT))
    # The word is shown at the forward that gave it, or once the next token says that it stays.
    assert lengths[1] == 1 + late and lengths[3] == 3


def test_a_cache_that_forgets_nothing_takes_exits_that_take_nothing_back():
    words = ("b ", "Wait", ", ", "a ", "a ", "</think>", "<eos>")
    for form in APPEND:
        assert spoken(form, *words, engine=Recurrent())[0] == ["b ", "Wait", *ENDED]
    for form in EXIT_FORMS:
        assert spoken(form, *words, cues=("every(3)",), engine=Recurrent())[0] == ["b ", "Wait", ", ", *ENDED]
    for cues in (("wait",), ("wait", "every(3)"), ("sentence",)):
        with pytest.raises(ControllerError, match="can't forget tokens.*--form append"):
            spoken("replace", *words, cues=cues, engine=Recurrent())


def test_several_trials_at_one_cue_of_a_cache_that_forgets_nothing():
    class Twice(Scripted):
        def decide(self, at):
            first = yield from at.answer(30)
            second = yield from at.answer(30)
            assert (first.tokens, first.logprobs, first.text) == (second.tokens, second.logprobs, second.text)
            return (yield from super().decide(at))

    for seed in range(10):
        rule = Twice(act=lambda at: at.cue.index == 1, form="append", answer_tokens=60)
        tokens, trace = run(seed=seed, exit=rule, engine=Recurrent())
        if trace.closed_by == "exit":
            assert rule.answers[-1] == tokens[sum(trace.forced) :]


@pytest.mark.parametrize("form", APPEND)
def test_re_opened_thinking_may_exit_at_its_cue_which_stays(form):
    rule = rule_of(form, lambda at: True)
    tokens, trace = run(
        exit=rule,
        policy=Spoken("b ", "</think>"),
        continue_times=1,
        continue_text="Wait",
        thinking=Thinking(rule.markers, SUFFIX),
    )
    assert texts_of(tokens) == ["b ", "Wait", *ENDED] and trace.reopened and trace.closed_by == "exit"


@pytest.mark.parametrize("form", APPEND)
def test_min_thinking_counts_the_cue_that_stays(form):
    words = ("b ", "Wait", ", ", "a ", "</think>", "<eos>")
    assert spoken(form, *words, min_thinking=2)[1].closed_by == "exit"
    assert spoken(form, *words, min_thinking=3)[1].would_exit


def test_an_exit_one_token_later_is_impossible(monkeypatch):
    """Planted: the token after the cue stays, "Wait ok</think>". It harmed 28 of 200 runs under a promise of 5 %."""
    monkeypatch.setattr(close_thinking, "exit_place", lambda form, cue: exit_place(form, cue) + 1)
    with pytest.raises(AssertionError, match="drops the token after its cue"):
        spoken("append", "b ", "Wait", ", ", "a ")


def test_the_names_of_forms_are_checked():
    with pytest.raises(ControllerError, match="'append-late'.*one of 'replace', 'append', 'append-open'"):
        parse_form("append-late")
    with pytest.raises(ControllerError, match="form is 'late'"):
        Controller(exit=rule_of("late"))
