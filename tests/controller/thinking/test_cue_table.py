"""Runs followed as numbers of a table, one at a time and many at once, against a Span for each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import Cues, Markers, Span
from reasonctl.controller.thinking import CueTable, Passed

PIECES = [
    *("Wait", "wait", " Wait", "Wa", "it", "ing", "H", "m", "mm", "Hmm", "hm", "\n", "\n\n", " ", ". ", ".", "!", "so"),
    *("some", " so", "me", "x", "1", ",", "</think>", "</", "think", ">", "<think>", "<th", "ink>", b"\xc3", b"\xa9"),
    *("é", "\n\nWait", "Wait</think>", " \n\n Wa", "no", "now", "K", "a<", "", "Wait\n", "i", "\t", "..\n"),
    *(b"\xe2\x97", b"\x81/think>", "◁"),
]
TOKENIZER = ToyTokenizer(PIECES)
MARKERS = (None, Markers("<think>", "</think>"), Markers("◁think▷", "◁/think▷"), Markers("x", "no"))
CUES = (
    ["wait", "hmm"],
    ["wait", "hmm", "so", "no", "paragraph"],
    ["sentence", "paragraph", "wait", "waiting"],
    ["every(3)"],
    ["every(5)", "wait", "paragraph"],
    ["hm", "hmm", "now", "no", "every(1)"],
)
RUNS, TOKENS = 6, 50


def parts(rng):
    markers = rng.choice(MARKERS)
    form = rng.choice(["replace", "append", "append-open"])
    return TOKENIZER, markers, Cues(rng.choice(CUES)), rng.choice(["model", "start", "prompt"]), form


def prompt_of(rng, markers):
    """Some tokens, and often the opening marker, where a token has it."""
    prompt = [rng.randrange(len(PIECES)) for _ in range(rng.randrange(1, 12))]
    if markers is not None and markers.open in PIECES and rng.random() < 0.7:
        prompt += [PIECES.index(markers.open)] + [PIECES.index("\n")] * rng.randrange(2)
    return prompt


def follow(seed, most_cells=1 << 24):
    """Random texts through a table and through Spans; the table, and what both said at least once."""
    rng = random.Random(seed)
    given = parts(rng)
    table = CueTable(*given, vocabulary=len(PIECES), most_cells=most_cells)
    prompts = [prompt_of(rng, given[1]) for _ in range(RUNS)]
    spans, places = [Span(*given) for _ in range(RUNS)], [table.begin(prompt) for prompt in prompts]
    for span, prompt in zip(spans, prompts, strict=True):
        span.begin(prompt)
    met = set()
    for _ in range(TOKENS):
        tokens = np.array([rng.randrange(len(PIECES)) for _ in range(RUNS)])
        if rng.random() < 0.5:
            found = dict(table.push_all(places, tokens))
        else:
            found = {i: table.push(places[i], int(tokens[i])) for i in range(RUNS)}
        for i, span in enumerate(spans):
            cue = answer_of(span, int(tokens[i]), given[-1])
            passed = found.get(i, Passed())
            said = (passed.wants_row, passed.cue_at(span.next), passed.phase)
            assert said == (span.at_cue, cue, span.phase), seed
            met |= {cue is not None, span.at_cue, span.phase}
    return table, met


def answer_of(span, token, form):
    """The cue that is due after a token; where it is decided at once, the next token gives the same."""
    now = span.cue_now() if form == "append-open" else None
    cue = span.push(token)
    assert form != "append-open" or now == cue
    return span.cue_now() if form == "append-open" else cue


def test_a_table_answers_as_spans_do():
    met = set()
    for seed in range(60):
        met |= follow(seed)[1]
    assert met == {True, False, "before", "think", "answer"}


@pytest.mark.slow
def test_a_table_answers_as_spans_do_on_many_texts():
    for seed in range(100, 2100):
        follow(seed)


def test_a_full_table_answers_alike():
    """Where the states are too many, runs have Spans of their own; nothing but time changes."""
    for seed in range(20):
        table, _ = follow(seed, most_cells=5 * len(PIECES))
        assert table.states <= 5


def test_alike_positions_are_one_state():
    """A long text of no cue takes few states: the table stays small whatever is written."""
    table = CueTable(TOKENIZER, MARKERS[1], Cues(["wait", "paragraph"]), vocabulary=len(PIECES))
    place, rng = table.begin([PIECES.index("<think>")]), random.Random(0)
    plain = [PIECES.index(text) for text in ("1", ",", " ", "x", "K", "so", "some")]
    for _ in range(500):
        table.push(place, rng.choice(plain))
    assert table.states < 8
