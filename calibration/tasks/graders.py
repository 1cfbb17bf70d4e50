"""Is this answer right? Graders read the text after thinking; both arms are judged by the same one.

A grader is `grade(answer_text, problem) -> bool` plus `extract(text) -> str`, what counts as the answer.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from reasonctl.controller import ControllerError
from reasonctl.controller.thinking.answers import stated_answer

from .problem import Problem

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Grader:
    """name: stored in the card. extract: the stated answer, '' if there is none. right: judged against the gold."""

    name: str
    extract: Callable[[str], str]
    right: Callable[[str, Problem], bool]

    def same(self, a: str, b: str) -> bool:
        """Two texts state the same answer; two texts without one don't."""
        x, y = self.extract(a), self.extract(b)
        return bool(x) and x == y


def stated_number(text: str) -> str:
    """The last number in the stated answer, normalised.

    >>> stated_number("The answer is 1,074.0."), stated_number("no idea")
    ('1074', '')
    """
    found = _NUMBER.findall(stated_answer(text))
    if not found:
        return ""
    number = str(found[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _is_number(text: str, problem: Problem) -> bool:
    gold = stated_number(problem.answer or "")
    return bool(gold) and stated_number(text) == gold


def _is_equivalent(text: str, problem: Problem) -> bool:
    from math_verify import parse, verify

    # No time limits of its own: they need signals, which workers don't have. It warns of that at every call.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold = parse(f"${problem.answer}$", parsing_timeout=None)
    answer = parse(f"${stated_answer(text)}$", parsing_timeout=None)
    return bool(verify(gold, answer, timeout_seconds=None))


NUMBER = Grader("number", stated_number, _is_number)
MATH = Grader("math-verify", stated_answer, _is_equivalent)


def load_grader(spec: str) -> Grader:
    """`module:function`, a function (question, gold, answer text) -> bool."""
    module, _, name = spec.partition(":")
    if not module or not name:
        raise ControllerError(f"--grader is {spec!r}; it must be module:function")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ControllerError(f"--grader {spec!r} can't be imported: {error}") from None
    return Grader(spec, stated_answer, lambda text, p: bool(function(p.question, p.answer, text)))
