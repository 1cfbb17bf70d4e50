"""Is this answer right? Graders read the text after thinking; both arms are graded by the same one.

A grader is `grade(answer_text, problem) -> bool` plus `extract(text) -> str`, what counts as the answer. It reads as a
person would: a forced answer is a bare number, a full run's is worded, and neither may count against it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.core import find_plugin, plugin_names
from reasonctl.controller.selection import AnswerClasses
from reasonctl.controller.thinking import stated_answer, statement

from .grading.mathematics import equal
from .grading.plain_answers import Context, agree, alike
from .problem import Problem

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def _equal(a: str, b: str, question: str) -> bool:
    return a == b


@dataclass(frozen=True)
class Grader:
    """What says whether an answer is right, and whether two are the same."""

    name: str
    """Stored in the card."""
    extract: Callable[[str], str]
    """The stated answer, '' if there is none."""
    right: Callable[[str, Problem], bool]
    """Whether a text states the problem's gold answer."""
    alike: Callable[[str, str, str], bool] = _equal
    """Whether two stated answers to a question are the same."""

    def same(self, a: str, b: str, question: str = "") -> bool:
        """Two texts state the same answer to the question; two texts without one don't."""
        x, y = self.extract(a), self.extract(b)
        return bool(x and y) and (x == y or self.alike(x, y, question))

    def classes(self, question: str = "") -> AnswerClasses:
        """What sorts stated answers to the question into classes, to count votes."""
        return AnswerClasses(lambda a, b: self.alike(a, b, question))


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


def same_answer(a: str, b: str, question: str = "") -> bool:
    r"""Whether two stated answers are the same, formulas included.

    Args:
        a: A stated answer.
        b: Another one.
        question: Says whether a list may have any order, and which unit is asked for.

    >>> same_answer("72 clips", "72"), same_answer(r"\frac{x}{2}", "x/2"), same_answer("5 or 6", "5")
    (True, True, False)
    >>> same_answer("red, green", "green, red"), same_answer("red, green", "green, red", "In any order.")
    (False, True)
    """
    return alike(a, b, Context(question, equal))


def is_right(text: str, gold: str, question: str = "") -> bool:
    r"""Whether a text ends with the gold answer, as a person would grade it.

    Args:
        text: A whole answer; see `probes.answers.statement` for what it ends with.
        gold: A number, word, option letter, list, date or formula; a GSM8K solution counts by its last line.
        question: Says whether a list may have any order, and which unit is asked for.

    >>> is_right("So **540** meters.\n\nHope this helps!", "540"), is_right("The answer is Pairs.", "Paris")
    (True, False)
    """
    return agree(gold, statement(text), Context(question, equal)) is True


def _is_number(text: str, problem: Problem) -> bool:
    gold = stated_number(problem.answer or "")
    return bool(gold) and stated_number(text) == gold


def _is_equivalent(text: str, problem: Problem) -> bool:
    return is_right(text, problem.answer or "", problem.question)


NUMBER = Grader("number", stated_number, _is_number)
MATH = Grader("math-verify", stated_answer, _is_equivalent, same_answer)


def load_function(option: str, spec: str) -> Any:
    """What `module:function` names.

    Args:
        option: The option that names it, for the errors.
        spec: Its text.

    Raises:
        ControllerError: It names nothing that can be imported.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise ControllerError(f"{option} is {spec!r}; it must be module:function")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ControllerError(f"{option} {spec!r} can't be imported: {error}") from None


def load_grader(spec: str) -> Grader:
    """`module:function`, or a plugin's name: a function (question, gold, answer text) -> bool.

    A plugin may be a Grader too.

    Raises:
        ControllerError: It names nothing that can be imported.
    """
    plugin = None if ":" in spec else find_plugin("graders", spec)
    if plugin is None and ":" not in spec:
        known = ", ".join(plugin_names("graders")) or "none is installed"
        raise ControllerError(f"--grader is {spec!r}; it must be module:function or a plugin's name ({known})")
    function = load_function("--grader", spec) if plugin is None else plugin.load()
    if isinstance(function, Grader):
        return replace(function, name=spec)
    if not callable(function):
        raise ControllerError(f"--grader {spec!r} is no function; give a function (question, gold, answer) -> bool")
    return Grader(spec, stated_answer, lambda text, p: bool(function(p.question, p.answer, text)), same_answer)
