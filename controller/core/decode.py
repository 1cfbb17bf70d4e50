"""What the loop asks a model for: `Decode`, the token tree it may carry, and the `Step` that comes back.

Owns the contract between the loop and the backends (`Session`, `Engine`, `Step`); runs no model.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import ControllerError

Floats = npt.NDArray[np.floating[Any]]
T = TypeVar("T")

ROOT = -1
"""The node above a draft: the last pending token."""


@dataclass(frozen=True)
class Proposal:
    """How the children of one node were drawn: what a verifier needs to accept as often as it may."""

    probs: Floats
    """Shape (draft vocabulary,), sums to 1: the distribution of the first draw."""
    draws: tuple[int, ...]
    """The tokens in draw order."""
    replacement: bool = False
    """True: every draw is from `probs`. False: a token that was drawn is struck out of it for the later draws."""


@dataclass(frozen=True)
class Draft:
    """A tree of proposed tokens, every node after its parent; a chain is a tree with one branch.

    Siblings hold different tokens.

    >>> tree = Draft(tokens=(7, 8, 9), parents=(ROOT, ROOT, 0))
    >>> tree.child(ROOT, 8), tree.child(0, 9), tree.child(1, 9)
    (1, 2, None)
    >>> tree.depths()
    (0, 0, 1)
    >>> tree.path(2)
    (0, 2)
    """

    tokens: tuple[int, ...] = ()
    """The token of each node."""
    parents: tuple[int, ...] = ()
    """The node before each node, or ROOT."""
    proposals: Mapping[int, Proposal] = field(default_factory=dict, compare=False)
    """How the children of a node were drawn. The children of a node without a proposal are a function of the past."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise ValueError(
                f"a draft needs one parent per token: {len(self.tokens)} tokens, {len(self.parents)} parents"
            )
        if any(not ROOT <= parent < node for node, parent in enumerate(self.parents)):
            raise ValueError(f"a draft's parents must come before their children: {self.parents}")
        if len(set(zip(self.parents, self.tokens, strict=True))) != len(self.tokens):
            raise ValueError("two siblings of a draft hold the same token: merge them")

    @classmethod
    def chain(cls, tokens: Sequence[int]) -> Draft:
        """One branch."""
        return cls(tuple(tokens), tuple(range(ROOT, len(tokens) - 1)))

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that holds `token`."""
        for i, parent in enumerate(self.parents):
            if parent == node and self.tokens[i] == token:
                return i
        return None

    def depths(self) -> tuple[int, ...]:
        """Distance of every node from the first drafted layer, which is 0."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    def is_chain(self) -> bool:
        """One branch only (an empty draft is a chain too)."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from the root down to `node`, which is the last of them; ROOT has an empty path."""
        upwards: list[int] = []
        while node != ROOT:
            upwards.append(node)
            node = self.parents[node]
        return tuple(reversed(upwards))

    def check_path(self, path: Sequence[int]) -> None:
        """Raises ControllerError, which is a ValueError, unless `path` leads from the root down, child by child."""
        parent = ROOT
        for node in path:
            if not 0 <= node < len(self.parents) or self.parents[node] != parent:
                raise ControllerError(f"{list(path)} is no path from the draft's root; give a node, then its child")
            parent = node

    def first_branch(self) -> Draft:
        """The chain of first children, for sessions without branches."""
        tokens: list[int] = []
        proposals: dict[int, Proposal] = {}
        node = ROOT
        for i, parent in enumerate(self.parents):
            if parent == node:
                if (drawn := self.proposals.get(node)) is not None:
                    # Always the first draw, whatever it is: the choice of siblings must not look at their tokens.
                    proposals[len(tokens) - 1] = replace(drawn, draws=drawn.draws[:1])
                tokens.append(self.tokens[i])
                node = i
        return replace(Draft.chain(tokens), proposals=proposals)


NO_DRAFT = Draft()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens `a` and `b` have in common at their beginning.

    >>> common_prefix([5, 6, 7], (5, 6, 8, 9))
    2
    """
    size = min(len(a), len(b))
    first, second = list(a[:size]), list(b[:size])
    if first == second:
        return size
    # A bisection by slices: the first `same` tokens are equal, the first `different` ones are not.
    same, different = 0, size
    while different - same > 1:
        middle = (same + different) // 2
        if first[same:middle] == second[same:middle]:
            same = middle
        else:
            different = middle
    return same


@dataclass(frozen=True)
class Capabilities:
    """What a session can do; asked for before use.

    rollback: committed tokens can be forgotten again (recurrent caches can't).
    branches: most leaves a draft may have; 1 = chains only, 0 = no drafts at all.
    fork: an independent copy of the sequence can be made.
    layers: number of blocks whose output `Step.hidden` can give.
    vocabulary: length of a logits row.
    sparse: the session is a `Retrieving` one: it can open a view of itself with a part of its cache.
    rows: most rows of a Decode from the last pending token on: itself and a draft. free: tokens that the cache has
    room for now.
    """

    rollback: bool
    branches: int
    fork: bool
    layers: int
    vocabulary: int
    sparse: bool = False
    rows: int = 1 << 30
    free: int = 1 << 30

    def drafted(self, pending: int) -> int:
        """Most drafted tokens that the next Decode takes behind so many pending ones; below 1 = none."""
        return min(self.rows - 1, self.free - pending) if self.branches else 0


class Step(Protocol):
    """A view of one forward pass; stale, and raising, after the next Decode on the same engine."""

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,): scores of the token after `node`; ROOT is the last pending token."""

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,): output of block `layer` (0-based, before the final norm) at `node`."""


class Session(Protocol):
    """One sequence on one engine: its tokens are in the cache, `length` of them."""

    @property
    def engine(self) -> Engine: ...

    @property
    def can(self) -> Capabilities: ...

    @property
    def length(self) -> int: ...

    def keep(self, path: Sequence[int]) -> None:
        """Commit these nodes of the last draft, from the root down; forget its other nodes."""

    def rollback(self, n: int) -> None:
        """Forget the last n committed tokens."""

    def fork(self) -> Session:
        """An independent sequence with the same committed tokens."""

    def close(self) -> None:
        """Give the sequence's memory back."""


@dataclass(slots=True)
class Clock:
    """What the last forward that was asked for with it took; None where it was shared with other requests."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Decode:
    """A request for one forward: feed `pending`, verify `draft` behind it, and give the rows.

    `layers` names the blocks whose output the asker will read from the Step. `clock` is set by whoever runs it.
    """

    session: Session
    pending: Sequence[int]
    draft: Draft = NO_DRAFT
    layers: tuple[int, ...] = ()
    clock: Clock | None = field(default=None, compare=False)


Asking: TypeAlias = Generator[Decode, Step, T]
"""What asks for forwards and has a result: it yields Decodes, is sent their Steps and returns a T."""


class Engine(Protocol):
    """Owns the weights and the forward pass."""

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine; "" = unknown, so no cost is kept after the process."""

    @property
    def batch(self) -> int:
        """Most requests that one `forward` takes."""

    def session(self) -> Session:
        """An empty sequence."""

    def forward(self, requests: Sequence[Decode]) -> Sequence[Step]:
        """Run one forward for all requests (of different sessions); a Step for each, in order."""
