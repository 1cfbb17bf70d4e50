"""A table of runs: budgets x spans x markers over one and several tokens x a half-written marker.

In every run thinking is opened and closed equally often, and what is shown is what stays.
"""

from __future__ import annotations

from itertools import product

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, Greedy, Keys, Markers, PromptLookup, Scheduler, Thinking, Trace
from support.scripted import RandomTree

FORMS = {
    "one token": (("<think>",), ("</think>",)),
    "two": (("<th", "ink>"), ("</th", "ink>")),
    "many": (("<", "th", "ink", ">"), ("<", "/", "th", "ink", ">")),
    "channels": (("<|channel|>", "analysis", "<|message|>"), ("<|end|>",)),
}
"""The tokens of the opening and of the closing marker."""
WORDS = ["<eos>", "a ", "b ", "So ", "x", "y "]
BUDGETS = range(41)
SPANS = (1, 2, 3)
HALVES = (False, True)
DRAFTERS = {"plain": None, "copied": PromptLookup(size=4), "tree": RandomTree(12)}


class Script(Greedy):
    """Writes spans and answers by turns, whatever becomes of them: in a span 12 tokens, in an answer 3.

    `half`: the first thoughts hold half a closing marker at every fourth place, and so do answers at their end.
    """

    def __init__(self, tokenizer, form, spans, half, opened):
        super().__init__()
        opening, closing = ([tokenizer.texts.index(piece) for piece in marker] for marker in FORMS[form])
        begun = closing[:-1] or [tokenizer.texts.index("x")]
        thought = [4, 5, 1, *begun, 2, 1, 5, *begun, 2] if half else [1, 2, 5, 1, 2, 5, 1, 2, 5, 1, 2, 5]
        answer = [3, 1, *begun, 2] if half else [3, 1, 2]
        self.think = [*thought, *closing]
        self.opening, self.answer = opening, answer
        self.spans, self.opened = spans, opened

    def start(self):
        """(phase, token of it, spans so far, length of the text)."""
        return "before", 0, self.opened, 0

    def step(self, state, row):
        phase, place, spans, length = state
        if row.phase != phase or len(row.tokens) != length + 1:  # a close was fed
            place = 0
        if row.phase == "think":
            token = self.think[place % len(self.think)]
        else:
            more = spans < self.spans
            text = [*(self.answer if row.phase == "answer" else []), *(self.opening if more else [0])]
            token = text[min(place, len(text) - 1)]
            spans += more and place == len(text) - 1
        return (row.phase, place + 1, spans, len(row.tokens)), token


def case(form, spans, half, opened):
    opening, closing = FORMS[form]
    tokenizer = ToyTokenizer([*WORDS, *dict.fromkeys([*opening, *closing])])
    markers = Markers("".join(opening), "".join(closing))
    thinking = Thinking(markers, f"{markers.close}So ")
    prompt = [1, *(tokenizer.texts.index(piece) for piece in opening)] if opened else [1, 2]
    return tokenizer, thinking, prompt, Script(tokenizer, form, spans, half, opened)


def check(tokenizer, thinking, prompt, spans, trace, shown):
    """Opened and closed equally often, and the budget was kept. Returns whether a span was closed by the budget."""
    assert shown == trace.tokens and trace.finish_reason == "stop"
    text = tokenizer.decode([*prompt, *shown])
    opened, closed = (text.count(marker) for marker in (thinking.markers.open, thinking.markers.close))
    assert opened == closed == spans == len(trace.spans), text
    depth = 0
    for piece in text.split(thinking.markers.open)[1:]:
        depth += 1 - piece.count(thinking.markers.close)
        assert depth == 0  # each is closed before the next one opens
    by_budget = [span for span in trace.spans if span.closed_by == "budget"]
    halves = [thinking.markers.close[:n] for n in range(1, len(thinking.markers.close))]
    for span in by_budget:  # half a marker is taken back before the whole one is fed
        before = tokenizer.decode([*prompt, *shown[: span.end]])
        assert not before.endswith(tuple(halves)), text
    return bool(by_budget)


def run(tokenizer, thinking, prompt, policy, **settings):
    trace = Trace()
    call = Call(prompt, 200, frozenset([0]), Keys(seed=0), policy)
    session = ToyEngine(vocabulary=len(tokenizer.texts)).session()
    events = Controller(thinking=thinking, **settings).stream(session, tokenizer, call, trace)
    shown = [event.token for event in events]
    assert session.tokens == [*prompt, *shown][: session.length]  # what was shown is what stayed
    return trace, shown


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("per", ["run", "span"])
def test_thinking_is_opened_and_closed_equally_often(per, drafter):
    runs = closed = 0
    budgets = BUDGETS if drafter == "plain" else BUDGETS[::4]
    for form, spans, half, budget in product(FORMS, SPANS, HALVES, budgets):
        tokenizer, thinking, prompt, script = case(form, spans, half, opened=budget % 3 != 0)
        settings = {"budget": budget, "budget_per": per, "drafter": DRAFTERS[drafter], "wrap_up": "y " * half}
        trace, shown = run(tokenizer, thinking, prompt, script, **settings)
        ended = check(tokenizer, thinking, prompt, spans, trace, shown)
        most = sum(span.tokens for span in trace.spans) if per == "run" else max(span.tokens for span in trace.spans)
        assert most <= budget
        runs, closed = runs + 1, closed + ended
    assert runs == 24 * len(budgets) and closed > runs / 5
    assert drafter != "plain" or runs >= 700


def test_runs_that_share_forwards_are_the_runs_alone():
    for form, half in product(FORMS, HALVES):
        tokenizer, thinking, prompt, script = case(form, 3, half, opened=True)
        engine = ToyEngine(vocabulary=len(tokenizer.texts))
        scheduler, traces = Scheduler(), {budget: Trace() for budget in (0, 1, 5, 13, 29)}
        for budget, trace in traces.items():
            call = Call(prompt, 200, frozenset([0]), Keys(seed=0), script)
            controller = Controller(thinking=thinking, budget=budget)
            scheduler.add(budget, controller.run(engine, tokenizer, call, trace))
        list(scheduler)
        for budget, trace in traces.items():
            check(tokenizer, thinking, prompt, 3, trace, trace.tokens)
            assert trace.tokens == run(tokenizer, thinking, prompt, script, budget=budget)[1]
