"""An exact n-gram language model with known probabilities: the backend that statistics are tested on.

Its logits are log-probabilities, so every law that the loop should follow can be written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasonctl.controller import NO_DRAFT, Capabilities, ControllerError, Decode, Draft, Session
from reasonctl.controller.core.decode import Floats
from reasonctl.controller.sampling.stages.grammar import Kind, Matcher

from .grammar import Compiler


class ToyEngine:
    """A Markov chain of a given order over `vocabulary` tokens; batches any number of sessions.

    Its "hidden state" of layer k at a token is [token, position, k]: a test can tell rows apart.
    """

    batch = 1 << 30
    layers = 3
    identity = ""
    """Its forwards cost nothing that is worth keeping."""

    def __init__(self, *, vocabulary: int, order: int = 1, seed: int = 0, concentration: float = 0.7) -> None:
        if order < 1 or vocabulary < 2:
            raise ControllerError(f"a toy model needs order >= 1 and vocabulary >= 2, not {order} and {vocabulary}")
        self.vocabulary, self.order = vocabulary, order
        rng = np.random.default_rng(seed)
        self.table = rng.dirichlet([concentration] * vocabulary, size=vocabulary**order)
        """Shape (vocabulary**order, vocabulary): the law of the next token after each context."""
        self.forwards = 0

    def law(self, tokens: Sequence[int]) -> Floats:
        """Shape (vocabulary,): the exact probabilities of the token after `tokens`."""
        row = 0
        for token in [0] * self.order + list(tokens[-self.order :]):
            row = (row * self.vocabulary + token) % len(self.table)
        law: Floats = self.table[row]
        return law

    def session(self) -> ToySession:
        """An empty sequence."""
        return ToySession(self, [])

    def forward(self, requests: Sequence[Decode]) -> list[ToyStep]:
        """One forward for all requests."""
        self.forwards += 1
        sessions = [request.session for request in requests]
        if len({id(session) for session in sessions}) != len(sessions):
            raise ControllerError("one forward takes one request per session")
        return [
            session.feed(r) for session, r in zip(sessions, requests, strict=True) if isinstance(session, ToySession)
        ]


@dataclass
class ToyStep:
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
        return np.asarray(np.log(self.engine.law(self._tokens(node))))

    def hidden(self, node: int, layer: int) -> Floats:
        tokens = self._tokens(node)
        return np.array([tokens[-1], len(tokens) - 1, layer], dtype=np.float32)


class ToySession:
    """The tokens themselves are the cache."""

    def __init__(self, engine: ToyEngine, tokens: list[int]) -> None:
        self.engine, self.tokens, self._draft = engine, tokens, NO_DRAFT
        self.can = Capabilities(
            rollback=True, branches=1 << 30, fork=True, layers=engine.layers, vocabulary=engine.vocabulary
        )

    @property
    def length(self) -> int:
        return len(self.tokens)

    def feed(self, request: Decode) -> ToyStep:
        if not request.pending:
            raise ControllerError("a Decode needs at least one pending token")
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

    def fork(self) -> Session:
        if self._draft.tokens:
            raise ControllerError("fork after keep: a draft's rows are not committed")
        return ToySession(self.engine, list(self.tokens))

    def close(self) -> None:
        self.tokens = []


class ToyTokenizer:
    """Token i is the i-th of the given texts, or of the given bytes, which may be a part of a character."""

    def __init__(self, texts: Sequence[str | bytes]) -> None:
        self.texts = list(texts)
        self._bytes = [text if isinstance(text, bytes) else text.encode() for text in texts]
        self._grammars = Compiler(lambda: enumerate(self._bytes))

    def text(self, token: int) -> str:
        return self.bytes_of(token).decode(errors="replace")

    def bytes_of(self, token: int) -> bytes:
        return self._bytes[token]

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.bytes_of, tokens)).decode(errors="replace")

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

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Matcher:
        """The beginning of a grammar."""
        return self._grammars.matcher(text, kind, eos)
