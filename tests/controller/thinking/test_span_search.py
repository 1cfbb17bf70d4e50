"""A run's text is searched for cues once: what was searched is not searched again, and rewinding forgets that."""

from __future__ import annotations

import random

import pytest

from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import Cues, Markers
from reasonctl.controller.thinking.span import Span

LETTER = "é".encode()
PIECES = ["wait", "Wait", "hm", "m", "mmm", " ", "\n", "\n\n", ". ", ".", "ing", "alter", "natively", "</", "think>"]
PIECES += ["<think>", "a", "x" * 30, LETTER[:1], LETTER[1:], "\u212a", "no Wait\n"]


class SearchesAll(Span):
    """A span that searches all of the text that it holds after every token."""

    _searched = property(lambda self: 0, lambda self, value: None)


@pytest.mark.parametrize("markers", [None, Markers("<think>", "</think>")])
def test_cues_are_those_of_a_search_of_the_whole_text(markers):
    tokenizer, cues = ToyTokenizer(PIECES), Cues(["wait", "hmm", "alternatively", "paragraph", "sentence", "every(7)"])
    found = 0
    for seed in range(150):
        rng = random.Random(seed)
        spans = [kind(tokenizer, markers, cues, "start") for kind in (Span, SearchesAll)]
        tokens = [5]
        for span in spans:
            span.begin(tokens)
        for _ in range(60):
            if rng.random() < 0.1 and len(tokens) > 2:
                tokens = tokens[: rng.randrange(1, len(tokens))]
                for span in spans:
                    span.rewind(tokens)
            tokens.append(rng.randrange(len(PIECES)))
            cue, expected = (span.push(tokens[-1]) for span in spans)
            assert cue == expected
            assert len({(span.at_cue, span.held(), span.phase) for span in spans}) == 1
            found += cue is not None
    assert found > 500
