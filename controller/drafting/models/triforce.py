"""TriForce: the target drafts for itself with a part of its cache, and a lighter drafter drafts for that.

Sun et al. 2024: a lossless hierarchy for long contexts, where a step's time goes into reading the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ...core.decode import NO_DRAFT, Asking, Draft, Engine, Need, SparseSession
from ...core.errors import ControllerError
from ..drafter import Drafter, Drafting, Target
from ..planning.cost import FIRST_ROWS, CostCurve, measure
from ..planning.experience import Experience
from ..planning.meter import CurvePair, Curves, StepMeter
from ..planning.plan import DraftSettings
from ..prompt_lookup import PromptLookup
from .draft_session import DraftSession
from .model_run import ModelRun


class TriForce(Drafter):
    """Chains drawn from the target's own weights over a part of its cache.

    Nothing is drafted while the context is no longer than the budget. Costs are measured at the context's own length.
    Some sessions can't leave out a part of their cache (llama.cpp). There the inner drafter drafts for the target
    directly, and the trace has a warning.

    Args:
        inner: Drafts for the chains; None = n-grams of the text.
        size: Most drafted tokens a step.
        budget: Tokens of the past that the chains are drawn with.
        chunk: Tokens that the view reads or leaves out together.
        refresh: Tokens after which the chunks are chosen anew, by a forward over the whole cache.
        adaptive: False drafts `size` tokens always.
        curves: What forwards over the whole cache and over its part cost; None = measured.

    Raises:
        ControllerError: A size or refresh below 1, or a budget of less than two chunks.
    """

    def __init__(
        self,
        inner: Drafter | None = None,
        *,
        size: int = 6,
        budget: int = 1024,
        chunk: int = 8,
        refresh: int = 64,
        adaptive: bool = True,
        curves: tuple[CostCurve, CostCurve] | None = None,
    ) -> None:
        self.inner: Drafter = PromptLookup() if inner is None else inner
        self.settings = DraftSettings("chain", size, size, adaptive, None if curves is None else CurvePair(*curves))
        self.experience = Experience()
        if chunk < 1 or budget < 2 * chunk:
            raise ControllerError(
                f"triforce's budget is {budget} tokens in chunks of {chunk}; it must hold two chunks of at least 1"
            )
        if refresh < 1:
            raise ControllerError(f"triforce's refresh is {refresh}; it must be at least 1")
        self.budget = budget
        self.chunk = chunk
        self.refresh = refresh
        self.measured: dict[int, CurvePair] = {}
        """Curves by the number of bits of the context's length."""

    @property
    def size(self) -> int:
        """Most drafted tokens a step."""
        return self.settings.size

    def start(self, target: Target) -> Drafting:
        """The drafts of one run; the inner drafter's own where the session has no sparse view."""
        if not target.session.can.sparse:
            target.warnings.append(
                "triforce's middle level needs a transformers model with sdpa attention and an unwindowed cache: "
                "the inner drafter drafts for the target directly"
            )
            return self.inner.start(target)
        return TriForceRun(self, target)

    def needs(self, engine: Engine, length: int) -> tuple[Need, ...]:
        """The inner drafter's: a view keeps its own copy of what it reads."""
        return self.inner.needs(engine, length)

    def forget(self) -> None:
        """Make the inner drafter forget."""
        self.inner.forget()


class TriForceRun(Drafting):
    """The drafts of one run over its own cache; none while a view would leave nothing out."""

    def __init__(self, drafter: TriForce, target: Target) -> None:
        self._target = target
        self._budget = drafter.budget
        session = ViewSession(drafter, target)
        curves = CurvesByLength(drafter, target)
        self.chains = ModelRun(drafter.settings, drafter.experience, target, session, curves, drafter.inner)

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """A chain, where the view would leave something out."""
        if self._target.session.length <= self._budget:
            return NO_DRAFT
        return (yield from self.chains.propose(tokens, room))

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        self.chains.observe(draft, accepted)

    def close(self) -> None:
        self.chains.close()


class ViewSession(DraftSession):
    """A view of the target's own sequence, renewed where it is too old or can't be rolled back far enough."""

    def __init__(self, drafter: TriForce, target: Target) -> None:
        super().__init__(
            lambda: _view(drafter, target),
            name="the target",
            context=1 << 30,
            vocabulary=target.session.can.vocabulary,
            meter=StepMeter(target.clock),
        )
        self._refresh = drafter.refresh
        self._renewed = -drafter.refresh
        """Tokens of the run when the view was last renewed."""

    def missing(self, tokens: Sequence[int]) -> int:
        """Only the last token: a view has what the target has."""
        return 1

    def prepare(self, tokens: Sequence[int]) -> None:
        """Renew the view if it must be."""
        view = cast(SparseSession, self.session)
        if len(tokens) - self._renewed >= self._refresh or self.common(tokens) < view.least:
            view.renew()
            self.fed = list(tokens[: view.length])
            self._renewed = len(tokens)


class CurvesByLength(Curves):
    """What forwards over the whole cache and over its part cost, measured anew wherever the context has doubled."""

    def __init__(self, drafter: TriForce, target: Target) -> None:
        self._drafter = drafter
        self._target = target

    def pair(self, tokens: Sequence[int]) -> Asking[CurvePair]:
        if self._drafter.settings.curves is not None:
            return self._drafter.settings.curves
        length = self._target.session.length
        known = self._drafter.measured.get(length.bit_length())
        if known is not None:
            return known
        whole = yield from measure(self._target.session.fork(), tokens[-1:], rows=FIRST_ROWS)
        part = yield from measure(_view(self._drafter, self._target), tokens[-1:], rows=FIRST_ROWS)
        found = CurvePair(CostCurve({length: whole}), CostCurve({length: part}))
        self._drafter.measured[length.bit_length()] = found
        return found


def _view(drafter: TriForce, target: Target) -> SparseSession:
    return target.session.sparse(drafter.budget, drafter.chunk)
