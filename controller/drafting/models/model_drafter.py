"""Drafting by a smaller model with the same vocabulary: chains, Sequoia's static trees, DySpec's dynamic ones.

The draft follows the run's own policy on the draft model's logits: truncation and temperature match the target's.
"""

from __future__ import annotations

from typing import Protocol

from ...core.decode import Capabilities, Engine, Need
from ...core.errors import ControllerError
from ...core.tokenizer import Tokenizer, vocabulary_of
from ..drafter import Drafter, Target
from ..planning.cost import CostCurve
from ..planning.cost_cache import measuring
from ..planning.experience import Experience
from ..planning.meter import CurvePair, EngineCurves, StepMeter
from ..planning.plan import DraftSettings, Kind
from .draft_session import DraftSession
from .model_run import ModelRun


class DraftModel(Protocol):
    """What is needed of a loaded model; `backends.load_model` gives one."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def engine(self) -> Engine:
        """Makes the forwards."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary must be the target's."""

    @property
    def context(self) -> int:
        """Most tokens that the model was made for."""

    @property
    def can(self) -> Capabilities:
        """What its sessions can do."""


class ModelDrafter(Drafter):
    """Drafts of a smaller model, chains or trees.

    Size, depth and branching are planned from recent acceptance and from the measured forward times of both models.
    Where no plan beats plain decoding nothing is drafted, and it is tried again now and then. For a greedy target a
    draft is a function of the past; otherwise it is drawn, by the run's own keys.

    Args:
        model: Proposes the tokens.
        kind: How drafts branch.
        size: Most drafted tokens a step.
        depth: Most drafted tokens on a path.
        adaptive: False drafts one shape of `size` tokens always, so that a run depends on its keys only.
        curves: What forwards of the target and of the draft model cost; None = measured at first use.
        inner: Drafts for the chains of the draft model, as in TriForce. The chain follows the draft model's own
            distribution exactly, whatever the inner drafter proposes.

    Raises:
        ControllerError: A size or depth below 1, or an inner drafter under trees.
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
        self.model = model
        self.settings = DraftSettings(kind, size, depth, adaptive, None if curves is None else CurvePair(*curves))
        if inner is not None and kind != "chain":
            raise ControllerError(f"an inner drafter drafts for chains, and kind is {kind!r}; leave one of them out")
        self.inner = inner
        self.experience = Experience()

    @property
    def size(self) -> int:
        """Most drafted tokens a step."""
        return self.settings.size

    def start(self, target: Target) -> ModelRun:
        """The drafts of one run.

        Raises:
            ControllerError: The vocabularies differ, or the draft model can't take tokens back.
        """
        model = self.model
        if vocabulary_of(model.tokenizer) != vocabulary_of(target.tokenizer):
            raise ControllerError(
                f"{model.name!r} has other token ids than the target; draft with a model of the same family"
            )
        can = model.can
        # A checkpoint would have to follow every drafted token: the next text may end at any of them.
        if not can.rollback or not can.branches or can.checkpoints:
            raise ControllerError(
                f"{model.name!r} can't take rejected tokens back, so it can't draft; give another draft model"
            )
        session = DraftSession(
            model.engine.session,
            name=model.name,
            context=model.context,
            vocabulary=target.session.can.vocabulary,
            meter=StepMeter(target.clock),
        )
        curves = EngineCurves(self.settings.curves, target.session.engine, model.engine)
        return ModelRun(self.settings, self.experience, target, session, curves, self.inner)

    def needs(self, engine: Engine, length: int) -> tuple[Need, ...]:
        """Room for the draft model's sequence, for a tree's branches on both models, and for measuring."""
        settings, own = self.settings, self.model.engine
        draft = Need(own, min(length, self.model.context) + settings.size)
        measured = (*measuring(engine), *measuring(own)) if settings.adaptive and settings.curves is None else ()
        return (draft, Need(engine, 0 if settings.kind == "chain" else settings.size, 0), *measured)

    def forget(self) -> None:
        """Make the inner drafter forget; a model remembers no text."""
        if self.inner is not None:
            self.inner.forget()
