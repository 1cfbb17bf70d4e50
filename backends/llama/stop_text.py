"""Stop strings of a completion match in what the model wrote, and never in what the controller fed.

The library searches the completion's bytes for them, and has no other place to say where a match counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex


class Fed(NamedTuple):
    """Bytes of a text that the controller fed."""

    start: int
    end: int


class OwnText(bytes):
    """A completion's bytes; searches pass over each match that touches fed bytes.

    >>> text = OwnText.of(b"so.</t>\\n\\n4\\n\\n", [Fed(3, 9)])
    >>> text.index(b"\\n\\n"), b"</t>" in text, text[3:7]
    (10, False, b'</t>')
    """

    fed: Sequence[Fed] = ()

    @classmethod
    def of(cls, text: bytes, fed: Sequence[Fed]) -> OwnText:
        """The text, of which these bytes were fed."""
        made = cls(text)
        made.fed = fed
        return made

    def __contains__(self, part: Any) -> bool:
        return self._first(part) >= 0

    def index(self, part: Any, start: SupportsIndex | None = None, end: SupportsIndex | None = None) -> int:
        """Where the first match begins. Raises ValueError where there is none, or as bytes do with bounds."""
        if start is not None or end is not None:
            return super().index(part, start, end)
        found = self._first(part)
        if found < 0:
            raise ValueError("subsection not found")
        return found

    def _first(self, part: bytes) -> int:
        found = self.find(part)
        while found >= 0 and any(found < span.end and span.start < found + len(part) for span in self.fed):
            found = self.find(part, found + 1)
        return found


def runs_of(fed: Sequence[bool]) -> list[tuple[int, int]]:
    """Where fed tokens stand: each run of them as its first index and the one after its last.

    >>> runs_of([False, True, True, False, True])
    [(1, 3), (4, 5)]
    """
    edges = [i for i, (before, here) in enumerate(zip((False, *fed), (*fed, False), strict=True)) if before != here]
    return list(zip(edges[::2], edges[1::2], strict=True))


def own_ends(arguments: Mapping[str, Any], ends: Collection[str], *, chat: bool) -> bool:
    """Whether texts or criteria of the user's may end a completion, next to the model's own ends.

    Args:
        arguments: The completion's, by name.
        ends: Texts of the tokens that end a run; chat handlers give them as stop strings.
        chat: A chat call leads to it. Its handler's criteria are the model's own end, and the user can't give any.
    """
    given = arguments.get("stop") or ()
    stops = {given} if isinstance(given, str) else set(given)
    return bool(stops - set(ends)) or (not chat and arguments.get("stopping_criteria") is not None)
