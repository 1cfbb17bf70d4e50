"""JSON schemas of requests, checked before they govern a run: they are somebody else's, and may cost anything."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from reasonctl.controller.core import ForkedCalls

from ..extras import missing
from ..model import Model
from .limits import ServerLimits
from .refusals import invalid

MOST_KNOWN = 256
"""Schemas whose cost is remembered."""


class Grammars:
    """Compiles each schema first in a process that is bounded in time and memory; then here, where runs find it."""

    def __init__(self, model: Model, limits: ServerLimits) -> None:
        self._model = model
        self._limits = limits
        self._calls: ForkedCalls | None = None
        self._known: OrderedDict[str, None] = OrderedDict()

    def checked(self, schema: dict[str, Any] | str | None, place: str) -> str | None:
        """A schema as the source of a grammar.

        Args:
            schema: The schema; None: none is asked for.
            place: The field that holds it, for errors.

        Raises:
            Refusal: It is too large, costs too much, or is no schema.
        """
        if schema is None:
            return None
        source = schema if isinstance(schema, str) else json.dumps(schema)
        if len(source.encode()) > self._limits.grammar_bytes:
            raise invalid(
                f"{place} takes {len(source):,} bytes; at most {self._limits.grammar_bytes:,} are read", place
            )
        if why := missing("grammar"):
            raise invalid(f"{place}: the server has no grammars; {why}", place)
        if source not in self._known:
            answer = self._forked().call({"schema": source})
            if "error" in answer:
                raise invalid(f"{place} can't be used: {answer['error']}", place)
        self._model.tokenizer.matcher(source, "schema", self._model.eos)
        self._known[source] = None
        self._known.move_to_end(source)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return source

    def close(self) -> None:
        """End the process that checks."""
        if self._calls is not None:
            self._calls.close()

    def _forked(self) -> ForkedCalls:
        if self._calls is None:
            pieces = [(token, piece.hex()) for token, piece in self._model.tokenizer.pieces()]
            first = {"pieces": pieces, "eos": sorted(self._model.eos)}
            self._calls = ForkedCalls("reasonctl.backends.server.grammar_forked", first)
        return self._calls
