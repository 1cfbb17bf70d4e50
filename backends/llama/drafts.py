"""A Llama's own `draft_model` as a drafter, so that the one loop verifies what it proposes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaDraftModel

from reasonctl.controller import Controller, Decode, Draft, Stateless, Step


@dataclass
class LibraryDrafts(Stateless):
    """What the library's draft model proposes after the tokens so far, as a chain. It changes the speed only."""

    model: LlamaDraftModel
    """Called with all tokens, shape (n,), as the library's own loop calls it."""

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """The model's proposal, cut to what there is room for."""
        found = self.model(np.asarray(tokens, dtype=np.intc)).astype(int)[:room].tolist()
        return Draft.chain(found) if found else Draft()
        yield  # a generator that needs no forward of its own


def drafting(llm: Llama, controller: Controller) -> Controller:
    """The controller with the Llama's draft model as its drafter, where it has none of its own."""
    if llm.draft_model is None or controller.drafter is not None:
        return controller
    return replace(controller, drafter=LibraryDrafts(llm.draft_model))
