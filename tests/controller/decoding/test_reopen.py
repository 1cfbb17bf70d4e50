"""Thinking that closes too early is re-opened: the close is taken back, the continue text is read in its place."""

from __future__ import annotations

import pytest

from reasonctl.controller import Controller, ControllerError, Cues, PromptLookup
from reasonctl.controller.decoding.close_thinking import ThinkingControl
from reasonctl.controller.decoding.loop import Loop
from support.scripted import RandomTree, Scripted
from support.toy_thinking import BARE, EOS, PROMPT, TEXTS, THINKING, TOKENIZER, account, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
CASES = [
    {"min_thinking": 12},
    {"continue_times": 1},
    {"continue_times": 3, "continue_text": "Wait, a "},
    {"min_thinking": 6, "continue_times": 2, "budget": 20, "wrap_up": "a b "},
]


def check(seeds, drafter=None, prompt=PROMPT, thinking=THINKING, **settings):
    """(runs that were re-opened, runs that ended by the model's own close)."""
    reopened = closed = 0
    for seed in range(seeds):
        tokens, trace = run(seed=seed, drafter=drafter, prompt=prompt, thinking=thinking, **settings)
        expected, closer = account(seed=seed, prompt=tuple(prompt), thinking=thinking, **settings)
        assert (tuple(tokens), trace.closed_by) == (expected, closer)
        if closer == "model":
            assert trace.thinking_tokens >= settings.get("min_thinking", 0)
        if trace.reopened:
            assert f"re-opened {len(trace.reopened)} time" in trace.why
            assert trace.cost > len(tokens)  # the markers that were taken back were generated too
        reopened, closed = reopened + bool(trace.reopened), closed + (closer == "model")
    return reopened, closed


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("settings", CASES, ids=lambda s: "+".join(s))
def test_an_early_close_is_taken_back_as_if_it_had_never_been_written(settings, drafter):
    assert min(check(16, drafter, **settings)) >= 1


def test_an_end_of_sequence_is_an_early_close_too():
    for settings in ({"min_thinking": 25}, {"continue_times": 2}):
        assert check(40, thinking=BARE, **settings)[0] >= 3
        for seed in range(40):
            tokens, trace = run(seed=seed, thinking=BARE, **settings)
            assert EOS not in tokens[:-1] and (not trace.reopened or EOS not in tokens[: trace.reopened[-1] + 1])


def asked_rule(act=lambda at: False, **changes):
    return Scripted(act=act, **{"suffix": "</think>So ", "cues": Cues(["wait"])} | changes)


@pytest.mark.parametrize("text", ["Wait", "Wait, a ", " Wait, Wait"])
def test_a_rule_that_never_exits_leaves_the_fixed_number_of_times(text):
    """The cues of the forced text have rows of their own, and cutting it there changes nothing."""
    forced_cues = 0
    for drafter in DRAFTERS[:2]:
        for seed in range(12):
            settings = {"seed": seed, "continue_times": 2, "continue_text": text, "drafter": drafter}
            rule = asked_rule()
            tokens, trace = run(exit=rule, **settings)
            assert tuple(tokens) == account(seed=seed, continue_times=2, continue_text=text)[0]
            for at in rule.seen:
                assert list(at.hidden[2]) == [at.tokens[at.cue.last], at.cue.last, 2]
            positions = {at.cue.first - at.prompt for at in rule.seen}
            for start in trace.reopened:
                tail = TOKENIZER.decode(tokens[start:])
                whole = not tail.lstrip().startswith("Waiting") and start + 2 < len(tokens)
                if whole and TOKENIZER.decode(tokens[:start])[-1:] != "":
                    forced_cues += bool(positions & {start, start + 1})
    assert forced_cues >= 4


def test_the_probe_says_which_closes_stand():
    """An exit at the forced cue accepts the close: no trace of the cue, the suffix in its place."""
    accepted = refused = 0
    for seed in range(40):
        fixed, fixed_trace = run(seed=seed, thinking=THINKING, continue_times=3)
        if not fixed_trace.reopened:
            continue
        starts = fixed_trace.reopened
        for settled in range(len(starts)):
            rule = asked_rule(lambda at, s=starts[settled]: 0 <= at.cue.first - at.prompt - s <= 1)
            tokens, trace = run(seed=seed, exit=rule, continue_times=3)
            if trace.exit is None:
                refused += 1
                continue
            accepted += 1
            at = trace.exit.position
            assert trace.reopened == starts[: settled + 1] and at - starts[settled] <= 1
            assert tokens[:at] == fixed[:at]
            forced = TOKENIZER.decode(tokens[at : sum(trace.forced)])
            assert forced.strip().startswith("</think>") and "Wait" not in forced
            assert TOKENIZER.decode(tokens).count("</think>") == 1
    assert accepted >= 5


def test_a_rule_on_paragraphs_is_asked_behind_the_break_of_the_continue_text():
    asked = 0
    for seed in range(30):
        rule = asked_rule(cues=Cues(["paragraph"]))
        settings = {"continue_times": 2, "continue_text": "\n\nWait, "}
        tokens, trace = run(seed=seed, exit=rule, **settings)
        assert tuple(tokens) == account(seed=seed, **settings)[0]
        cues = [at.cue.first - at.prompt for at in rule.seen]
        for start in trace.reopened:
            place = start + (tokens[start] == TEXTS.index("x"))  # what stood before the close in its token
            assert tokens[place] == TEXTS.index("\n\n")
            assert place in cues or place + 1 == len(tokens)
            asked += place in cues
    assert asked >= 10


def test_a_rule_that_is_done_reopens_nothing():
    for seed in range(15):
        tokens, trace = run(seed=seed, exit=asked_rule(max_cues=0), continue_times=5)
        if trace.reopened and TOKENIZER.decode(tokens[trace.reopened[0] :]).lstrip("x ").startswith("Waita"):
            continue  # the forced word went on, and is no cue
        assert len(trace.reopened) <= 1  # the first forced cue shows that no more may be asked


def test_before_min_thinking_no_exit_is_made():
    delayed = 0
    for seed in range(25):
        rule = asked_rule(lambda at: True)
        tokens, trace = run(seed=seed, exit=rule, min_thinking=8)
        if trace.closed_by is not None and trace.finish_reason:
            assert trace.thinking_tokens >= 8
        if trace.would_exit:
            delayed += 1
            assert trace.would_exit.position < 8
    assert delayed >= 5


@pytest.mark.parametrize("text", ["Hold on", "Waiting", "so Wait"])
def test_a_probe_can_be_asked_at_a_cue_only(text):
    with pytest.raises(ControllerError, match="begins with none of the exit rule's cues"):
        Controller(exit=asked_rule(), continue_times=1, continue_text=text)
    assert Controller(exit=asked_rule(), min_thinking=3, continue_text=text)
    assert Controller(exit=asked_rule(cues=Cues(["wait", "paragraph"])), continue_times=1, continue_text="\n\nHold on")


def unread(self, edit):
    """Leaves the close in place and only shows the continue text."""
    if edit is None:
        return
    text, span, first, forced = self.text, self.control.span, edit.first, edit.forced
    text.tokens[first:] = forced
    text.states[first - text.start + 1 :] = text.states[-1:] * len(forced)
    text.sources[first - text.start :] = ["forced"] * len(forced)
    span.rewind(text.tokens[:first])
    for token in forced:
        span.push(token)
    text.pending = forced[-1:]
    self.settings.trace.reopened.append(first - text.start)


WRONG = {
    "the close stays": (ThinkingControl, "_early_close", lambda self, token: None),
    "half a marker is shown": (ThinkingControl, "held", lambda *_, **__: 0),
    "the model does not read the text": (Loop, "_apply", unread),
    "the text before the marker is lost": (
        ThinkingControl,
        "_continuation",
        lambda self, mark: TOKENIZER.encode("Wait") if self.thoughts.before(mark.first) < 12 else None,
    ),
}


@pytest.mark.parametrize("error", WRONG)
def test_planted_errors_are_caught(monkeypatch, error):
    monkeypatch.setattr(*WRONG[error])
    with pytest.raises(AssertionError):
        check(30, min_thinking=12)
