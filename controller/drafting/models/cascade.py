"""A middle level: a model's chain that another drafter drafts for, handed up under the model's own law.

TriForce (Sun et al. 2024, section 4.3) with the residual at the middle level, which the authors' code leaves out.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from ...core.decode import NO_DRAFT, ROOT, Decode, Draft, Floats, Proposal, Session, Step
from ...core.randomness import DRAFT, Keys
from ...sampling.rejection import verify
from ...sampling.row import draw
from ..drafter import Drafting


class Draws:
    """The choices of one proposal, by the run's keys: numbered from its place, so that no two share a uniform."""

    def __init__(self, keys: Keys, at: int) -> None:
        self._keys, self._at, self._count = keys, at, 0

    def uniform(self) -> float:
        self._count += 1
        return self._keys.uniform(self._at, DRAFT, self._count - 1)

    def choose(self, law: Floats) -> int:
        """A token of `law`."""
        return draw(law, self.uniform())

    def follow(self, law: Floats, proposal: Proposal | None) -> int:
        """A token of `law`, one of the proposal's draws where a test accepts it."""
        if proposal is None:
            return self.choose(law)
        token, left, _ = verify(law, None, proposal, lambda _: self.uniform())
        return self.choose(left) if token is None else token


class Middle(Protocol):
    """A model in the middle: its session follows what it is fed."""

    @property
    def session(self) -> Session: ...

    def decode(self, tokens: Sequence[int], draft: Draft = NO_DRAFT) -> Generator[Decode, Step, Step]:
        """Roll the session back to what it shares with `tokens`; a forward of the rest of them, and of a draft."""

    def kept(self, tokens: Sequence[int]) -> None:
        """These were fed too, as an accepted draft."""

    def law(self, step: Step, node: int, tokens: Sequence[int]) -> Floats:
        """Shape (vocabulary,); sums to 1."""


def middle_chain(
    middle: Middle, inner: Drafting, tokens: Sequence[int], size: int, draws: Draws | None
) -> Generator[Decode, Step, Draft]:
    """`size` tokens behind `tokens`; each is of the middle model's law given those before it, whatever `inner` drafts.

    draws: None takes the largest, as a function of the past. Where no guess is accepted the token comes from the
    residual: drawn anew from the middle's law, it would have another law than the target's test is told.
    """
    path: list[int] = []
    proposals: dict[int, Proposal] = {}
    while (room := size - len(path) - 1) >= 0:
        here = [*tokens, *path]
        guess = (yield from inner.propose(here, room)) if room else NO_DRAFT
        if middle.session.can.branches == 1 and not guess.is_chain():
            guess = guess.first_branch()
        step = yield from middle.decode(here, guess)
        node: int | None = ROOT
        walked: list[int] = []
        while node is not None and len(path) < size:
            if draws is None:
                token = int(step.logits(node).argmax())
            else:
                law = middle.law(step, node, [*tokens, *path])
                token = draws.follow(law, guess.proposals.get(node))
                proposals[len(path) - 1] = Proposal(law, (token,))
            path.append(token)
            node = guess.child(node, token)
            walked += [] if node is None else [node]
        middle.session.keep(walked)
        middle.kept([guess.tokens[child] for child in walked])
        if room:
            inner.observe(guess, walked)
    return Draft(tuple(path), tuple(range(-1, len(path) - 1)), proposals)
