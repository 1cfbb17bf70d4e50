"""Drafting by a smaller model with the same vocabulary: chains, Sequoia's static trees, DySpec's dynamic ones.

The draft follows the run's own policy on the draft model's logits: truncation and temperature match the target's.
"""

from __future__ import annotations

from typing import Protocol

from ...core.decode import Engine
from ...core.errors import ControllerError
from ...core.tokenizer import Tokenizer, vocabulary_of
from ..drafter import Drafter, Target
from ..planning.acceptance import Kind, Planned
from ..planning.cost import CostCurve
from .model_run import ModelRun


class DraftModel(Protocol):
    """What is needed of a loaded model."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context(self) -> int: ...


class ModelDrafter(Planned):
    """Drafts of a smaller model. kind: the tree; size, depth: most drafted tokens a step, most of them on a path.

    Size, depth and branching are planned from recent acceptance by rank and from both models' measured forward times;
    where no plan beats plain decoding nothing is drafted, and it is tried again now and then. `adaptive` False: one
    shape of `size` tokens, so that a run depends on its keys only. With a greedy target a draft is a function of the
    past; else it is drawn, by the run's own keys. inner: a drafter that drafts for chains of the draft model (two
    levels, as in TriForce); what the middle level hands up follows its own law exactly.
    """

    def __init__(
        self,
        model: DraftModel,
        *,
        kind: Kind = "sequoia",
        size: int = 16,
        depth: int = 8,
        adaptive: bool = True,
        curves: tuple[CostCurve, CostCurve] | None = None,
        inner: Drafter | None = None,
    ) -> None:
        super().__init__(kind=kind, size=size, depth=depth, adaptive=adaptive, curves=curves, inner=inner)
        self.model = model

    def start(self, target: Target) -> ModelRun:
        """One run; raises ControllerError if the vocabularies differ or the draft model can't take tokens back."""
        if vocabulary_of(self.model.tokenizer) != vocabulary_of(target.tokenizer):
            raise ControllerError(
                f"{self.model.name!r} has other token ids than the target; draft with a model of the same family"
            )
        return ModelRun(self, target, self.model.engine, self.model.name, self.model.context)
