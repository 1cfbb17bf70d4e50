"""The four sampling arguments that both libraries offer, as one chain."""

from __future__ import annotations

from .chain import Chain
from .stages.temperature import Temperature
from .stages.truncation import MinP, TopK, TopP


class Sampling(Chain):
    """Temperature with top-k, top-p and min-p, in this order: what both libraries offer."""

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        temperature_first: bool = True,
    ) -> None:
        """Make the chain.

        Args:
            temperature: above 0.
            top_k: most tokens kept; 0 is off.
            top_p: mass kept, at most 1; 1 is off.
            min_p: least probability kept, relative to the largest; 0 is off.
            temperature_first: truncation acts after the temperature, as in transformers; False: before it, as in
                llama.cpp.
        """
        all_truncations = (TopK(top_k), TopP(top_p), MinP(min_p))
        truncations = [stage for stage in all_truncations if stage not in (TopK(0), TopP(1.0), MinP(0.0))]
        tempering = Temperature(temperature)
        super().__init__(*((tempering, *truncations) if temperature_first else (*truncations, tempering)))

    def __repr__(self) -> str:
        return f"Chain({str(self)!r})"
