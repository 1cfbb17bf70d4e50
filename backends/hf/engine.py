"""transformers as an engine: one sequence per session, in a DynamicCache that can branch, roll back and fork.

The engine checks requests and opens sessions. `forward.py` calls the model, and the session edits its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from reasonctl.controller import Capabilities, ControllerError, Decode, Engine

from .forward import HFStep, ModelForward
from .session import HFSession


class HFEngine(Engine):
    """One transformers causal language model; one request per forward."""

    def __init__(self, model: Any, fold_attention: bool = False) -> None:
        """Raises ControllerError for a model that keeps no DynamicCache.

        Args:
            model: a causal language model of transformers.
            fold_attention: as in `attach`.
        """
        self.model_forward = ModelForward(model, fold_attention)

    @property
    def can(self) -> Capabilities:
        """What its sessions can do."""
        return self.model_forward.can

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine."""
        model = self.model_forward.model
        attention = getattr(model.config, "_attn_implementation", None)
        shape = f"{type(model).__name__} {model.num_parameters()} {model.dtype} {model.device} {attention}"
        return f"transformers {shape} threads {torch.get_num_threads()}"

    def session(self) -> HFSession:
        """An empty sequence on the device that the model is on now."""
        forward = self.model_forward
        return HFSession(self, forward, forward.new_cache(), 0, forward.device)

    def adopt(self, cache: Any, length: int) -> HFSession:
        """A sequence whose first `length` tokens are in a DynamicCache already."""
        return HFSession(self, self.model_forward, cache, length, self.model_forward.device)

    def forward(self, requests: Sequence[Decode]) -> list[HFStep]:
        """One forward for one request. Raises ControllerError for more, or for another engine's session."""
        if len(requests) != 1:
            raise ControllerError(f"one forward takes 1 request here, not {len(requests)}; drive the loops in turn")
        session = requests[0].session
        if not isinstance(session, HFSession) or session.engine is not self:
            raise ControllerError("this session belongs to another engine; decode it there")
        return [session.feed(requests[0])]
