"""The contract between the decoding loop and the backends.

The loop yields a `Decode`: a request for one forward of one `Session`. The session's `Engine` runs it and returns a
`Step`, which gives the rows. A Decode may carry a `Draft`, a tree of proposed tokens. Nothing here runs a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import ControllerError

Floats = npt.NDArray[np.floating[Any]]
T = TypeVar("T")

ROOT = -1
"""The node above a draft: the last pending token."""


@dataclass(frozen=True)
class Proposal:
    """How the children of one node were drawn. With it, verification accepts as many of them as possible."""

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
                    # Always the first draw, whatever it is: the choice of siblings must not depend on their tokens.
                    proposals[len(tokens) - 1] = replace(drawn, draws=drawn.draws[:1])
                tokens.append(self.tokens[i])
                node = i
        return replace(Draft.chain(tokens), proposals=proposals)


NO_DRAFT = Draft()


UNLIMITED = 1 << 30
"""More tokens, rows or branches than any session has."""


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
    """What a session can do; read before use, since some answers change while the session runs."""

    rollback: bool
    """Committed tokens can be forgotten again."""
    branches: int
    """Most leaves of a draft: 1 = chains only, 0 = no drafts at all."""
    fork: bool
    """An independent copy of the sequence can be made."""
    layers: int
    """Number of blocks whose output `Step.hidden` can give."""
    vocabulary: int
    """Length of a logits row."""
    sparse: bool = False
    """`Session.sparse` opens a view that reads only a part of the cache."""
    rows: int = UNLIMITED
    """Most rows of a Decode from the last pending token on: that token and the draft."""
    free: int = UNLIMITED
    """Tokens that the cache has room for now."""
    checkpoints: bool = False
    """A rollback goes back no further than the last `Session.checkpoint`, as on recurrent states."""

    def drafted(self, pending: int) -> int:
        """Most drafted tokens that the next Decode takes after `pending` pending ones; below 1 = none."""
        return min(self.rows - 1, self.free - pending) if self.branches else 0


class Step(Protocol):
    """The rows of one forward: a view that raises RuntimeError after the next forward of the same engine.

    A Protocol and no base class: copies and stand-ins of rows are Steps too, and inherit nothing.
    """

    __slots__ = ()

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,): logits of the token after `node`; ROOT is the last pending token."""

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,): output of block `layer` (0-based, before the final norm) at `node`."""


class Session(ABC):
    """One sequence of one engine, with its tokens in the cache."""

    engine: Engine
    """Runs this session's forwards."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Committed tokens."""

    @property
    @abstractmethod
    def can(self) -> Capabilities:
        """What the session can do now."""

    @abstractmethod
    def keep(self, path: Sequence[int]) -> None:
        """Commit these nodes of the last draft, from the root down; forget its other nodes."""

    @abstractmethod
    def rollback(self, n: int) -> None:
        """Forget the last n committed tokens; `least` says how many must stay."""

    @property
    def least(self) -> int:
        """Fewest tokens that a rollback can leave."""
        return 0 if self.can.rollback else self.length

    def checkpoint(self) -> None:
        """Let later rollbacks reach the present length; they may no longer reach shorter ones.

        What is decoded never depends on it. Default: nothing to do, since every length can be reached.
        """
        return None

    @property
    def owed(self) -> int:
        """Committed tokens that the next forward feeds again: a rollback to a checkpoint has dropped their state."""
        return 0

    @abstractmethod
    def fork(self) -> Session:
        """An independent sequence with the same committed tokens, and the same checkpoint."""

    @abstractmethod
    def close(self) -> None:
        """Give the sequence's memory back; a second call does nothing."""

    def set_aside(self) -> None:
        """Nothing is fed for a while: leave what costs other sequences time. Default: it costs them none."""
        return None

    def sparse(self, budget: int, chunk: int) -> SparseSession:
        """A view that reads a part of the past; only where `can.sparse`.

        Args:
            budget: tokens of the past that the view reads.
            chunk: tokens that stay or go together; the query of the view's first row chooses.

        Raises:
            ControllerError: this kind of session has no such view (the default).
        """
        raise ControllerError(f"a {type(self).__name__} can't leave out a part of its cache; read can.sparse first")


class SparseSession(Session):
    """A sequence that sees only a part of its past: the part that the first row fed to it chooses."""

    @property
    @abstractmethod
    def least(self) -> int:
        """Fewest tokens that a rollback can leave."""

    @abstractmethod
    def renew(self) -> None:
        """Take over the tokens that the whole sequence holds now; the next row sees them all and chooses anew."""


@dataclass(slots=True)
class Clock:
    """A place for the duration of the last forward that was requested with it."""

    seconds: float | None = None
    """None before the first forward, and where the forward was shared with other requests."""
    sharing: int = 1
    """Requests that the last forward served."""
    alone: bool = False
    """The forward must serve this request only, so that its time is known."""


class Decode(NamedTuple):
    """A request for one forward: feed `pending`, verify `draft` after it, and give the rows."""

    session: Session
    """The sequence to feed."""
    pending: Sequence[int]
    """Tokens to commit; at least one."""
    draft: Draft = NO_DRAFT
    """Proposed tokens after the pending ones; `Session.keep` commits a path of them."""
    layers: tuple[int, ...] = ()
    """Blocks whose output will be read from the Step."""
    clock: Clock | None = None
    """Set by whoever runs the forward."""


Asking: TypeAlias = Generator[Decode, Step, T]
"""What asks for forwards and has a result: it yields Decodes, is sent their Steps and returns a T."""


class Memory(NamedTuple):
    """Memory that sessions may take on one engine."""

    place: str
    """The device. Engines of one place share its memory."""
    free: int | None
    """Bytes that are free there. None: unknown."""
    caches: int
    """Most bytes that the sessions' caches take beyond what the engine holds; 0 where it has all of it already."""


class Engine(ABC):
    """A model's weights and its forward pass."""

    batch: int = 1
    """Most requests that one `forward` takes."""
    room: int = UNLIMITED
    """Tokens that its cache holds over all sessions; the same for as long as the engine is open."""
    longest: int = UNLIMITED
    """Tokens of one session, a draft's included, whatever room there is; the same for as long as the engine is open."""
    most_sessions: int = UNLIMITED
    """Sessions that can be open at once, forks included; the same for as long as the engine is open."""
    loaded_bytes: int = 0
    """Bytes that loading the model took of this process's own memory; as many in each other process. 0 = unknown."""
    cuts: int = UNLIMITED
    """Most drafted tokens of which any number can be rejected, and nothing is fed again for it; 0 on most states."""

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine.

        Engines of one identity share measured costs, in this process and in the user's cache folder. "" (the
        default): this engine's costs are its own, and are forgotten with it.
        """
        return ""

    @property
    def checkpoint_bytes(self) -> int:
        """Most bytes of a checkpoint: a session has one, and another while a draft is verified. 0 = none is needed."""
        return 0

    @abstractmethod
    def session(self) -> Session:
        """An empty sequence."""

    def together(self, requests: Sequence[Decode]) -> int:
        """How many of the first requests one forward takes; at least 1. Default: as many as `batch`."""
        return min(len(requests), self.batch)

    def memory(self, sessions: int, tokens: int) -> Memory:
        """What so many further sessions of so many tokens each may take. Default: nobody knows how much is free."""
        return Memory("", None, 0)

    @abstractmethod
    def forward(self, requests: Sequence[Decode]) -> Sequence[Step]:
        """Run one forward for all requests.

        Args:
            requests: at most as many as `together` says, each of another session of this engine.

        Returns:
            A Step for each request, in order.

        Raises:
            ControllerError: a request can't be met.

        Whatever a forward of several requests fails with, every session is as it was before. So the requests can be
        made again one by one, and only the loop at fault ends.
        """


@dataclass(frozen=True, slots=True)
class Need:
    """The room that a run may take on one engine, from its first token to its last."""

    engine: Engine
    """Whose room."""
    tokens: int
    """Most tokens in the cache at once, over all of the run's sessions."""
    sessions: int = 1
    """Most sessions at once: its own, and those that it forks or opens."""
