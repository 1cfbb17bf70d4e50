"""Where an answer ends, against a slow reading of its whole text, however the text is cut into tokens."""

from __future__ import annotations

import random
import re

import pytest

from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import Closing, ControllerError
from reasonctl.controller.thinking.answer_end import AnswerEnd

ENDINGS = {
    ("box", "12}."): 3,
    ("box", r"\frac{1}{2}} so"): 12,
    ("box", r"\text{a {b} c}} x"): 15,
    ("box", r"\{1, 2\}} and"): 9,
    ("box", r"\left\{ x \right\}}"): 19,
    ("box", r"a \\} b"): 5,
    ("box", "é→ 5\n}"): 6,
    ("box", r"12\}"): None,
    ("box", "no end\n\n"): None,
    ("line", "12\nso"): 3,
    ("line", "\n\n  \n 12 apples\r\n"): 16,
    ("line", " \n\t\n"): None,
    ("line", ":\n\n\\[\n12\n\\]"): 9,
    ("line", ":\n**\n"): None,
    ("line", "12}"): None,
    ("model", "12}\n\n"): None,
}
"""By rule and text: characters up to the end of the answer."""


def end_of(ends, text, cuts):
    """Characters up to the end of the token that ends the answer, for a text that is cut at these bytes."""
    data = text.encode()
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
    follows = AnswerEnd(ToyTokenizer(pieces), ends)
    for token in range(len(pieces)):
        if follows.push(token):
            return len(b"".join(pieces[: token + 1]))
    return None


@pytest.mark.parametrize(("ends", "text"), ENDINGS)
def test_an_answer_ends_with_the_token_that_holds_its_end(ends, text):
    rng, size = random.Random(7), len(text.encode())
    expected = ENDINGS[ends, text]
    at = None if expected is None else len(text[:expected].encode())
    assert end_of(ends, text, range(1, size)) == at  # byte by byte
    for _ in range(30):
        cuts = sorted(rng.sample(range(1, size), rng.randrange(size)))
        wanted = None if at is None else next(cut for cut in [*cuts, size] if cut >= at)
        assert end_of(ends, text, cuts) == wanted


def slow_end(ends, text):
    """The same, from all of the text at once."""
    if ends == "line":
        found = re.search(r"[^\W_][^\n\r]*[\n\r]", text)
        return found.end() if found else None
    plain = re.sub(r"\\.", "..", text, flags=re.DOTALL)
    ends_at = [i for i in range(1, len(plain) + 1) if plain[:i].count("}") > plain[:i].count("{")]
    return ends_at[0] if ends_at else None


@pytest.mark.parametrize("ends", ["line", "box"])
def test_random_texts_end_where_a_slow_reading_says(ends):
    rng, ended = random.Random(3), 0
    for _ in range(400):
        text = "".join(rng.choices("{}}\\\n \ra5", k=rng.randrange(2, 14)))
        at = slow_end(ends, text)
        ended += at is not None
        assert end_of(ends, text, range(1, len(text))) == at
    assert 100 < ended < 390


def test_a_closing_that_opens_no_box_is_one_line():
    for suffix in (r"</think>\boxed", r"\boxed{5}", r"\{", "{ x"):
        with pytest.raises(ControllerError, match="opens none; end it in an open brace") as caught:
            Closing(suffix, "box")
        assert "\n" not in str(caught.value)
    assert Closing("\\boxed{ ", "box") == Closing(suffix="\\boxed{ ", answer_ends="box")
    with pytest.raises(ControllerError, match="answer_ends is 'end'; it must be one of 'model', 'line', 'box'"):
        Closing("x", "end")
