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

_LOGIT_BYTES = 4
"""Of a number in float32."""


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
                f"prompt and answer take {wanted} positions, and the model has {engine.context}; shorten one of them"
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

    Raises:
        ControllerError: There is no memory for the first forward, or a run can't be made.
    """
    _check_memory(engine, asked)
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


def _check_memory(engine: MaskedEngine, asked: Sequence[Unmask]) -> None:
    """Refuse several runs whose first forward has no room for its logits: it gives a row for each position, padded."""
    free, widest = engine.free_bytes(), max((len(one.prompt) + one.settings.length for one in asked), default=0)
    bytes_needed = len(asked) * widest * engine.vocabulary * _LOGIT_BYTES
    if len(asked) > 1 and free is not None and bytes_needed > free:
        raise ControllerError(
            f"the logits of {len(asked)} answers, each of up to {widest} positions with its prompt, take "
            f"{bytes_needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; give a smaller batch, or lower "
            "max_new_tokens"
        )
