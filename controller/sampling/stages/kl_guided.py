"""KL-guided temperature: a second decode without the source text says how much a token depends on it.

After google-research/kl_guided_sampling: T = t0 * 2^(-KL / sigma), with KL(p || q) in nats, p the distribution with the
source and q the one without it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.decode import ROOT, Decode, Floats, Session, Step, common_prefix
from ...core.errors import ControllerError
from ...core.tokenizer import Tokenizer
from ..candidates import Candidates
from ..draw import Row, RunContext
from ..stage import Stage, require

_LEAST = 1e-7
"""Probabilities are clipped below at this."""


@dataclass(frozen=True)
class KLGuided(Stage):
    """Cooler where the token depends on `source`, a text that the prompt holds; t0 where it doesn't.

    It costs a second forward per token and a second cache. It compares the model's own two distributions at
    temperature 1, over the tokens that the constraints allow: penalties and biases change neither. The second
    distribution is without every occurrence of the source in the prompt.
    """

    name = "kl_guided"
    kind = "temperature"
    stateful = True
    needs_forwards = True
    reads_text = True
    drafts = False  # its second forward is the target's
    source: str
    """A text of the prompt, as it stands there."""
    t0: float = 1.0
    """The temperature of a token that doesn't depend on the source."""
    sigma: float = 1.0
    """The KL, in nats, that halves the temperature."""

    def __post_init__(self) -> None:
        require(bool(self.source), "kl_guided's source", repr(self.source), "a text that the prompt holds")
        require(0.0 < self.t0 < math.inf, "kl_guided's t0", self.t0, "above 0 (for 0 use greedy)")
        require(0.0 < self.sigma < math.inf, "kl_guided's sigma", self.sigma, "above 0 nats")

    def start(self) -> Any:
        return _Without(self.source), None

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        without: _Without = state[0]
        return without, (yield from without.row(row.tokens, row.context))

    def step(self, state: Any, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        without, other = state
        if other is None:
            raise ControllerError("kl_guided needs a second forward per token, which this caller doesn't make")
        raw = np.where(candidates.whole.logits > -np.inf, row.raw, -np.inf)
        return (without, None), candidates.tempered(self.temperature(Candidates(raw), other))

    def end(self, state: Any) -> None:
        state[0].close()

    def extra_sequences(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        spans = source_spans(tokenizer, prompt, self.source)
        return (len(prompt) - sum(end - first for first, end in spans),)

    def temperature(self, candidates: Candidates, without: Floats) -> float:
        """The temperature of a row.

        Args:
            candidates: the model's own row, masked by the constraints.
            without: shape (vocabulary,), logits without the source.
        """
        return self.t0 * math.pow(2.0, -divergence(candidates, without) / self.sigma)


def divergence(candidates: Candidates, without: Floats) -> float:
    """KL(candidates || softmax(without)) in nats, over the candidates; probabilities are clipped at 1e-7."""
    other = Candidates(np.where(candidates.logits > -np.inf, without, -np.inf))
    p = np.clip(candidates.weights / candidates.mass, _LEAST, 1.0).astype(np.float64)
    q = np.clip(other.weights / other.mass, _LEAST, 1.0).astype(np.float64)
    return max(float(p @ (np.log(p) - np.log(q))), 0.0)


class _Without:
    """The run's tokens less the source, on a session of its own. A cache only: its rows depend on the tokens alone."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._kept: list[int] | None = None
        self._session: Session | None = None
        self._fed: list[int] = []

    def row(self, tokens: Sequence[int], context: RunContext) -> Generator[Decode, Step, Floats]:
        """Logits after `tokens`, shape (vocabulary,); a copy."""
        if self._kept is None:
            prompt = tokens[: context.start]
            spans = source_spans(context.read("kl_guided"), prompt, self._source)
            self._kept = [t for i, t in enumerate(prompt) if not any(first <= i < end for first, end in spans)]
        wanted = [*self._kept, *tokens[context.start :]]
        if not wanted:
            raise ControllerError("kl_guided: the prompt is nothing but its source; add an instruction to it")
        session = self._at(min(common_prefix(self._fed, wanted), len(wanted) - 1), context)
        step = yield Decode(session, wanted[session.length :])
        self._fed = wanted
        logits = step.logits(ROOT).copy()
        session.keep(())
        return logits

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None
        self._fed = []

    def _at(self, length: int, context: RunContext) -> Session:
        """The session with its first `length` tokens, or an empty one where the cache can't forget so many."""
        if self._session is not None and length < self._session.least:
            self.close()
        if self._session is None:
            if context.engine is None:
                raise ControllerError("kl_guided needs the model for a second forward; run it through a Controller")
            self._session = context.engine.session()
        if length < self._session.length:
            self._session.rollback(self._session.length - length)
        return self._session


def source_spans(tokenizer: Tokenizer, prompt: Sequence[int], source: str) -> list[tuple[int, int]]:
    """(first, end) each: the prompt's tokens that hold a part of `source`, wherever it stands.

    Raises ControllerError if it isn't there.
    """
    text = tokenizer.decode(prompt)
    if source not in text:
        raise ControllerError(f"kl_guided's source {source[:40]!r} isn't in the prompt; give it as it stands there")

    def tokens_within(characters: int) -> int:
        """Most first tokens whose text has at most so many characters."""
        low, high = 0, len(prompt)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(tokenizer.decode(prompt[:middle])) <= characters else (low, middle - 1)
        return low

    spans, at = list[tuple[int, int]](), text.find(source)
    while at >= 0:
        last = at + len(source)
        end = tokens_within(last)
        whole = len(tokenizer.decode(prompt[:end])) >= last
        spans.append((tokens_within(at), end if whole else end + 1))
        at = text.find(source, last)
    return spans
