"""Grammars matched against a tokenizer's tokens by xgrammar, for every backend.

A backend's tokenizer gives (id, bytes) pairs to a `Compiler` and gets positions in a grammar back. The stage that masks
logits with them is the controller's.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Kind, Matcher

from .extras import require

MOST_GRAMMARS = 64
"""Compiled grammars that a tokenizer keeps; the one that was used least recently goes."""
_PREFIX = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


class Compiler:
    """Compiles grammars for one tokenizer, and keeps the last ones. Threads may share it."""

    def __init__(self, spellings: Callable[[], Iterable[tuple[int, bytes]]]) -> None:
        """`spellings` gives (id, bytes) of every token that may spell a grammar's text: no control tokens."""
        self._spellings = spellings
        self._compilers: dict[frozenset[int], Any] = {}
        self._compiled: OrderedDict[tuple[str, Kind, frozenset[int]], Any] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Position:
        """The beginning of a grammar; see `Tokenizer.matcher`."""
        xgrammar = _xgrammar()
        with self._lock:
            found = self._compiled.get((text, kind, eos))
        if found is None:
            try:
                of = xgrammar.Grammar.from_json_schema if kind == "schema" else xgrammar.Grammar.from_ebnf
                found = self._compiler(eos).compile_grammar(of(text))
            except RuntimeError as error:
                why = _PREFIX.sub("", str(error)).strip().replace("\n", " ")
                raise ControllerError(f"grammar can't be read: {why}") from None
        with self._lock:
            self._compiled[text, kind, eos] = found
            self._compiled.move_to_end((text, kind, eos))
            while len(self._compiled) > MOST_GRAMMARS:
                self._compiled.popitem(last=False)
        return Position(xgrammar.GrammarMatcher(found), found.tokenizer_info.vocab_size, eos)

    def _compiler(self, eos: frozenset[int]) -> Any:
        """xgrammar's compiler for these end tokens; making it takes most of the time for a large vocabulary."""
        if eos not in self._compilers:
            xgrammar = _xgrammar()
            spelt = dict(self._spellings())
            size = max([*spelt, *eos]) + 1
            # xgrammar takes ids without bytes for special tokens, which are never allowed.
            pieces = [b"" if token in eos else spelt.get(token, b"") for token in range(size)]
            known = xgrammar.TokenizerInfo(
                pieces, vocab_type=xgrammar.VocabType.RAW, vocab_size=size, stop_token_ids=sorted(eos)
            )
            self._compilers[eos] = xgrammar.GrammarCompiler(known, max_threads=1, cache_enabled=False)
        return self._compilers[eos]


class Position(Matcher):
    """A position in a grammar. Its xgrammar matcher never changes: `after` moves a copy."""

    def __init__(self, matcher: Any, size: int, eos: frozenset[int]) -> None:
        self._matcher = matcher
        self._size = size
        self._eos = eos

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Shape (size,): tokens that go on with the grammar; end tokens where it is complete."""
        words_needed = (self._size + 31) // 32
        words = np.full((1, words_needed), -1, dtype=np.int32)
        self._matcher.fill_next_token_bitmask(words)
        return np.unpackbits(words.view(np.uint8)[0], count=self._size, bitorder="little").astype(bool)

    def after(self, token: int) -> Position | None:
        """The position after a token, None where it isn't allowed; an end token doesn't move it."""
        if token in self._eos:
            return self if self.allowed()[token] else None
        matcher = self._matcher.fork()
        if not matcher.accept_token(token):
            return None
        return Position(matcher, self._size, self._eos)


def grammar_of(grammar: object, response_format: object) -> str | None:
    """What a call wants its answer to be, as the source of a `Grammar`; None: anything.

    >>> grammar_of(None, {"type": "json_object"})
    '{"type": "object"}'

    Args:
        grammar: EBNF (GBNF) or a JSON schema, or a file that holds one.
        response_format: As in OpenAI's API and in llama-cpp-python: {"type": "json_object"}, with a "schema" or
            without, or {"type": "json_schema", "json_schema": {"schema": ...}}.

    Raises:
        ControllerError: Both are given, or one of them is something else.
    """
    if grammar is not None and response_format is not None:
        raise ControllerError("grammar and response_format were both given; leave one of them out")
    if grammar is not None and not isinstance(grammar, str):
        raise ControllerError(f"grammar is {type(grammar).__name__}; give EBNF, a JSON schema or a file as text")
    if grammar is not None or response_format is None:
        return grammar
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if isinstance(response_format, dict) and kind == "json_object":
        return json.dumps(response_format.get("schema") or {"type": "object"})
    if isinstance(response_format, dict) and kind == "json_schema":
        inner = response_format.get("json_schema")
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
            return json.dumps(inner["schema"])
    if kind == "text":
        return None
    raise ControllerError(
        f"response_format is {response_format!r:.60}; give {{'type': 'json_object'}} or "
        "{'type': 'json_schema', 'json_schema': {'schema': {...}}}"
    )


def _xgrammar() -> Any:
    require("grammar", "xgrammar")
    import xgrammar

    return xgrammar
