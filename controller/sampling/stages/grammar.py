"""A grammar as a constraint: every drawn token can be continued to a text of the grammar.

The run's tokenizer, which knows the bytes of its tokens, matches them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ControllerError
from ...core.text_form import shown
from ...core.tokenizer import Kind, Matcher
from ..candidates import Candidates
from ..draw import Row, RunContext
from ..stage import Stage

_SHOWN = 40
_ROOT = re.compile(r"^\s*root\s*::=", re.MULTILINE)


@dataclass(frozen=True)
class Grammar(Stage):
    """Only texts of a grammar: EBNF as llama.cpp writes it (GBNF, from the rule `root`), or a JSON schema.

    It governs what is written from the first token that the stage sees: all of the run, or in `think: ... ; answer:
    grammar(...)` the answer. The end of the sequence is allowed where the grammar is complete. The state is a place in
    the grammar and the number of tokens before it.
    """

    name = "grammar"
    kind = "constraint"
    stateful = True
    reads_text = True
    one_answer = True
    drafts = False  # it takes every token that it sees for a written one
    source: str
    """The grammar itself, or a file that holds it."""
    text: str = field(init=False, compare=False, repr=False)
    """The grammar, read once: a file that changes doesn't change a policy."""
    language: Kind = field(init=False, compare=False, repr=False)
    """What it is written in."""

    def __post_init__(self) -> None:
        text = _read(self.source)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "language", _language(text, self.source))

    def check_run(self, context: RunContext) -> None:
        self._begin(context)

    def step(self, state: Any, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        matcher, seen = state or (self._begin(row.context), len(row.tokens))
        for token in row.tokens[seen:]:  # written without having been drawn here: an exit's suffix, a wrap-up
            matcher = matcher.after(token)
            if matcher is None:
                raise ControllerError(
                    f"grammar {self._short} doesn't admit the forced token {token}; give the grammar to the answer "
                    "only (think: ... ; answer: grammar(...)), or leave out what forces it"
                )
        allowed, logits = matcher.allowed(), np.full_like(candidates.logits, -np.inf)
        inside = np.flatnonzero(allowed[: len(logits)])
        logits[inside] = candidates.logits[inside]
        return (matcher, len(row.tokens)), Candidates(logits)

    def accept(self, state: Any, candidates: Candidates, token: int) -> Any:
        matcher, seen = state
        return matcher.after(token), seen + 1

    def _begin(self, context: RunContext) -> Matcher:
        return context.read(self.name).matcher(self.text, self.language, context.eos)

    @property
    def _short(self) -> str:
        return repr(self.source if len(self.source) <= _SHOWN else self.source[: _SHOWN - 3] + "...")


def _read(source: str) -> str:
    """The grammar's text: the source itself, or what its file holds."""
    if "::=" in source or source.lstrip().startswith("{"):
        return source
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "can't be read as a file"
        raise ControllerError(
            f'grammar {shown(source)} {why}; give a file, "root ::= ..." or a JSON schema {{"type": ...}}'
        ) from None


def _language(text: str, source: str) -> Kind:
    """What the text is written in. Raises ControllerError for what is visibly neither."""
    if text.lstrip().startswith("{"):
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ControllerError(f"grammar {source[:_SHOWN]!r} is a broken JSON schema: {error}") from None
        return "schema"
    if not _ROOT.search(text):
        raise ControllerError(f"grammar {source[:_SHOWN]!r} has no rule named root; begin it with: root ::= ...")
    return "ebnf"
