"""Markers and cues whose characters are split over tokens; markers that somebody only wrote about."""

from __future__ import annotations

import itertools

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    Cues,
    Greedy,
    Keys,
    Markers,
    Span,
    Thinking,
    Trace,
)
from reasonctl.controller.core.token_text import TextDecoder, TokenText
from support.scripted import Scripted

BYTES = ToyTokenizer([bytes([i]) for i in range(256)])
KIMI = Markers("◁think▷", "◁/think▷")


def tokens(text: str) -> list[int]:
    return list(text.encode())


class Writes(Greedy):
    """Writes a text, byte by byte, wherever it is after the prompt."""

    def __init__(self, prompt: int, text: str) -> None:
        super().__init__()
        self.prompt, self.written = prompt, tokens(text)

    def step(self, state, row):
        return None, self.written[len(row.tokens) - self.prompt]


def cuts(text: str):
    """Ways to cut a text's bytes into pieces of one to three bytes."""
    data = text.encode()
    for widths in itertools.product((1, 2, 3), repeat=5):
        at, pieces = 0, []
        for width in itertools.cycle(widths):
            if at >= len(data):
                break
            pieces.append(data[at : at + width])
            at += width
        yield pieces


@pytest.mark.parametrize("text", ["aé語😀z", "◁/think▷", "várj, só", "\ufffd", "e\u0301x"])
def test_a_decoder_gives_the_whole_text_however_it_is_cut(text):
    for pieces in cuts(text):
        unique = list(dict.fromkeys(pieces))
        decoder = TextDecoder(ToyTokenizer(unique))
        out = [decoder.push(unique.index(piece)) for piece in pieces]
        assert "".join(out) == text and not decoder.inside
        done = b""
        for piece, found in zip(pieces, itertools.accumulate(out), strict=True):
            done += piece
            assert found == done.decode(errors="ignore")  # no character before it is whole


def test_broken_bytes_are_replaced_and_end_nothing():
    decoder = TextDecoder(BYTES)
    assert [decoder.push(byte) for byte in b"a\xe8\xaaz\xff"] == ["a", "", "", "\ufffdz", "\ufffd"]
    decoder.push(0xE8)
    assert decoder.inside and decoder.finish() == "\ufffd"


@pytest.mark.parametrize("text", ["aé語😀z", "xx◁/think▷yy"])
def test_every_character_has_its_tokens(text):
    """Against a slow account: the tokens of a character are those that hold one of its bytes."""
    for pieces in itertools.islice(cuts(text), 80):
        unique = list(dict.fromkeys(pieces))
        placed = TokenText(ToyTokenizer(unique), 96)
        for piece in pieces:
            placed.push(unique.index(piece))
        ends = list(itertools.accumulate(map(len, pieces)))
        starts = [0, *ends[:-1]]
        clean = [len(text.encode()[:at].decode(errors="ignore").encode()) == at for at in starts]
        for char in range(len(text)):
            first, last = len(text[:char].encode()), len(text[: char + 1].encode()) - 1
            assert placed.last_of(char) == next(i for i, end in enumerate(ends) if end > last)
            assert placed.first_of(char) == max(i for i, at in enumerate(starts) if at <= first and clean[i])
            token = placed.first_of(char)
            assert placed.between(token, char) == text.encode()[starts[token] : first].decode()


def test_a_rewound_text_is_the_text_of_fewer_tokens():
    written = tokens("語" * 60 + "ab")
    for length in (0, 1, 2, 3, 50, 181, 182):
        placed, fresh = TokenText(BYTES, 96), TokenText(BYTES, 96)
        for token in written:
            placed.push(token)
        placed.rewind(written[:length])
        for token in written[:length]:
            fresh.push(token)
        assert (placed.tail[-90:], placed.total, placed.begun) == (fresh.tail[-90:], fresh.total, fresh.begun)
        placed.push(ord("x"))
        fresh.push(ord("x"))
        assert placed.tail[-90:] == fresh.tail[-90:] and placed.next == fresh.next


def test_a_marker_over_many_tokens_opens_and_closes_the_span():
    span = Span(BYTES, KIMI, None)
    span.begin(tokens("Q"))
    phases = []
    for token in tokens("◁think▷ab◁/think▷c"):
        span.push(token)
        phases.append(span.phase)
    opener, inner, closer = len("◁think▷".encode()), 2, len("◁/think▷".encode())
    assert phases == ["before"] * (opener - 1) + ["think"] * (inner + closer) + ["answer"] * 2


def test_a_cue_with_a_split_character_is_found():
    span = Span(BYTES, None, Cues(["várj"]))
    span.begin(tokens("Q"))
    found = [span.push(token) for token in tokens("no várj, so")]
    (cue,) = [cue for cue in found if cue is not None]
    assert (cue.name, cue.first, cue.last, cue.before) == ("várj", 1 + 3, 1 + 7, "")


def run(text: str, controller: Controller, prompt: str = "◁think▷", most: int = 80):
    written = tokens(prompt)
    session = ToyEngine(vocabulary=256, order=1).session()
    trace, shown = Trace(), []
    call = Call(written, most, frozenset(), Keys(seed=0), Writes(len(written), text + "." * 200))
    for event in controller.stream(session, BYTES, call, trace):
        shown.append(event.token)
    assert shown == trace.tokens and session.tokens == (written + shown)[: session.length]
    return bytes(shown).decode(errors="replace"), trace


THINKING = Thinking(KIMI, "◁/think▷\n")


@pytest.mark.parametrize("budget", range(12))
def test_a_budget_holds_where_markers_are_split(budget):
    """Closed once, with no character cut and no half-written marker in front, wherever the budget ends."""
    text, trace = run("aé◁/語x◁/think▷yes", Controller(thinking=THINKING, budget=budget))
    assert text.count(KIMI.close) == 1 and trace.closed_by in ("budget", "model")
    thought = text.partition(KIMI.close)[0]
    assert "aé◁/語x".startswith(thought)
    # At least the budget, but for a half-written marker; at most a character more.
    assert len(thought.encode()) <= budget + 3


def test_an_exit_takes_back_a_cue_with_split_characters():
    text, trace = run(
        "so várj, more",
        Controller(
            exit=Scripted(
                act=lambda at: True, suffix="◁/think▷\n", markers=KIMI, cues=Cues(["várj"]), max_cues=10, wanted=()
            )
        ),
    )
    assert text.startswith("so ◁/think▷\n") and trace.closed_by == "exit"


@pytest.mark.parametrize(
    ("prompt", "phase"),
    [
        ("what does <think> mean", "before"),
        ("<think>old thoughts</think>answer\nuser: and <think>?\nassistant:", "before"),
        ("user: <think>\nassistant:", "before"),
        ("assistant: <think>", "think"),
        ("assistant: <think>\n\n", "think"),
        ("assistant: <think> \n", "think"),
        ("assistant: <think>" + "\n \u3000" * 15, "think"),
        ("assistant: <think>" + "\n" * 300, "think"),
        ("assistant: <think>\n\n</think>\n\n", "before"),
        ("assistant: <think>\n\n</think>" + " " * 300, "before"),
        ("a <think> b </think> c <think>\n", "think"),
    ],
)
def test_only_a_marker_at_the_end_of_the_prompt_opens_the_span(prompt, phase):
    span = Span(BYTES, Markers("<think>", "</think>"), None)
    span.begin(tokens(prompt))
    assert span.phase == phase


def test_a_budget_ignores_a_marker_in_the_question():
    thinking = Thinking(Markers("<think>", "</think>"), "</think>\n")
    text, trace = run(
        "Plain answer.", Controller(thinking=thinking, budget=3), prompt="what does <think> mean? ", most=13
    )
    assert text == "Plain answer." and trace.closed_by is None
