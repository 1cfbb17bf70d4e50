"""Drafts copied from what followed an earlier occurrence of the last tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.decode import NO_DRAFT, Asking, Draft, Engine, Need
from ..core.errors import ControllerError
from .drafter import Drafter, Drafting, Target
from .hierarchy import Hierarchy
from .planning.cost_cache import measuring


@dataclass
class PromptLookup(Drafter, Drafting):
    """The continuation of the latest earlier occurrence of the last n-gram, longest n first.

    Saxena 2023 (prompt lookup decoding), with the most recent match instead of the first.
    Deterministic, so that a drafted run gives the tokens of a plain run with the same keys. Where a rejection feeds
    accepted tokens again, as on states, a run drafts by a plan: by measured costs and by what was accepted.
    """

    longest: int = 3
    """Most tokens of the n-gram that is searched for."""
    shortest: int = 1
    """Fewest tokens of it."""
    size: int = 8
    """Most drafted tokens a step."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ControllerError(
                f"n-gram lengths are {self.shortest}..{self.longest}; they need 1 <= shortest <= longest"
            )
        if self.size < 1:
            raise ControllerError(f"draft size is {self.size}; it must be at least 1")

    def start(self, target: Target) -> Drafting:
        """The drafts of one run: this itself, or planned ones."""
        return self if self._is_cheap(target.session.engine) else Hierarchy(size=self.size, recent=None).start(target)

    def needs(self, engine: Engine, length: int) -> tuple[Need, ...]:
        """Room for measuring, where there is a plan."""
        return () if self._is_cheap(engine) else measuring(engine)

    def _is_cheap(self, engine: Engine) -> bool:
        return engine.cuts >= self.size

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """The continuation of the best match, as a chain."""
        found = self._continuation(list(tokens), min(self.size, room))
        return Draft.chain(found) if found else NO_DRAFT
        yield  # a generator that needs no forward of its own

    def _continuation(self, tokens: list[int], size: int) -> list[int]:
        if size < 1 or not tokens:
            return []
        best_length = self.shortest - 1
        best_end = 0
        last = tokens[-1]
        for end in range(len(tokens) - 1, 0, -1):
            if tokens[end - 1] != last:
                continue
            length = 1
            while length < min(self.longest, end) and tokens[end - 1 - length] == tokens[-1 - length]:
                length += 1
            if length > best_length:
                best_length = length
                best_end = end
                if length == self.longest:
                    break
        return tokens[best_end : best_end + size] if best_end else []
