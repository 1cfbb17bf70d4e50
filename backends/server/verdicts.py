"""What clients say of answers: whether they were right, once for each request."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from reasonctl.controller import ExitRule, Trace

from .refusals import Refusal


@dataclass(frozen=True)
class Answered:
    """What is kept of an answered request."""

    key: str
    """The key of its client."""
    rule: ExitRule | None
    """Decided about its exits."""
    exited: list[bool]
    """Whether each of its runs was exited."""


class Verdicts:
    """The last requests that were answered."""

    def __init__(self, most: int) -> None:
        """most: so many are kept."""
        self._most = most
        self._answered: dict[str, Answered] = {}

    def add(self, request_id: str, key: str, rule: ExitRule | None, traces: Sequence[Trace]) -> None:
        """A request is answered."""
        self._answered[request_id] = Answered(key, rule, [trace.exit is not None for trace in traces])
        while len(self._answered) > self._most:
            del self._answered[next(iter(self._answered))]

    def take(self, request_id: str, key: str, *, right: bool, choice: int) -> None:
        """Pass what a client says on to the rule.

        Args:
            request_id: The request's id, as its client was given it.
            key: The key of who says it: no other one may.
            right: Whether the answer was right.
            choice: Which of its choices.

        Raises:
            Refusal: The key has no such answered request, or its client has said it already.
        """
        found = self._answered.get(request_id)
        if found is None or not secrets.compare_digest(found.key, key) or choice >= len(found.exited):
            raise Refusal(404, "no answered request of this key has this id and choice", code="request_not_found")
        del self._answered[request_id]
        if found.rule is not None:
            found.rule.verdict(right=right, exited=found.exited[choice])
