"""Grammars matched against a tokenizer's tokens by xgrammar, for both backends alike.

Owns the way from (id, bytes) pairs to masks; the stage that uses them is the controller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.core.tokenizer import Kind, Matcher

from .extras import require

_PREFIX = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


class Compiler:
    """Compiles grammars for one tokenizer, each once.

    spellings: (id, bytes) of every token that a grammar's text may be spelt with; control tokens are not among them.
    """

    def __init__(self, spellings: Callable[[], Iterable[tuple[int, bytes]]]) -> None:
        self._spellings = spellings
        self._compilers: dict[frozenset[int], Any] = {}
        self._compiled: dict[tuple[str, Kind, frozenset[int]], Any] = {}

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Position:
        """The beginning of a grammar; see `Tokenizer.matcher`."""
        xgrammar = _xgrammar()
        found = self._compiled.get((text, kind, eos))
        if found is None:
            try:
                of = xgrammar.Grammar.from_json_schema if kind == "schema" else xgrammar.Grammar.from_ebnf
                found = self._compiler(eos).compile_grammar(of(text))
            except RuntimeError as error:
                why = _PREFIX.sub("", str(error)).strip().replace("\n", " ")
                raise ControllerError(f"grammar can't be read: {why}") from None
            self._compiled[text, kind, eos] = found
        return Position(xgrammar.GrammarMatcher(found), found.tokenizer_info.vocab_size, eos)

    def _compiler(self, eos: frozenset[int]) -> Any:
        """Knows the tokens; making it takes most of the time for a large vocabulary."""
        if eos not in self._compilers:
            xgrammar = _xgrammar()
            spelt = dict(self._spellings())
            size = max([*spelt, *eos]) + 1
            # Ids without bytes count as special tokens there: never allowed.
            pieces = [b"" if token in eos else spelt.get(token, b"") for token in range(size)]
            known = xgrammar.TokenizerInfo(
                pieces, vocab_type=xgrammar.VocabType.RAW, vocab_size=size, stop_token_ids=sorted(eos)
            )
            self._compilers[eos] = xgrammar.GrammarCompiler(known, max_threads=1)
        return self._compilers[eos]


class Position(Matcher):
    """A place in a grammar; its xgrammar matcher is never changed once it is a place's."""

    def __init__(self, matcher: Any, size: int, eos: frozenset[int]) -> None:
        self._matcher = matcher
        self._size = size
        self._eos = eos

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Shape (size,): the end of the sequence where the grammar is complete, and tokens that go on with it."""
        words = np.full((1, -(-self._size // 32)), -1, dtype=np.int32)
        self._matcher.fill_next_token_bitmask(words)
        return np.unpackbits(words.view(np.uint8)[0], count=self._size, bitorder="little").astype(bool)

    def after(self, token: int) -> Position | None:
        """The place behind a token; the end of the sequence leaves the grammar where it is."""
        if token in self._eos:
            return self if self.allowed()[token] else None
        matcher = self._matcher.fork()
        if not matcher.accept_token(token):
            return None
        return Position(matcher, self._size, self._eos)


def _xgrammar() -> Any:
    require("grammar", "xgrammar")
    import xgrammar

    return xgrammar
