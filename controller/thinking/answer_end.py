r"""Where the answer after an exit ends: with the model's own end, with its line, or where its box closes.

LYNX (arXiv 2512.05325), DEER (arXiv 2504.15895) and Dynasor (arXiv 2412.20993) ask for `\boxed{...}`. What stands
after the closed box is never read, so nothing after it needs to be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..core.errors import ControllerError
from ..core.token_text import TextDecoder
from ..core.tokenizer import Tokenizer

AnswerEnds = Literal["model", "line", "box"]
"""What ends an answer besides the model's own end, which always does.

"line": the first line break after a letter or a digit, since a lone colon or an opened formula states nothing yet.
"box": the suffix ends inside a brace, and that brace closes.
"""

ANSWER_ENDS: tuple[AnswerEnds, ...] = get_args(AnswerEnds)


@dataclass(frozen=True)
class Closing:
    r"""How an exit closes thinking and asks for the answer.

    >>> Closing("</think>\n\n\\boxed{", "box").answer_ends
    'box'
    """

    suffix: str
    """The text that closes thinking, in the cue's place or after it."""
    answer_ends: AnswerEnds = "model"
    """What ends the answer after it."""

    def __post_init__(self) -> None:
        if self.answer_ends not in ANSWER_ENDS:
            raise ControllerError(
                f"answer_ends is {self.answer_ends!r:.40}; it must be one of {', '.join(map(repr, ANSWER_ENDS))}"
            )
        if self.answer_ends == "box" and not ends_in_brace(self.suffix):
            raise ControllerError(
                f"answers end where their box closes, and the suffix {self.suffix!r:.80} opens none; "
                r"end it in an open brace such as \boxed{, or give another answer_ends"
            )


class OpenBrace:
    r"""Finds where an open brace closes in a text that comes in parts. After a backslash a brace is no brace.

    >>> brace = OpenBrace()
    >>> [brace.closes_in(part) for part in ("\\text{a", "} \\", "} 5", "}.")]
    [False, False, False, True]
    """

    def __init__(self) -> None:
        self._depth = 1
        self._escaped = False

    def closes_in(self, text: str) -> bool:
        """Take in the next part; whether the brace closes in it."""
        for char in text:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == "{":
                self._depth += 1
            elif char == "}":
                self._depth -= 1
                if not self._depth:
                    return True
        return False


def ends_in_brace(text: str) -> bool:
    r"""Whether a text ends, white space aside, in a brace that it opens.

    >>> ends_in_brace("so \\boxed{ "), ends_in_brace("\\boxed{5}"), ends_in_brace("\\{"), ends_in_brace("\\\\{")
    (True, False, False, True)
    """
    before = text.rstrip().removesuffix("{")
    backslashes = len(before) - len(before.rstrip("\\"))
    return text.rstrip().endswith("{") and backslashes % 2 == 0


class AnswerEnd:
    """Follows the tokens that a model writes as its answer, and finds the one that ends it.

    It reads each token once and stores no text. Where tokens are taken back, their replacement is fed and the answer
    begins anew after it, with another object.
    """

    def __init__(self, tokenizer: Tokenizer, ends: AnswerEnds) -> None:
        self._ends = ends
        self._decoder = TextDecoder(tokenizer)
        self._brace = OpenBrace()
        self._begun = False
        """A letter or a digit was written."""

    def push(self, token: int) -> bool:
        """Take in the next token; whether the answer ends with it. After an end nothing may be pushed."""
        if self._ends == "model":
            return False
        text = self._decoder.push(token)
        return self._brace.closes_in(text) if self._ends == "box" else self._line_over(text)

    def _line_over(self, text: str) -> bool:
        for char in text:
            if char in "\n\r" and self._begun:
                return True
            self._begun |= char.isalnum()
        return False
