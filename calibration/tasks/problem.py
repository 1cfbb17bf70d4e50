"""A problem, and the identity that keeps fitting, calibration and evaluation apart."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasonctl.controller import ControllerError

Prompt = Callable[[str], Sequence[int]]
"""A question's tokens, as the model reads them: `Model.prompt`."""

_NO_WIDTH = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
"""Characters that nobody sees and no word needs: spaces without width, byte order marks."""


@dataclass(frozen=True)
class Problem:
    """A question, the gold answer where there is one, and the domain that its promise may be made for."""

    question: str
    answer: str | None
    domain: str = ""
    explanation: str = ""
    """Why the answer is right, for worked examples; "": the task doesn't say."""

    @property
    def id(self) -> int:
        """63 bits of the question's hash: what keeps fitting and evaluation apart.

        White space doesn't count, nor does the way in which Unicode spells an accented letter.

        >>> Problem("1 + 1 = ?", "2").id == Problem(" 1 + 1\\n= ?", "2").id != Problem("1 + 2 = ?", "3").id
        True
        """
        seen = unicodedata.normalize("NFC", self.question.translate(_NO_WIDTH))
        return _hash(" ".join(seen.split()).encode())


@dataclass
class Distinct:
    """Takes each problem once. Two are the same if their texts agree but for white space, or their prompts' tokens."""

    prompt: Prompt | None = None
    """Without it only texts are compared."""
    agree: Callable[[str, str], bool] = str.__eq__
    """Whether two gold answers are the same."""
    _known: dict[int, tuple[Problem, str] | None] = field(default_factory=dict)
    """The first problem of each key and its source. None: it was left out, and nothing is compared with it."""

    def add(self, problem: Problem, where: str) -> bool:
        """Whether the problem is new; `where` names its source.

        Raises:
            ControllerError: The same problem came before, with another answer or of another domain.

        >>> seen = Distinct()
        >>> seen.add(Problem("1 + 1", "2"), "a:1"), seen.add(Problem("1  + 1", "2"), "a:2")
        (True, False)
        >>> seen.add(Problem("1 + 1 ", "3"), "a:3")
        Traceback (most recent call last):
        reasonctl.controller.core.errors.ControllerError: a:1, a:3: one problem with the answers '2' and '3'; keep one
        """
        keys = self._keys(problem)
        known = [key for key in keys if key in self._known]
        first = self._known[known[0]] if known else (problem, where)
        for key in keys:
            self._known.setdefault(key, first)
        if known and first is not None:
            self._check(*first, problem, where)
        return not known

    def leave_out(self, problem: Problem) -> None:
        """Take neither this problem nor one that is the same, whatever their answers and domains."""
        self._known.update(dict.fromkeys(self._keys(problem)))

    def _keys(self, problem: Problem) -> list[int]:
        """Hashes of what makes problems the same: the text and, where they are asked for, the prompt's tokens."""
        if self.prompt is None:
            return [problem.id]
        tokens = " ".join(map(str, self.prompt(problem.question)))
        return [problem.id, _hash(f"tokens {tokens}".encode())]

    def _check(self, first: Problem, there: str, second: Problem, here: str) -> None:
        for name, a, b in (("answers", first.answer, second.answer), ("domains", first.domain, second.domain)):
            if a == b or a is None or b is None or (name == "answers" and self.agree(a, b)):
                continue
            raise ControllerError(f"{there}, {here}: one problem with the {name} {a!r:.80} and {b!r:.80}; keep one")


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1
