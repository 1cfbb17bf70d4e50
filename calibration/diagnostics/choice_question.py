"""Multiple-choice questions: a stem and labelled options, in any order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reasonctl.controller import ControllerError
from reasonctl.controller.sampling import LETTERS

_HEAD = re.compile(
    r"^[ \t]*(?:[-*+][ \t]+)?(?:\*\*)?\(?([A-Z]|[a-z]|[1-9][0-9]?)[.):](?:\*\*)?(?:[ \t]+(?=\S)|[ \t]*$)", re.MULTILINE
)
"""What an option begins with."""
_KINDS: tuple[Callable[[str], int], ...] = (
    lambda label: ord(label) - ord("A") if "A" <= label <= "Z" else -1,
    lambda label: ord(label) - ord("a") if "a" <= label <= "z" else -1,
    lambda label: int(label) - 1 if label.isdigit() else -1,
)
"""The place in the list that each kind of label stands for; -1: it is of another kind."""
INDENT = "   "
"""What stands before an option's further lines in a list."""
_LETTER = r"[(\"']?[A-J][)\"']?(?![A-Za-z])"
_REFERRING = re.compile(
    r"\b(?:all|none|any|both|neither|either|one|two|three|some|most|each) of (?:the |these )?"
    r"(?:above|below|options|answers|choices|others|other options|preceding|previous|following)\b"
    rf"|^\W{{0,3}}(?:(?:both|either|neither|only|options?|answers?|choices?)\s{{1,3}})?{_LETTER}"
    rf"(?:\s{{0,3}},\s{{0,3}}{_LETTER})*\s{{0,3}}(?:,?\s{{0,3}}(?:and|or|nor)|&)\s{{0,3}}{_LETTER}",
    re.IGNORECASE,
)
"""An option that names other options or their places."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with options."""

    stem: str
    """The text before the options."""
    options: tuple[str, ...]
    """The options in the order that is shown; of several lines where they were written so."""
    original: tuple[str, ...]
    """The label that each had in the question as it was given."""
    after: str = ""
    """The text after the options."""

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters that are shown, in order."""
        return tuple(LETTERS[: len(self.options)])

    @property
    def refers(self) -> bool:
        """Whether an option names other options or their places, so that another order changes what it says.

        >>> options = ("None of the above", "Both A and C", "A cat")
        >>> [choice_question(f"Q?\\nA. x\\nB. {text}").refers for text in options]
        [True, True, False]
        """
        return any(_REFERRING.search(one) for one in self.options)

    def rotated(self, places: int) -> ChoiceQuestion:
        """The same question with every option moved on by so many places, the last ones to the front.

        >>> question = choice_question("Q?\\nA. x\\nB. y\\nC. z")
        >>> question.rotated(1).options, question.rotated(1).original, question.rotated(3) == question
        (('z', 'x', 'y'), ('C', 'A', 'B'), True)
        """
        at = -places % len(self.options)
        return replace(
            self, options=self.options[at:] + self.options[:at], original=self.original[at:] + self.original[:at]
        )

    def ordered(self) -> ChoiceQuestion:
        """The same question with its options in alphabetical order: the same for every order of the options.

        >>> choice_question("Q?\\nA. y\\nB. x").ordered().options
        ('x', 'y')
        """
        order = sorted(range(len(self.options)), key=self.options.__getitem__)
        return replace(
            self,
            options=tuple(self.options[i] for i in order),
            original=tuple(self.original[i] for i in order),
        )

    def lines(self, label: Callable[[str], str]) -> list[str]:
        """The options as lines of a list; an option's further lines are indented.

        Args:
            label: What stands before an option, of its letter.
        """
        return [f"{label(a)} {indented(b)}" for a, b in zip(self.letters, self.options, strict=True)]

    def text(self) -> str:
        """The question as a list of lettered options."""
        return "\n".join([self.stem, *self.lines(lambda a: f"{a}."), *([self.after] if self.after else [])])


def indented(option: str) -> str:
    """An option as it stands in a list.

    >>> indented("x = 1\\ny = 2")
    'x = 1\\n   y = 2'
    """
    first, *more = option.split("\n")
    return "\n".join([first, *(INDENT + line if line else "" for line in more)])


def choice_question(question: str) -> ChoiceQuestion | None:
    """The stem and the options of a question; None where it has not two options or more.

    Options are labelled A, a or 1 and so on, each at the start of a line: `A. x`, `(a) x`, `1) x`. The last such list
    counts, and letters before numbers; numbers with text after the list are no options. Lines up to the next label go
    on an option; after the last one those that are indented.

    Raises:
        ControllerError: A label is missing or is there twice, an option is empty, there are more than ten, or it can't
            be known where the last one ends. The question is named.

    >>> choice_question("What is ice?\\nA. water\\nB) stone\\n").options
    ('water', 'stone')
    >>> choice_question("Which holds?\\n1. x = 1\\n   y = 2\\n2. z = 3").options
    ('x = 1\\ny = 2', 'z = 3')
    >>> choice_question("What is ice?") is None
    True
    """
    heads = list(_HEAD.finditer(question))
    for place in _KINDS:
        own = [head for head in heads if place(head[1]) >= 0]
        run = _last_run(own, place)
        if run:
            _check_labels(question, run, own, heads)
            found = _parts(question, run)
            return None if run[0][1] == "1" and found.after else found
    return None


def _last_run(heads: Sequence[re.Match[str]], place: Callable[[str], int]) -> list[re.Match[str]]:
    """The last two labels or more that count on from the first."""
    run: list[re.Match[str]] = []
    last: list[re.Match[str]] = []
    for head in heads:
        if place(head[1]) == 0:
            run = []
        if place(head[1]) == len(run):
            run.append(head)
            last = run if len(run) > 1 else last
    return last


def _check_labels(
    question: str, run: Sequence[re.Match[str]], own: Sequence[re.Match[str]], heads: Sequence[re.Match[str]]
) -> None:
    """Refuse labels of the list's own kind that aren't in their place, and another list after the last one."""
    first, last = run[0].start(), run[-1].start()
    placed, kind = {head.start() for head in run}, {head.start() for head in own}
    for head in heads:
        at = head.start()
        if at not in placed and (at > last or (at > first and at in kind)):
            line = question[at:].split("\n", 1)[0].strip()
            raise _refused(question, f"the line {line[:40]!r} begins as an option does and isn't the next one", run)
    if len(run) > len(LETTERS):
        raise ControllerError(f"{question[:60]!r} has {len(run)} options; give {len(LETTERS)} at most")


def _parts(question: str, run: Sequence[re.Match[str]]) -> ChoiceQuestion:
    """The question with the options that begin at these labels."""
    ends = [*(head.start() for head in run[1:]), len(question)]
    raw = [question[head.end() : end].rstrip() for head, end in zip(run, ends, strict=True)]
    widths = [len(head[0].strip("\n")) for head in run]
    own, after = _last_option(raw[-1], len(run[-1][0]) - len(run[-1][0].lstrip(" \t")))
    loose = any(line and not line[0].isspace() for one in raw[:-1] for line in one.split("\n")[1:])
    if loose and after and not (after.startswith("\n\n") and not any("\n\n" in one for one in raw)):
        raise _refused(question, "whether the text at the end belongs to the last one is unclear", run)
    options = tuple(_dedented(one, width) for one, width in zip([*raw[:-1], own], widths, strict=True))
    if not all(options):
        raise _refused(question, "an option is empty", run)
    return ChoiceQuestion(question[: run[0].start()].rstrip(), options, tuple(head[1] for head in run), after.strip())


def _last_option(text: str, indent: int) -> tuple[str, str]:
    """The last option and what comes after it: from the first line that isn't indented more than the label."""
    lines = text.split("\n")
    size = next(
        (i for i, line in enumerate(lines) if i and line.strip() and len(line) - len(line.lstrip(" \t")) <= indent),
        len(lines),
    )
    while size > 1 and not lines[size - 1].strip():
        size -= 1
    return "\n".join(lines[:size]), "".join("\n" + line for line in lines[size:])


def _dedented(option: str, width: int) -> str:
    """An option whose further lines lose their indentation up to the label's width."""
    first, *more = option.split("\n")
    cut = [line[min(width, len(line) - len(line.lstrip(" \t"))) :].rstrip() for line in more]
    return "\n".join([first.strip(), *cut]).strip("\n")


def _refused(question: str, why: str, run: Sequence[re.Match[str]]) -> ControllerError:
    labels = ", ".join(head[1] for head in run)
    return ControllerError(
        f"the options {labels[:40]} of {question[:60]!r} can't be read: {why}; write each in a line, 'A. text', and "
        "indent lines that go on an option"
    )
