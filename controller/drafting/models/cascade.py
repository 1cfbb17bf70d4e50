"""A draft model's chain that an inner drafter drafts for; its tokens follow the draft model's own distribution.

TriForce (Sun et al. 2024, section 4.3) with the residual at the middle level, which the authors' code leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ...core.decode import NO_DRAFT, ROOT, Asking, Draft, Floats, Proposal, Step
from ...core.randomness import DRAFT, InnerKeys, Keys
from ...sampling.draw import draw
from ...sampling.rejection import verify
from ..drafter import Drafter, Drafting, Target
from .draft_session import DraftSession

Probs = Callable[[Step, int, Sequence[int]], Floats]
"""Gives the distribution of the token after a text that ends at a node of a step; sums to 1."""


class Draws:
    """The random choices of one proposal. Each uses the next uniform of the run's keys at the proposal's place."""

    def __init__(self, keys: Keys, position: int) -> None:
        self._keys = keys
        self._position = position
        self._count = 0

    def uniform(self) -> float:
        """The next uniform in [0, 1)."""
        self._count += 1
        return self._keys.uniform(self._position, DRAFT, self._count - 1)

    def choose(self, probs: Floats) -> int:
        """A token drawn from `probs`."""
        return draw(probs, self.uniform())

    def follow(self, probs: Floats, proposal: Proposal | None) -> int:
        """A token of the distribution `probs`: one of the proposal's draws where a test accepts it."""
        if proposal is None:
            return self.choose(probs)
        accepted, residual = verify(probs, proposal, lambda _: self.uniform())
        return self.choose(residual) if accepted is None else accepted


class MiddleSession(Protocol):
    """The draft model's sequence, as a cascade uses it; see `DraftSession`."""

    @property
    def leaves(self) -> int: ...

    def decode(self, tokens: Sequence[int], draft: Draft = NO_DRAFT) -> Asking[Step]: ...

    def keep(self, path: Sequence[int]) -> None: ...


def middle_chain(
    session: MiddleSession, probs: Probs, inner: Drafting, tokens: Sequence[int], size: int, draws: Draws | None
) -> Asking[Draft]:
    """A chain whose every token follows the draft model's distribution, whatever the inner drafter proposes.

    A token is drawn from the residual where no guess is accepted. Drawing it from the whole distribution again would
    give tokens of another distribution than the proposal names, and the target's test would be wrong.

    Args:
        session: The draft model's sequence.
        probs: The draft model's distributions.
        inner: Proposes the guesses that a forward of the draft model verifies.
        tokens: The run's text so far.
        size: Tokens of the chain.
        draws: The choices; None takes the largest, so that the chain is a function of the past.
    """
    path: list[int] = []
    proposals: dict[int, Proposal] = {}
    while len(path) < size:
        text = [*tokens, *path]
        room = size - len(path) - 1
        guess = yield from _guess(inner, text, room, session.leaves)
        step = yield from session.decode(text, guess)
        node: int | None = ROOT
        walked: list[int] = []
        while node is not None and len(path) < size:
            if draws is None:
                token = int(step.logits(node).argmax())
            else:
                node_probs = probs(step, node, [*tokens, *path])
                token = draws.follow(node_probs, guess.proposals.get(node))
                proposals[len(path) - 1] = Proposal(node_probs, (token,))
            path.append(token)
            node = guess.child(node, token)
            if node is not None:
                walked.append(node)
        session.keep(walked)
        if room:
            inner.observe(guess, walked)
    return Draft(tuple(path), tuple(range(-1, len(path) - 1)), proposals)


def _guess(inner: Drafting, text: Sequence[int], room: int, leaves: int) -> Asking[Draft]:
    """What the inner drafter proposes; a chain where the draft model's cache takes no more."""
    guess = (yield from inner.propose(text, room)) if room else NO_DRAFT
    return guess.first_branch() if leaves == 1 and not guess.is_chain() else guess


class Cascade:
    """One run's inner drafter, and the chains that it drafts for."""

    def __init__(self, inner: Drafter, target: Target, session: DraftSession, probs: Probs) -> None:
        self._inner = inner
        self._target = target
        self._session = session
        self._probs = probs
        self._keys = InnerKeys(target.keys)
        self._drafting: Drafting | None = None

    def chain(self, tokens: Sequence[int], size: int, draws: Draws | None) -> Asking[Draft]:
        """A chain of the draft model; see `middle_chain`."""
        self._session.prepare(tokens)
        if self._drafting is None:
            session = self._session
            target = replace(self._target, session=session.session, keys=self._keys, clock=session.clock)
            self._drafting = self._inner.start(target)
        self._keys.root = len(tokens)
        return (yield from middle_chain(self._session, self._probs, self._drafting, tokens, size, draws))

    def close(self) -> None:
        """The run is over."""
        if self._drafting is not None:
            self._drafting.close()
