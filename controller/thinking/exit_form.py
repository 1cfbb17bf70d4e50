"""The form of an exit: what becomes of the cue, and what the rule waits for. Each is another exit with another risk."""

from __future__ import annotations

from typing import Literal, get_args

from ..core.errors import ControllerError
from .cues import Cue

ExitForm = Literal["replace", "append", "append-open"]
"""How an exit is made.

"replace": the cue is taken back, and the suffix takes its place.
"append": the cue stays, and the suffix follows it. The rule waits for the next token, which shows whether a cue word
has ended; on exit that token is dropped, and was never fed.
"append-open": the same without that knowledge. A cue word counts as soon as it is whole, whatever the next token makes
of it, so "Wait" of "Waiting" is a cue too. An engine that decides at the cue's own row can't do otherwise.

A probe that was calibrated in one form promises nothing in another.
"""

EXIT_FORMS: tuple[ExitForm, ...] = get_args(ExitForm)

FORM_MEANS: dict[ExitForm, str] = {
    "replace": "the suffix takes the cue's place",
    "append": "the cue stays and the suffix follows it",
    "append-open": "the cue stays and the suffix follows it, even where its word goes on",
}
"""The forms in words."""


def parse_form(name: object) -> ExitForm:
    """The form of that name; raises ControllerError if there is none."""
    for form in EXIT_FORMS:
        if form == name:
            return form
    raise ControllerError(f"form is {name!r:.40}; an exit's form is one of {', '.join(map(repr, EXIT_FORMS))}")


def exit_place(form: ExitForm, cue: Cue) -> int:
    """Absolute index of the first token that an exit replaces: the cue's first, or the one after its last.

    >>> cue = Cue(("wait",), 0, first=7, last=8, before=" ")
    >>> exit_place("replace", cue), exit_place("append", cue)
    (7, 9)
    """
    return cue.first if form == "replace" else cue.last + 1


def exit_text(form: ExitForm, cue: Cue, suffix: str) -> str:
    """The text that an exit feeds: the suffix, after the text that a cue's first token holds before it if that goes.

    A cue that stays may end inside a token. The suffix follows that token.

    >>> cue = Cue(("wait",), 0, first=7, last=8, before="\\n")
    >>> exit_text("replace", cue, "</think>"), exit_text("append", cue, "</think>")
    ('\\n</think>', '</think>')
    """
    return cue.before + suffix if form == "replace" else suffix
