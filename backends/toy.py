"""An exact n-gram language model with known probabilities, for tests and documentation.

No user's model runs here. Its logits are log-probabilities, so the exact distribution of what the loop should write
can be computed and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from weakref import WeakSet

import numpy as np

from reasonctl.controller import (
    NO_DRAFT,
    Capabilities,
    ControllerError,
    Decode,
    Draft,
    Engine,
    Session,
    Step,
    Tokenizer,
)
from reasonctl.controller.core import UNLIMITED, Floats, Kind, Matcher

from .grammar import Compiler


class ToyEngine(Engine):
    """A Markov chain of a given order over `vocabulary` tokens; batches any number of sessions by default.

    Its "hidden state" of layer k at a token is [token, position, k]: a test can tell rows apart.
    """

    batch = UNLIMITED
    identity: str = ""
    """Its forwards cost nothing that is worth keeping; a test may set another one."""
    layers = 3
    """Blocks whose "hidden state" can be read."""

    def __init__(
        self,
        *,
        vocabulary: int,
        order: int = 1,
        seed: int = 0,
        concentration: float = 0.7,
        batch: int = UNLIMITED,
        room: int = UNLIMITED,
        most_sessions: int = UNLIMITED,
    ) -> None:
        if order < 1 or vocabulary < 2:
            raise ControllerError(f"a toy model needs order >= 1 and vocabulary >= 2, not {order} and {vocabulary}")
        self.vocabulary = vocabulary
        self.order = order
        rng = np.random.default_rng(seed)
        self.table = rng.dirichlet([concentration] * vocabulary, size=vocabulary**order)
        """Shape (vocabulary**order, vocabulary): the probabilities of the next token after each context."""
        self.batch = batch
        self.room = room
        self.most_sessions = most_sessions
        self.forwards = 0
        self.open: WeakSet[ToySession] = WeakSet()
        """Sessions that aren't closed."""

    def probs(self, tokens: Sequence[int]) -> Floats:
        """Shape (vocabulary,): the exact probabilities of the token after `tokens`."""
        row = 0
        for token in [0] * self.order + list(tokens[-self.order :]):
            row = (row * self.vocabulary + token) % len(self.table)
        probs: Floats = self.table[row]
        return probs

    def session(self) -> ToySession:
        """An empty sequence."""
        return ToySession(self, [])

    def forward(self, requests: Sequence[Decode]) -> list[ToyStep]:
        """One forward for all requests."""
        sessions = [request.session for request in requests]
        if len({id(session) for session in sessions}) != len(sessions):
            raise ControllerError("one forward takes one request per session")
        if len(requests) > self.batch:
            raise ControllerError(f"one forward takes {self.batch} requests, not {len(requests)}")
        if not all(request.pending for request in requests):
            raise ControllerError("a Decode needs at least one pending token")
        fed = sum(len(request.pending) + len(request.draft) for request in requests)
        if self.room < UNLIMITED and sum(session.length for session in self.open) + fed > self.room:
            raise ControllerError(f"no room for {fed} more tokens in a cache of {self.room}")
        self.forwards += 1
        return [
            session.feed(r) for session, r in zip(sessions, requests, strict=True) if isinstance(session, ToySession)
        ]


@dataclass
class ToyStep(Step):
    """Rows computed from the tokens on the way to a node."""

    engine: ToyEngine
    forward: int
    committed: tuple[int, ...]
    draft: Draft

    def _tokens(self, node: int) -> tuple[int, ...]:
        if self.engine.forwards != self.forward:
            raise RuntimeError("stale Step: the engine has run another forward since; copy rows before it")
        return self.committed + tuple(self.draft.tokens[i] for i in self.draft.path(node))

    def logits(self, node: int) -> Floats:
        with np.errstate(divide="ignore"):  # what is never written has -inf
            return np.asarray(np.log(self.engine.probs(self._tokens(node))))

    def hidden(self, node: int, layer: int) -> Floats:
        tokens = self._tokens(node)
        return np.array([tokens[-1], len(tokens) - 1, layer], dtype=np.float32)


_EVERYTHING = Capabilities(rollback=True, branches=UNLIMITED, fork=True, layers=0, vocabulary=0)


class ToySession(Session):
    """The tokens themselves are the cache."""

    engine: ToyEngine
    can: Capabilities = _EVERYTHING
    """A test may set less."""

    def __init__(self, engine: ToyEngine, tokens: list[int]) -> None:
        self.engine = engine
        self.tokens = tokens
        self.can = replace(_EVERYTHING, layers=engine.layers, vocabulary=engine.vocabulary)
        self._draft = NO_DRAFT
        if len(engine.open) >= engine.most_sessions:
            raise ControllerError(f"{engine.most_sessions} sessions are open; close one first")
        engine.open.add(self)

    @property
    def length(self) -> int:
        return len(self.tokens)

    def feed(self, request: Decode) -> ToyStep:
        self.tokens.extend(request.pending)
        self._draft = request.draft
        return ToyStep(self.engine, self.engine.forwards, tuple(self.tokens), request.draft)

    def keep(self, path: Sequence[int]) -> None:
        self._draft.check_path(path)
        self.tokens.extend(self._draft.tokens[node] for node in path)
        self._draft = NO_DRAFT

    def rollback(self, n: int) -> None:
        if not 0 <= n <= len(self.tokens):
            raise ControllerError(f"can't roll back {n} of {len(self.tokens)} tokens")
        self._draft = NO_DRAFT
        del self.tokens[len(self.tokens) - n :]

    def fork(self) -> ToySession:
        if self._draft.tokens:
            raise ControllerError("fork after keep: a draft's rows are not committed")
        return ToySession(self.engine, list(self.tokens))

    def close(self) -> None:
        self.tokens = []
        self.engine.open.discard(self)


class ToyTokenizer(Tokenizer):
    """Token i is the i-th of the given texts, or of the given bytes, which may be a part of a character."""

    def __init__(self, texts: Sequence[str | bytes]) -> None:
        self.texts = list(texts)
        self._bytes = [text if isinstance(text, bytes) else text.encode() for text in texts]
        self._grammars = Compiler(self.pieces)

    def bytes_of(self, token: int) -> bytes:
        return self._bytes[token]

    def encode(self, text: str) -> list[int]:
        """Longest match first."""
        tokens: list[int] = []
        rest = text.encode()
        while rest:
            fits = [i for i, piece in enumerate(self._bytes) if piece and rest.startswith(piece)]
            if not fits:
                raise ControllerError(f"the toy vocabulary can't write {rest.decode(errors='replace')!r}")
            best = max(fits, key=lambda i: len(self._bytes[i]))
            tokens.append(best)
            rest = rest[len(self._bytes[best]) :]
        return tokens

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(id, bytes) of every token."""
        return enumerate(self._bytes)

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Matcher:
        """The beginning of a grammar."""
        return self._grammars.matcher(text, kind, eos)
