"""A prefix trie of texts in a model's tokens: where they go on in several ways, and in which.

Owns reading and counting; equal_risk.py measures what a sampler keeps at these places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.controller.core import Floats

from ..runs.job_file import START
from ..runs.run_file import RunFile
from ..runs.teacher_forced import forced_rows
from ..tasks.texts import read

LONGEST = 128
"""Tokens of one text that are read."""

_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Fork:
    """A prefix that was continued in two ways or more."""

    before: tuple[int, ...]
    """Tokens that precede the text: a prompt, or BOS."""
    prefix: tuple[int, ...]
    """Tokens of the text that these continuations share."""
    tokens: frozenset[int]
    """The tokens that come next."""
    count: int
    """Number of texts that begin so."""


@dataclass
class _Node:
    """A prefix of some texts."""

    count: int = 0
    """Number of texts that begin so."""
    children: dict[int, _Node] = field(default_factory=dict)
    """The prefixes that are one token longer, by that token."""


class PrefixTrie:
    """Texts by their tokens, each under what precedes it.

    >>> trie = PrefixTrie()
    >>> for text in ((5, 6, 7), (5, 6, 8), (5, 9)):
    ...     trie.add((), text)
    >>> [(fork.prefix, sorted(fork.tokens), fork.count) for fork in trie.forks(10)]
    [((5,), [6, 9], 3), ((5, 6), [7, 8], 2)]
    """

    def __init__(self) -> None:
        self.roots: dict[tuple[int, ...], _Node] = {}
        self.texts = 0

    def add(self, before: Sequence[int], tokens: Sequence[int]) -> None:
        """Count one text: its first LONGEST tokens."""
        node = self.roots.setdefault(tuple(before), _Node())
        self.texts += 1
        for token in tokens[:LONGEST]:
            node.count += 1
            node = node.children.setdefault(token, _Node())
        node.count += 1

    def forks(self, most: int) -> list[Fork]:
        """The most visited prefixes with two continuations or more; ties in order of the prefix."""
        found = [fork for before, root in self.roots.items() for fork in _forks(before, root)]
        return sorted(found, key=lambda fork: (-fork.count, fork.before, fork.prefix))[:most]


def _forks(before: tuple[int, ...], root: _Node) -> Iterator[Fork]:
    stack = [((), root)] if before else [((token,), child) for token, child in root.children.items()]
    while stack:
        prefix, node = stack.pop()
        if len(node.children) > 1:
            yield Fork(before, prefix, frozenset(node.children), node.count)
        stack += [((*prefix, token), child) for token, child in node.children.items()]


def text_trie(model: Model, paths: Sequence[str]) -> PrefixTrie:
    """The sentences of text files, of .jsonl files of {"text"}, or of collected runs. Raises ControllerError."""
    trie = PrefixTrie()
    for text in own_texts(paths):
        for sentence in _END.split(text):
            if sentence.strip():
                trie.add(model.start, model.tokenizer.encode(sentence.strip()))
    return trie


def check_files(paths: Sequence[str]) -> None:
    """Raises ControllerError for the first that is no file."""
    missing = [name for name in paths if not Path(name).is_file()]
    if missing:
        raise ControllerError(
            f"{missing[0]} is no file; give text files, .jsonl files of {{'text'}}, or P.safetensors.runs.jsonl"
        )


def own_texts(paths: Sequence[str]) -> Iterator[str]:
    """The texts of files as `text_trie` takes them; of collected runs, what the model wrote."""
    for name in paths:
        with Path(name).open("rb") as file:
            collected = file.read(len(START)) == START
        yield from (record.text for record in RunFile(Path(name), {}).read()) if collected else read([name])


def fork_rows(model: Model, forks: Iterable[Fork]) -> dict[Fork, Floats]:
    """The logits at each fork, shape (vocabulary,): teacher-forced, forks on one path share its forward."""
    wanted = {(*fork.before, *fork.prefix): fork for fork in forks}
    found: dict[Fork, Floats] = {}
    for tokens, last in sorted(wanted.items(), key=lambda item: -len(item[0])):
        if last in found:
            continue
        fed = max(len(last.before), 1)
        # The row after the last fork needs one more token, which is never fed: any continuation will do.
        path = [*tokens[fed:], min(last.tokens)]
        for i, row in enumerate(forced_rows(model, tokens[:fed], path)):
            fork = wanted.get(tokens[: fed + i])
            if fork is not None and fork not in found:
                found[fork] = row.logits
    return {fork: found[fork] for fork in wanted.values()}
