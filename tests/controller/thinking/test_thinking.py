"""Cues and thinking markers in a stream of tokens, whatever the tokens' boundaries."""

import pytest

from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import ControllerError, Cues, Markers, Span

MARKERS = Markers("<think>", "</think>")


def follow(pieces, prompt=(), cues=("wait", "hmm", "alternatively"), markers=MARKERS):
    """[(name, first, last, before, number of tokens read when it was reported)], final span."""
    texts = list(dict.fromkeys([*prompt, *pieces]))
    span = Span(ToyTokenizer(texts), markers, Cues(list(cues)))
    span.begin([texts.index(p) for p in prompt])
    found = []
    for n, piece in enumerate(pieces, 1):
        cue = span.push(texts.index(piece))
        if cue:
            found.append((cue.name, cue.first - len(prompt), cue.last - len(prompt), cue.before, n))
    return found, span


OPEN = ("Q", "<think>")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["x ", "Wait", ",", " y"], [("wait", 1, 1, "", 3)]),
        (["x", " Wait", ","], [("wait", 1, 1, " ", 3)]),
        (["x", "\n\nWait", ","], [("wait", 1, 1, "\n\n", 3)]),
        (["x ", "Wa", "it", " y"], [("wait", 1, 2, "", 4)]),
        (["x ", "Altern", "atively", ","], [("alternatively", 1, 2, "", 4)]),
        (["Wait, so", " it", " is"], [("wait", 0, 0, "", 2)]),
        (["x ", "Wait", "ing ", "y "], []),
        (["a", "wait", " y"], []),
        (["x ", "await ", "y"], []),
        (["h", "mm", "m", "m", "."], [("hmm", 0, 3, "", 5)]),
        (["x ", "hm ", "y"], []),
        (["WAIT", "!"], [("wait", 0, 0, "", 2)]),
        (["\u201c", "Wait", "\u201d"], [("wait", 1, 1, "", 3)]),
        (["\u00e9", "wait", " "], []),
        (["Wait", " ", "Hmm", " "], [("wait", 0, 0, "", 2), ("hmm", 2, 2, "", 4)]),
        (["x ", "Wait", "</think>", "Wait", " y"], [("wait", 1, 1, "", 3)]),
        (["x ", "</thi", "nk> ", "Wait", " y", " z"], []),
        (["x ", "</think> Wait", " y", "z"], []),
    ],
)
def test_words(pieces, expected):
    assert follow(pieces, OPEN)[0] == expected


def test_phases_when_the_template_opens_the_span():
    _, span = follow(["x ", "</think>", "y"], OPEN)
    assert span.phase == "answer"
    assert follow(["x "], OPEN)[1].phase == "think"
    assert follow(["x "], ("<think>", "a", "</think>", "Q"))[1].phase == "before"


def test_phases_when_the_model_opens_it_itself():
    found, span = follow(["Wait", " ", "<thi", "nk>", "Wait", " y"], ("Q",))
    assert found == [("wait", 4, 4, "", 6)]
    assert span.phase == "think"


def test_paragraphs_and_sentences():
    found, _ = follow(["One.", "\n\n", "Two"], OPEN, ["paragraph"])
    assert found == [("paragraph", 1, 1, "", 3)]
    found, _ = follow(["One", ".\n\n", "Two"], OPEN, ["paragraph"])
    assert found == [("paragraph", 1, 1, ".", 3)]
    found, _ = follow(["One", ".", "\n", "\n", "Two"], OPEN, ["paragraph"])
    assert found == [("paragraph", 2, 3, "", 5)]
    found, _ = follow(["One", ".", " Two", " three"], OPEN, ["sentence"])
    assert found == [("sentence", 2, 2, "", 4)]


def test_neighbouring_cues_each_get_their_own_row():
    found, _ = follow(["x ", "Wait", "\n\n", "y"], OPEN, ["wait", "paragraph"])
    assert found == [("wait", 1, 1, "", 3), ("paragraph", 2, 2, "", 4)]
    found, _ = follow(["x ", "Wait, wait", ",", " y"], OPEN, ["wait"])
    assert found == [("wait", 1, 1, "", 3)]  # one row, one cue


def test_without_markers_the_whole_completion_is_the_span():
    assert follow(["a", "\n\n", "b"], ("Q",), ["paragraph"], None)[0] == [("paragraph", 1, 1, "", 3)]


def test_every_k_tokens():
    found, span = follow(["a", "b", "c", "d", "e"], OPEN, ["every(2)"])
    assert found == [("every(2)", 2, 1, "", 3), ("every(2)", 4, 3, "", 5)] and span.held() == 0
    found, _ = follow(["a", "b", "<think>", "c", "d", "e"], ("Q",), ["every(2)"])
    assert found == [("every(2)", 5, 4, "", 6)]  # only what is thought counts
    found, _ = follow(["a ", "Wait", ",", "b"], OPEN, ["every(2)", "wait"])
    assert found == [("wait", 1, 1, "", 3)]  # one row, one cue: the word
    found, _ = follow(["a", b"\xc3", b"\xa9", "c", "d"], OPEN, ["every(2)"])
    assert found == [("every(2)", 3, 2, "", 4), ("every(2)", 4, 3, "", 5)]  # no character is cut
    found, _ = follow(["a", "</th", "b", "c"], OPEN, ["every(2)"])
    assert found == [("every(2)", 3, 2, "", 4)]  # nor a marker
    found, _ = follow(["a", "b", "</think>", "c", "d", "e"], OPEN, ["every(2)"])
    assert found == [("every(2)", 2, 1, "", 3)]
    found, _ = follow(["Wait", "\n\n", "x"], OPEN, ["every(1)", "wait", "paragraph"])
    assert [cue[0] for cue in found] == ["wait", "paragraph"]


@pytest.mark.parametrize(
    ("pieces", "held"),
    [(["x "], 0), (["x ", "W"], 1), (["x ", "Wa", "it"], 2), (["x ", "Wai", "ter"], 0), (["x ", "Wait, so"], 1)],
)
def test_held_tokens(pieces, held):
    assert follow(pieces, OPEN)[1].held() == held


@pytest.mark.parametrize("cues", [["wait", "paragraph"], ["paragraph"]])
@pytest.mark.parametrize(
    "pieces", [["x", "\n", "\n", "y"], ["x\n\n", "\n", "\n", "y"], ["\n\n\n", "\n\n", "y"], ["x ", "Wa", "it", "y"]]
)
def test_every_token_of_a_cue_is_held_from_the_one_on_in_which_it_begins(pieces, cues):
    for first, last, _ in [cue[1:4] for cue in follow(pieces, OPEN, cues)[0]]:
        for fed in range(first, last + 1):
            assert fed + 1 - follow(pieces[: fed + 1], OPEN, cues)[1].held() <= first


def test_a_word_is_a_word():
    with pytest.raises(ControllerError, match="no word"):
        Cues(["so what"])
    with pytest.raises(ControllerError, match="no cue"):
        Cues([])
