"""The rows of one transformers forward, as the loop reads them: converted when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from reasonctl.controller import ControllerError
from reasonctl.controller.core.decode import Floats

if TYPE_CHECKING:
    from .hf import HFEngine


class HFStep:
    """The rows of one forward: ROOT first, then the draft's nodes. Raises RuntimeError once stale."""

    __slots__ = ("_engine", "_forward", "_hidden", "_read", "_rows")

    def __init__(self, engine: HFEngine, rows: torch.Tensor, hidden: dict[int, torch.Tensor]) -> None:
        self._engine, self._forward, self._rows, self._hidden = engine, engine.forwards, rows, hidden
        self._read: dict[int, Floats] = {}

    def _check(self) -> None:
        if self._engine.forwards != self._forward:
            raise RuntimeError("stale Step: the engine has run another forward since; copy rows before it")

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32."""
        self._check()
        # A walk visits few of a tree's rows: only those are converted, each once.
        if node not in self._read:
            self._read[node] = as_numpy(self._rows[node + 1])
        return self._read[node]

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,), float32. Raises ControllerError for a layer that the Decode did not ask for."""
        self._check()
        if layer not in self._hidden:
            raise ControllerError(f"layer {layer} was not captured; name it in Decode.layers: {sorted(self._hidden)}")
        row: Floats = as_numpy(self._hidden[layer][node + 1])
        return row


def as_numpy(tensor: torch.Tensor) -> Any:
    """float32 numpy; a view where the tensor already is that."""
    return tensor.float().cpu().numpy()
