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

    def _may_be_closing(self, close: str) -> bool:
        return True


@pytest.mark.parametrize("markers", [None, Markers("<think>", "</think>"), Markers("<think>", "éa")])
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
            assert len({(span.at_cue, span.held(), span.half_closed(), span.phase) for span in spans}) == 1
            found += cue is not None
    assert found > 500


def test_a_span_after_the_controllers_close_is_searched_from_its_beginning():
    """The text restarts there, so nothing of it was searched, however long the span before was."""
    tokenizer = ToyTokenizer(["<think>", "</think>", " Wait", " so", "."])
    span = Span(tokenizer, Markers("<think>", "</think>"), Cues(["wait"]))
    found = []
    for token in [0, *[3, 4] * 40, 2, 3]:
        found.append(span.push(token))
    span.close(84)
    rows = []
    for token in [4, 0, 2, 3]:
        found.append(span.push(token))
        rows.append(span.at_cue)
    assert [cue.first for cue in found if cue is not None] == [81, 86]
    assert rows == [False, False, True, False], "the row of the cue's last token is wanted"
