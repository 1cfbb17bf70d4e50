"""A toy reasoner that closes thinking early, in one token or several, and a slow, separate account of its control."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from reasonctl.backends.toy import ToyEngine, ToySession, ToyTokenizer
from reasonctl.controller import Call, Controller, Keys, Markers, Sampling, Thinking, Trace, draw
from reasonctl.controller.core.randomness import SAMPLE

TEXTS = [
    "<eos>",
    "a ",
    "b ",
    "Wait",
    "ing ",
    ", ",
    "</think>",
    "</th",
    "ink>",
    "x</th",
    "<think>",
    "So ",
    " Wait",
    " ",
    "Enough. ",
    "\n\n",
    "<",
    "x",
]
OPEN, CLOSE, HALF, REST = TEXTS.index("<think>"), TEXTS.index("</think>"), TEXTS.index("</th"), TEXTS.index("ink>")
EOS = TEXTS.index("<eos>")
TOKENIZER = ToyTokenizer(TEXTS)
THINKING = Thinking(Markers("<think>", "</think>"), "</think>So ")
BARE = Thinking(None, "\n\nSo ")
PROMPT = (1, OPEN)


def _engine(opens: bool) -> ToyEngine:
    """The toy reasoner; where it never opens thinking by itself, "So " takes the opening marker's place."""
    engine = ToyEngine(vocabulary=len(TEXTS), order=2, seed=11)
    weights = np.ones(len(TEXTS))
    weights[[EOS, REST, CLOSE, HALF, TEXTS.index("Wait"), TEXTS.index(" Wait")]] = 0.1, 0.1, 0.3, 0.3, 2, 2
    engine.table = engine.table * weights
    for half in (HALF, TEXTS.index("x</th")):
        # Behind half a marker its other half is likely.
        engine.table[half :: len(TEXTS), REST] = 1.5 * engine.table[half :: len(TEXTS)].sum(1)
    engine.table /= engine.table.sum(1, keepdims=True)
    if not opens:
        engine.table[:, OPEN + 1] += engine.table[:, OPEN]
        engine.table[:, OPEN] = 0
    return engine


ENGINE = _engine(opens=False)
"""It never opens thinking by itself."""
OPENING = _engine(opens=True)
"""It opens thinking, in its answer too."""


class Recurrent(ToyEngine):
    """The toy reasoner with a cache that forgets no token, and takes no draft."""

    def __init__(self):
        self.__dict__.update(ENGINE.__dict__)

    def session(self):
        return RecurrentSession(self, [])


class RecurrentSession(ToySession):
    """A sequence of such a cache; so are its forks."""

    def __init__(self, engine, tokens):
        super().__init__(engine, tokens)
        self.can = replace(self.can, rollback=False, branches=0)

    def rollback(self, n):
        assert not n, "rolled back"

    def fork(self):
        return RecurrentSession(self.engine, list(self.tokens))


class Checkpointed(ToyEngine):
    """The toy reasoner with a state that takes no token back: a rollback past the last checkpoint fails the test."""

    def __init__(self, branches=1):
        self.__dict__.update(ENGINE.__dict__)
        self.branches = branches
        self.rollbacks = []
        """Tokens of each rollback that took any back."""

    def session(self):
        return _CheckpointedSession(self, [])


class _CheckpointedSession(ToySession):
    def __init__(self, engine, tokens, least=None):
        super().__init__(engine, tokens)
        self.can = replace(self.can, checkpoints=True, branches=engine.branches)
        self._least = least

    @property
    def least(self):
        return self.length if self._least is None else self._least

    def checkpoint(self):
        self._least = self.length

    def rollback(self, n):
        assert self.length - n >= self.least, f"rolled back to {self.length - n}, before {self.least}"
        self.engine.rollbacks += [n] if n else []
        super().rollback(n)

    def fork(self):
        return _CheckpointedSession(self.engine, list(self.tokens), self._least)


def run(*, seed=0, prompt=PROMPT, most=60, eos=(EOS,), engine=ENGINE, tokenizer=TOKENIZER, trace=None, **settings):
    """(tokens, trace) of one controlled run; what was shown is what stayed, and the cache holds it."""
    trace = Trace() if trace is None else trace
    session = engine.session()
    call = Call(list(prompt), most, frozenset(eos), Keys(seed=seed), Sampling())
    events = list(Controller(**settings).stream(session, tokenizer, call, trace))
    assert [event.token for event in events] == trace.tokens
    assert [event.position for event in events] == list(range(len(prompt), len(prompt) + len(events)))
    assert session.tokens == (list(prompt) + trace.tokens)[: session.length]
    assert session.length >= len(prompt) + len(trace.tokens) - 1
    return trace.tokens, trace


def _next(engine, prompt, tokens, seed):
    before = [*prompt, *tokens]
    with np.errstate(divide="ignore"):
        weights = np.exp(np.log(engine.probs(before)))
    return draw(weights / weights.max(), Keys(seed=seed).uniform(len(before), SAMPLE))


@cache
def account(
    *,
    seed,
    prompt=PROMPT,
    most=60,
    eos=(EOS,),
    thinking=THINKING,
    budget=None,
    wrap_up="",
    min_thinking=0,
    continue_times=0,
    continue_text="Wait",
    budget_per="run",
    warn_before=None,
    warning="",
    engine=ENGINE,
):
    """(tokens, who closed the last span) of a controlled run, read from its text alone.

    Every token is drawn from the whole text.
    """
    markers, text = thinking.markers, TOKENIZER.decode
    out: list[int] = []
    opened = None if markers and text(prompt).rfind(markers.open) < 0 else 0
    closed, answer, continued = None, 0, 0
    warned = False
    earlier = 0  # thinking tokens of the spans before, where one budget is over all

    def found(marker, since):
        """(token that the marker begins in, text before it there)"""
        char = text(out[since:]).find(marker)
        if char < 0:
            return None
        first = max(n for n in range(since, len(out)) if len(text(out[since:n])) <= char)
        return first, text(out[since:])[len(text(out[since:first])) : char]

    def opens_again():
        nonlocal opened, closed, earlier, warned
        own = text(out[:opened]) + text(out[opened:]).split(markers.close)[0]
        since = text(out[:answer]) if closed == "budget" else own
        if markers.open in text(out).removeprefix(since).removeprefix(markers.close):
            earlier += 0 if budget_per == "span" else thought - opened
            opened, closed, warned = len(out), None, warned and budget_per != "span"

    def over_budget():
        nonlocal out, closed, answer, thought
        if closed or opened is None or budget is None or earlier + len(out) - opened < budget:
            return
        halves = [markers.close[:n] for n in range(len(markers.close) - 1, 0, -1)] if markers else []
        half = next((h for h in halves if text(out[opened:]).endswith(h)), "")
        first, before = len(out), ""
        while half and len(text(out[first:])) < len(half):
            first -= 1
        if half:
            before = text(out[first:])[: -len(half)]
        forced = TOKENIZER.encode(before + wrap_up + thinking.suffix)
        if first + len(forced) < most:
            out, closed, thought = out[:first] + forced, "budget", first
            answer = len(out)

    def warn():
        nonlocal warned
        if closed or opened is None or warned or warn_before is None or warn_before >= budget:
            return
        so_far = earlier + len(out) - opened
        half = any(text(out).endswith(markers.close[:n]) for n in range(1, len(markers.close)))
        if budget - warn_before <= so_far < budget and not half:
            warned, forced = True, TOKENIZER.encode(warning)
            if so_far + len(forced) < budget and len(out) + len(forced) < most:
                out.extend(forced)

    thought = 0  # where the last span ended
    over_budget()
    while len(out) < most:
        out.append(_next(engine, prompt, out, seed))
        if closed == "budget" and markers and (again := found(markers.close, answer)):
            out = out[: again[0]] + TOKENIZER.encode(again[1] + thinking.after_close)
        if closed and markers:
            opens_again()
        elif closed is None and opened is not None:
            ends = found(markers.close, opened) if markers else None
            place = ends or ((len(out) - 1, "") if out[-1] in eos else None)
            if place:
                first, before = place
                early, kept = earlier + first - opened < min_thinking, text([*prompt, *out[:first]]) + before
                gap = "" if kept[-1].isspace() or continue_text[0].isspace() else " "
                forced = TOKENIZER.encode(before + gap + continue_text)
                fits = first + len(forced) < most and (
                    budget is None or earlier + first - opened + len(forced) < budget
                )
                if fits and (early or continued < continue_times):
                    out, continued = out[:first] + forced, continued + (not early)
                    continue
                closed, thought = "model" if ends else None, first
        elif markers and opened is None and markers.open in text(out):
            opened = len(out)
        if out[-1] in eos:
            break
        over_budget()
        warn()
    return tuple(out[:most]), closed
