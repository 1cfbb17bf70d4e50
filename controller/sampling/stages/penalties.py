"""Penalties and bans: constraints on the model's own logits, from the tokens so far. They come first in a chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..candidates import Candidates
from ..draw import Row
from ..stage import Pure, require

_DRY_BREAKERS = ("\n", ":", '"', "*")
_DRY_MOST = 1e30
"""No penalty is a ban: what a grammar leaves may have to be repeated. llama.cpp's is infinite beyond float32."""


class Constraint(Pure):
    """Changes the model's own logits."""

    kind = "constraint"


@dataclass(frozen=True)
class Penalties(Constraint):
    """Repetition (Keskar et al. 2019), frequency and presence penalties over the last tokens."""

    name = "penalties"
    repeat: float = 1.0
    """Divides positive logits of seen tokens and multiplies others; 1 is off."""
    frequency: float = 0.0
    """Subtracted for each occurrence; 0 is off."""
    presence: float = 0.0
    """Subtracted once from every seen token; 0 is off."""
    last_n: int = 0
    """The number of last tokens that count; 0 for all."""
    prompt: bool = True
    """The prompt's tokens count, as in transformers; they don't in llama-cpp-python."""
    skip: int = 0
    """The number of first tokens that never count."""

    def __post_init__(self) -> None:
        require(0.0 < self.repeat < math.inf, "penalties' repeat", self.repeat, "above 0 (1 = off)")
        for name, value in (("frequency", self.frequency), ("presence", self.presence)):
            require(math.isfinite(value), f"penalties' {name}", value, "a finite number (0 = off)")
        require(self.last_n >= 0, "penalties' last_n", self.last_n, "0 (all) or more")
        require(self.skip >= 0, "penalties' skip", self.skip, "0 or more")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        first = max(self.skip, row.context.unread if self.prompt else row.context.start)
        if self.last_n:
            first = max(first, len(row.tokens) - self.last_n)
        recent = row.tokens[first:]
        if not recent:
            return candidates
        ids, counts = np.unique(np.asarray(recent), return_counts=True)
        fits = ids < len(candidates.logits)
        ids, counts = ids[fits], counts[fits]
        logits = candidates.logits.copy()
        real = logits.dtype.type
        values = logits[ids]
        values = np.where(values <= 0, values * real(self.repeat), values / real(self.repeat))
        logits[ids] = values - counts.astype(logits.dtype) * real(self.frequency) - real(self.presence)
        return Candidates(logits)


@dataclass(frozen=True)
class LogitBias(Constraint):
    """Adds to the logits of tokens."""

    name = "logit_bias"
    bias: tuple[tuple[int, float], ...]
    """(token id, what is added) each; -Infinity bans the token."""

    def __post_init__(self) -> None:
        require(all(b < math.inf for _, b in self.bias), "logit_bias", self.bias, "finite numbers or -Infinity")
        require(all(token >= 0 for token, _ in self.bias), "logit_bias", self.bias, "of token ids from 0 on")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        logits = candidates.logits.copy()
        for token, bias in self.bias:
            require(token < len(logits), "logit_bias's token", token, f"below the vocabulary's {len(logits)}")
            logits[token] += bias
        return Candidates(logits)


@dataclass(frozen=True)
class BadWords(Constraint):
    """Token sequences that are never completed."""

    name = "bad_words"
    words: tuple[tuple[int, ...], ...]
    """Each as token ids."""

    def __post_init__(self) -> None:
        require(all(self.words) and bool(self.words), "bad_words", self.words, "lists of one token id or more")
        require(all(min(word) >= 0 for word in self.words), "bad_words", self.words, "of token ids from 0 on")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        largest, size = max(word[-1] for word in self.words), len(candidates.logits)
        require(largest < size, "bad_words's token", largest, f"below the vocabulary's {size}")
        ended = [
            word[-1] for word in self.words if len(word) == 1 or tuple(row.tokens[-(len(word) - 1) :]) == word[:-1]
        ]
        return _banned(candidates, ended)


@dataclass(frozen=True)
class MinNewTokens(Constraint):
    """No end of sequence before n tokens were generated."""

    name = "min_new_tokens"
    n: int
    """The number of tokens after the prompt."""

    def __post_init__(self) -> None:
        require(self.n >= 0, "min_new_tokens", self.n, "0 or more")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        if len(row.tokens) - row.context.start >= self.n:
            return candidates
        # An end that has no row in the model can't be drawn: -1 and the like switch it off in calls.
        return _banned(candidates, [token for token in row.context.eos if 0 <= token < len(candidates.logits)])


@dataclass(frozen=True)
class DRY(Constraint):
    """Don't repeat yourself: penalises tokens that would prolong a repetition, as in llama.cpp.

    A token after a repeated sequence of length n >= allowed_length loses multiplier * base^(n - allowed_length).
    """

    name = "dry"
    reads_text = True
    multiplier: float = 0.8
    """Of the penalty; 0 is off."""
    base: float = 1.75
    """How the penalty grows with every repeated token."""
    allowed_length: int = 2
    """The shortest sequence whose repetition is penalised, in tokens."""
    last_n: int = 0
    """The number of last tokens that are searched; 0 for all."""
    breakers: tuple[str, ...] = _DRY_BREAKERS
    """Texts that end a sequence. A breaker that is spread over several tokens isn't seen."""

    def __post_init__(self) -> None:
        require(0.0 <= self.multiplier < math.inf, "dry's multiplier", self.multiplier, "0 (off) or more")
        require(1.0 <= self.base < math.inf, "dry's base", self.base, "at least 1")
        require(self.allowed_length >= 1, "dry's allowed_length", self.allowed_length, "at least 1")
        require(self.last_n >= 0, "dry's last_n", self.last_n, "0 (all) or more")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        longest = self.repeats(row) if self.multiplier else {}
        if not longest:
            return candidates
        logits = candidates.logits.copy()
        # Beyond this power llama.cpp's float32 would overflow.
        most = 88.7228391 / math.log(self.base) if self.base > 1.000001 else math.inf
        for token, length in longest.items():
            if token < len(logits):
                power = min(length - self.allowed_length, int(min(most, 1e9)))
                logits[token] -= min(self.multiplier * self.base**power, _DRY_MOST)
        return Candidates(logits)

    def repeats(self, row: Row) -> dict[int, int]:
        """By token that would go on with a repetition: the length of the longest one that it would prolong."""
        first = max(row.context.unread, len(row.tokens) - self.last_n if self.last_n else 0)
        back = list(row.tokens[first:])[::-1]
        breaks = self._breaks(row)
        reach = next((n for n, token in enumerate(back) if breaks(token)), len(back))
        if reach < self.allowed_length:
            return {}
        longest: dict[int, int] = {}
        for at, n in common_prefixes(back, reach):
            token = back[at - 1]
            if n >= self.allowed_length and n > longest.get(token, 0) and not breaks(token):
                longest[token] = n
        return longest

    def _breaks(self, row: Row) -> Callable[[int], bool]:
        """Whether a token ends a sequence; it is never penalised itself."""
        read = row.context.read("dry").text
        known: dict[int, bool] = row.context.known.setdefault((self.name, self.breakers), {})

        def breaks(token: int) -> bool:
            if token not in known:
                text = read(token)
                known[token] = any(breaker in text for breaker in self.breakers)
            return known[token]

        return breaks


def common_prefixes(tokens: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Where the beginning of a sequence comes again: its Z-function.

    Every token is compared successfully once, so that repetitive texts take no longer than others.

    Args:
        tokens: the sequence.
        most: the longest prefix of interest.

    Yields:
        (i, n) for each i > 0 where n > 0: tokens[i:] begins with the first n tokens, n at most `most`.

    >>> list(common_prefixes([7, 7, 7, 5, 7, 7], 9))
    [(1, 2), (2, 1), (4, 2), (5, 1)]
    """
    found, left, right = [0] * len(tokens), 0, 0  # tokens[left:right] is the known prefix that ends last
    for i in np.flatnonzero(np.asarray(tokens) == tokens[0])[1:].tolist() if len(tokens) else ():
        n = min(found[i - left], right - i) if i < right else 0
        while n < most and i + n < len(tokens) and tokens[n] == tokens[i + n]:
            n += 1
        found[i] = n = min(n, most)
        if i + n > right:
            left, right = i, i + n
        yield i, n


def _banned(candidates: Candidates, tokens: list[int]) -> Candidates:
    if not tokens:
        return candidates
    logits = candidates.logits.copy()
    logits[tokens] = -np.inf
    return Candidates(logits)
