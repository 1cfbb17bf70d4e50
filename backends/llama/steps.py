"""The rows of one llama_decode, as the loop reads them."""

from __future__ import annotations

from typing import NoReturn

from reasonctl.controller import Step
from reasonctl.controller.core import Floats

from .native import LogitRows

_STALE = "stale Step: the engine has run another forward since; copy rows before it"


class LlamaStep(Step):
    """Rows of one llama_decode. Raises RuntimeError once the engine has run another one."""

    __slots__ = ("_hidden", "_root", "_rows", "_serial")

    def __init__(self, rows: LogitRows, root: int, hidden: dict[int, Floats]) -> None:
        """`root` is the batch row of the last pending token; `hidden` has its rows by layer, the draft's after it."""
        self._rows = rows
        self._root = root
        self._hidden = hidden
        self._serial = rows.serial

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32: a view into llama.cpp's buffer."""
        if self._serial != self._rows.serial:
            self._stale()
        return self._rows.row(self._root + 1 + node)

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,), float32."""
        if self._serial != self._rows.serial:
            self._stale()
        if layer not in self._hidden:
            raise KeyError(f"layer {layer} was not asked for in this Decode")
        row: Floats = self._hidden[layer][1 + node]
        return row

    def _stale(self) -> NoReturn:
        raise RuntimeError(_STALE)


class GivenStep(Step):
    """One row that was decoded before the run. Raises RuntimeError once the engine has run a forward."""

    __slots__ = ("_row", "_rows", "_serial")

    def __init__(self, rows: LogitRows, row: Floats) -> None:
        self._rows = rows
        self._row = row
        self._serial = rows.serial

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32."""
        if self._serial != self._rows.serial:
            raise RuntimeError(_STALE)
        return self._row

    def hidden(self, node: int, layer: int) -> Floats:
        """Raises KeyError: none is known."""
        raise KeyError(f"layer {layer} was not asked for in this Decode")
