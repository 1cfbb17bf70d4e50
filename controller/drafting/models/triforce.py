"""TriForce: the target drafts for itself with a part of its cache, and a lighter drafter drafts for that.

Sun et al. 2024: a lossless hierarchy for long contexts, where a step's time goes into reading the cache.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import cast

from ...core.decode import NO_DRAFT, Decode, Draft, SparseSession, Step
from ...core.errors import ControllerError
from ..drafter import Drafter, Drafting, Target
from ..planning.acceptance import Planned
from ..planning.cost import FIRST_ROWS, CostCurve, measure
from ..prompt_lookup import PromptLookup
from .cascade import Draws
from .model_run import ModelRun


class TriForce(Planned):
    """Chains of up to `size` tokens, drawn from the target's own weights over a part of its cache.

    budget: tokens of the past that the middle level reads, in chunks of `chunk`; while the context is no longer than
    that nothing is drafted. refresh: tokens after which they are chosen anew, by a forward over all of them. below:
    what drafts for the middle level (None = n-grams of the text). Costs are measured at the context's own length.
    A session that can't leave a part of its cache out (llama.cpp) gets the level below alone, and the Trace says so.
    """

    def __init__(
        self,
        below: Drafter | None = None,
        *,
        size: int = 6,
        budget: int = 1024,
        chunk: int = 8,
        refresh: int = 64,
        adaptive: bool = True,
        curves: tuple[CostCurve, CostCurve] | None = None,
    ) -> None:
        self.light: Drafter = PromptLookup() if below is None else below
        super().__init__(kind="chain", size=size, depth=size, adaptive=adaptive, curves=curves, below=self.light)
        if chunk < 1 or budget < 2 * chunk:
            raise ControllerError(
                f"triforce's budget is {budget} tokens in chunks of {chunk}; it must hold two chunks of at least 1"
            )
        if refresh < 1:
            raise ControllerError(f"triforce's refresh is {refresh}; it must be at least 1")
        self.budget, self.chunk, self.refresh = budget, chunk, refresh
        self.measured: dict[int, tuple[CostCurve, CostCurve]] = {}

    def start(self, target: Target) -> Drafting:
        """One run."""
        if not target.session.can.sparse:
            target.warnings.append(
                "triforce's middle level needs a transformers model with sdpa attention and an unwindowed cache: "
                "the level below drafts for the target directly"
            )
            return self.light.start(target)
        return TriForceRun(self, target)


class TriForceRun(ModelRun):
    """One run's view of its own cache."""

    def __init__(self, drafter: TriForce, target: Target) -> None:
        super().__init__(drafter, target, target.session.engine, "the target", 1 << 30)
        self.t, self.chosen = drafter, -drafter.refresh

    def open(self) -> SparseSession:
        """A view of the target's sequence."""
        return self.target.session.sparse(self.t.budget, self.t.chunk)

    def curves(self, tokens: Sequence[int]) -> Generator[Decode, Step, tuple[CostCurve, CostCurve]]:
        """Measured anew wherever the context has doubled."""
        if self.t.curves is not None:
            return self.t.curves
        length = self.target.session.length
        found = self.t.measured.get(length.bit_length())
        if found is None:
            whole = yield from measure(self.target.session.fork(), tokens[-1:], rows=FIRST_ROWS)
            part = yield from measure(self.open(), tokens[-1:], rows=FIRST_ROWS)
            found = self.t.measured[length.bit_length()] = CostCurve({length: whole}), CostCurve({length: part})
        return found

    def missing(self, tokens: Sequence[int]) -> int:
        """A view has what the target has."""
        return 1

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """A chain, where the view would leave something out."""
        if self.target.session.length <= self.t.budget:
            return NO_DRAFT
        return (yield from super().propose(tokens, room))

    def chain(
        self, below: Drafter, tokens: Sequence[int], size: int, draws: Draws | None
    ) -> Generator[Decode, Step, Draft]:
        """As ever, with a view that is not too old and can be rolled back far enough."""
        view = cast(SparseSession, self.session)
        if len(tokens) - self.chosen >= self.t.refresh or self.common(tokens) < view.least:
            view.renew()
            self.fed, self.chosen = list(tokens[: view.length]), len(tokens)
        return (yield from super().chain(below, tokens, size, draws))
