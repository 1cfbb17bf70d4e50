"""N-gram databases: of the text so far, of earlier runs, and of a corpus or a model's own outputs kept in a file.

This file stores n-grams and finds them. `hierarchy.py` decides what is drafted from those that were found.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..core.errors import ControllerError
from ..core.json_text import Fields, parse

ORDERS = (3, 2, 1)
"""Lengths of the n-grams that the text so far is searched for, longest first."""
KEPT = 7
"""Most continuations remembered of one n-gram; the newest stay."""
KEY = 2
"""Tokens of a key in `Recent` and `NgramTable`."""
DEPTH = 4
"""Tokens of a continuation in `Recent` and `NgramTable`."""
LONGEST = 32
"""Most tokens before a place that are compared with the end of the text."""
FORMAT = "reasonctl-ngrams-1"
"""Names the file format; a file of another one is refused."""

Ints = npt.NDArray[Any]


class Match(NamedTuple):
    """An earlier occurrence of the text's end."""

    place: int
    """Index of the token that followed it."""
    length: int
    """Matching tokens before the place, LONGEST at most."""


class Context:
    """Where the n-grams of one growing text occur. It takes about 0.5 KB a token.

    The text may also lose tokens at its end and go on with others.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], list[int]] = {}
        self._seen = 0

    def matches(self, tokens: Sequence[int]) -> list[Match]:
        """Earlier occurrences of the text's end, longest match first; KEPT at most.

        The search begins with the longest n-grams, and goes from new places to old ones.
        """
        self._index(tokens)
        found: dict[int, int] = {}
        for order in ORDERS:
            for place in reversed(self._places.get(tuple(tokens[-order:]), ())):
                if len(found) == KEPT:
                    break
                # The text may have lost tokens since this place was indexed.
                if place >= len(tokens) or place in found:
                    continue
                length = _matching(tokens, place)
                if length >= order:
                    found[place] = length
        return sorted((Match(*item) for item in found.items()), key=lambda match: (-match.length, -match.place))

    def _index(self, tokens: Sequence[int]) -> None:
        places = self._places
        for place in range(min(self._seen, len(tokens)), len(tokens)):
            for order in ORDERS:
                if place >= order:
                    key = tuple(tokens[place - order : place])
                    kept = places.get(key)
                    if kept is None:
                        places[key] = [place]
                        continue
                    kept.append(place)
                    if len(kept) > KEPT:
                        del kept[0]
        self._seen = len(tokens)


def _matching(tokens: Sequence[int], place: int) -> int:
    """How many tokens before `place` equal the end of the text."""
    end = len(tokens)
    length = 0
    while length < min(place, LONGEST) and tokens[place - 1 - length] == tokens[end - 1 - length]:
        length += 1
    return length


class Recent:
    """What followed a pair of tokens in earlier runs. When it is full, the least recently used pair goes.

    Args:
        capacity: Most pairs. Each takes 0.3 to 1.8 KB, so the default takes at most 36 MB.

    Raises:
        ControllerError: The capacity is below 1.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        if capacity < 1:
            raise ControllerError(f"an n-gram memory's capacity is {capacity}; it must be at least 1")
        self.capacity = capacity
        self._next: OrderedDict[tuple[str, tuple[int, ...]], list[tuple[int, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._next)

    def add(self, tokens: Sequence[int], vocabulary: str = "") -> None:
        """Remember every pair of `tokens` with the DEPTH tokens after it.

        Args:
            tokens: What a run wrote.
            vocabulary: The name of the vocabulary that the ids belong to. Vocabularies are kept apart.
        """
        for i in range(len(tokens) - KEY - DEPTH + 1):
            key = vocabulary, tuple(tokens[i : i + KEY])
            rest = tuple(tokens[i + KEY : i + KEY + DEPTH])
            kept = self._next.setdefault(key, [])
            if rest in kept:
                kept.remove(rest)
            kept.append(rest)
            del kept[:-KEPT]
            self._next.move_to_end(key)
        while len(self._next) > self.capacity:
            self._next.popitem(last=False)

    def continuations(self, tokens: Sequence[int], vocabulary: str = "") -> list[tuple[int, ...]]:
        """What followed the last pair of `tokens` in this vocabulary, newest first."""
        key = vocabulary, tuple(tokens[-KEY:])
        kept = self._next.get(key)
        if kept is None:
            return []
        self._next.move_to_end(key)
        return list(reversed(kept))


@dataclass(frozen=True)
class NgramTable:
    """The most frequent n-grams of a corpus, or of a model's own outputs; fixed once made."""

    keys: Ints
    """Shape (n,), int64, ascending: each key is two token ids packed into 64 bits."""
    rest: Ints
    """Shape (n, DEPTH), int32: the continuations; those of equal keys stand most frequent first."""
    vocabulary: str
    """The hash of the vocabulary that the token ids belong to; see `vocabulary_hash`."""
    source: str
    """Where the texts come from, for messages."""

    def continuations(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """What followed the last pair of `tokens`, most frequent first; KEPT at most."""
        if len(tokens) < KEY:
            return []
        key = _pack(tokens[-2], tokens[-1])
        start = int(self.keys.searchsorted(key))
        end = start
        while end < min(start + KEPT, len(self.keys)) and self.keys[end] == key:
            end += 1
        return [tuple(row) for row in self.rest[start:end].tolist()]

    @property
    def largest(self) -> int:
        """The largest token id in it."""
        halves = self.keys >> 32, self.keys & 0xFFFFFFFF, self.rest
        return max(int(ids.max()) for ids in halves)

    def megabytes(self) -> float:
        """Size in memory, in megabytes. A file takes about as much."""
        return float(self.keys.nbytes + self.rest.nbytes) / 1e6


def build_table(texts: Iterable[Sequence[int]], *, vocabulary: str, source: str, capacity: int = 100_000) -> NgramTable:
    """Count the n-grams of texts and keep the most frequent ones, at most KEPT for each pair of tokens.

    Args:
        texts: Lists of tokens.
        vocabulary: The hash of the vocabulary that they belong to.
        source: Where they come from, for messages.
        capacity: Most n-grams kept.

    Raises:
        ControllerError: The texts are too short to hold an n-gram.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    for tokens in texts:
        for i in range(len(tokens) - KEY - DEPTH + 1):
            counts[tuple(tokens[i : i + KEY + DEPTH])] += 1
        if len(counts) > 8 * capacity:
            # Lossy counting: the rare ones are dropped, so that memory stays bounded.
            counts = Counter(dict(counts.most_common(4 * capacity)))
    if not counts:
        raise ControllerError(f"the texts are too short for n-grams of {KEY + DEPTH} tokens; give more text")
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:capacity]
    per_key: dict[int, list[tuple[int, ...]]] = {}
    for gram, _ in best:
        kept = per_key.setdefault(_pack(gram[0], gram[1]), [])
        if len(kept) < KEPT:
            kept.append(gram[KEY:])
    order = sorted(per_key)
    keys = np.array([key for key in order for _ in per_key[key]], np.int64)
    rest = np.array([row for key in order for row in per_key[key]], np.int32)
    return NgramTable(keys, rest, vocabulary, source)


def _pack(first: int, second: int) -> int:
    return first << 32 | second


def save_table(path: Path, table: NgramTable, *, force: bool = False) -> None:
    """Write a table to one safetensors file, whole or not at all: two arrays, and a card with their digest.

    Args:
        path: The file.
        table: What is written.
        force: Whether an existing file may be replaced.

    Raises:
        ControllerError: The file exists, or can't be written.
    """
    if path.exists() and not force:
        raise ControllerError(f"{path} exists; give another name, or --force to overwrite it")
    arrays = {"keys": table.keys, "rest": table.rest}
    card = {"format": FORMAT, "vocabulary": table.vocabulary, "source": table.source, "sha256": _digest(table)}
    part = path.with_name(path.name + ".part")
    try:
        save_file(arrays, part, metadata={"card": json.dumps(card, sort_keys=True)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # on a read-only file system even a file that isn't there can't be removed
            part.unlink()
        raise ControllerError(f"can't write {path}: {error}; give a name in a folder with room") from None


def load_table(path: Path) -> NgramTable:
    """Read a table.

    Raises:
        ControllerError: There is no such file, or it is damaged, changed, or of another kind.
    """
    again = "make it again with ctl ngrams"
    if path.is_dir():
        raise ControllerError(f"{path} is a folder; give a file that ctl ngrams made")
    if not path.is_file():
        raise ControllerError(f"{path} does not exist; make it with ctl ngrams")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("card")
            if text is None:
                raise ControllerError(f"{path} is no n-gram database of this version; make one with ctl ngrams")
            card = _card(text, path)
            table = NgramTable(
                file.get_tensor("keys"), file.get_tensor("rest"), card.text("vocabulary"), card.text("source")
            )
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        if isinstance(error, ControllerError):
            raise
        raise ControllerError(f"{path} is damaged or no n-gram database; {again}") from None
    has_shapes = table.keys.shape == (len(table.rest),) and table.rest.shape[1:] == (DEPTH,)
    has_types = table.keys.dtype == np.int64 and table.rest.dtype == np.int32
    if not has_shapes or not has_types or _digest(table) != card.text("sha256"):
        raise ControllerError(f"{path} was changed after it was written; {again}")
    if not len(table.keys) or (np.diff(table.keys) < 0).any() or table.keys[0] < 0 or table.rest.min() < 0:
        raise ControllerError(f"{path} holds no n-grams, unsorted ones or negative token ids; {again}")
    return table


def _card(text: str, path: Path) -> Fields:
    where = f"the card of {str(path)!r}"
    card = Fields.of(parse(text, where), where)
    if card.values.get("format") != FORMAT:
        raise ControllerError(f"{path} is no n-gram database of this version; make one with ctl ngrams")
    return card


def _digest(table: NgramTable) -> str:
    digest = hashlib.sha256(f"{FORMAT} {table.vocabulary} {table.source}\n".encode())
    digest.update(np.ascontiguousarray(table.keys).tobytes())
    digest.update(np.ascontiguousarray(table.rest).tobytes())
    return digest.hexdigest()
