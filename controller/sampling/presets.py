"""The four sampling arguments that both libraries offer, as one chain."""

from __future__ import annotations

from .chain import Chain
from .stages.temperature import Temperature
from .stages.truncation import MinP, TopK, TopP


class Sampling(Chain):
    """Temperature with top-k, top-p and min-p, in this order: what both libraries offer.

    top_k 0, top_p 1 and min_p 0 are off. `temperature_first` says whether truncation sees the logits before or after
    temperature: transformers truncates after it, llama.cpp before it.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        temperature_first: bool = True,
    ) -> None:
        tempering, cuts = (Temperature(temperature),), (TopK(top_k), TopP(top_p), MinP(min_p))
        kept = tuple(cut for cut in cuts if cut not in (TopK(0), TopP(1.0), MinP(0.0)))
        super().__init__(*(tempering + kept if temperature_first else kept + tempering))

    def __repr__(self) -> str:
        return f"Chain({str(self)!r})"
