"""Drivers: one run alone, or many whose requests share forwards."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ..core.decode import Floats
from ..core.errors import ControllerError
from ..core.randomness import Keys
from ..core.tokenizer import Tokenizer
from ..sampling.policy import Policy
from .canvas import Denoise, MaskedEngine
from .loop import UnmaskingTrace, unmask
from .settings import Unmasking


@dataclass(frozen=True)
class Unmask:
    """One run that is asked for."""

    prompt: Sequence[int]
    """The prompt's tokens; at least one."""
    settings: Unmasking
    """How its canvas is unmasked."""
    policy: Policy
    """Draws its tokens."""
    keys: Keys
    """Its randomness."""
    eos: frozenset[int] = frozenset()
    """Tokens that end its text."""
    tokenizer: Tokenizer | None = None
    """The model's, for policies that read text."""

    def start(self, engine: MaskedEngine, trace: UnmaskingTrace) -> Generator[Denoise, Floats, list[int]]:
        """The run's loop. Raises ControllerError where the engine has no room for it."""
        if not self.prompt:
            raise ControllerError("the prompt is empty; give at least one token")
        wanted = len(self.prompt) + self.settings.length
        if wanted > engine.context:
            raise ControllerError(
                f"prompt and answer take {wanted} positions, and the model has {engine.context}; shorten the answer"
            )
        return unmask(
            self.prompt,
            self.settings,
            self.policy,
            self.keys,
            trace,
            mask=engine.mask,
            eos=self.eos,
            tokenizer=self.tokenizer,
        )


def run_one(engine: MaskedEngine, asked: Unmask) -> UnmaskingTrace:
    """Run one to its end."""
    return run_all(engine, [asked])[0]


def run_all(engine: MaskedEngine, asked: Sequence[Unmask]) -> list[UnmaskingTrace]:
    """Run all to their ends in shared forwards; a run that ends early leaves the others the room.

    Each run's tokens are the same as alone, up to the rounding of a forward of another size.
    """
    traces = [UnmaskingTrace() for _ in asked]
    live: dict[int, tuple[Generator[Denoise, Floats, list[int]], Denoise]] = {}
    for number, (one, trace) in enumerate(zip(asked, traces, strict=True)):
        loop = one.start(engine, trace)
        live[number] = (loop, next(loop))  # every run asks at least once: its canvas has a mask
    while live:
        answers = engine.forward([request for _, request in live.values()])
        for (number, (loop, _)), logits in zip(list(live.items()), answers, strict=True):
            try:
                live[number] = (loop, loop.send(logits))
            except StopIteration:
                del live[number]
    return traces
