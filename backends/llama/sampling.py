"""The sampling arguments of a llama-cpp-python call as a policy, in the library's order of stages.

The call's logits processors and its grammar, which exist on this backend only, become constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import MinTokensLogitsProcessor

from reasonctl.controller import (
    AnswerOnly,
    Candidates,
    Chain,
    Constrained,
    ControllerError,
    Greedy,
    MinP,
    Mirostat,
    MirostatV2,
    Penalties,
    Policy,
    Row,
    Stage,
    Temperature,
    TopK,
    TopP,
    Typical,
)

from ..processors import check_stateless, forked
from .grammar import Grammar

Processor = Callable[[Any, Any], Any]
Show = Callable[[npt.NDArray[np.intc]], None]

DEFAULTS: dict[str, Any] = {
    "temp": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "mirostat_mode": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "logits_processor": None,
    "grammar": None,
}
"""Of `Llama.generate`; chat completions differ in the temperature only."""

CHAT_TEMPERATURE = 0.2
"""Default of `create_chat_completion`."""

_SAMPLING = ("temp", "top_k", "top_p", "min_p", "typical_p", "mirostat_mode", "mirostat_tau", "mirostat_eta")
"""Arguments that a policy of the controller's own takes the place of. All others are constraints."""


def changed(arguments: dict[str, Any]) -> list[str]:
    """Names of the sampling arguments that differ from the library's defaults, in the caller's words."""
    differs = [name for name in _SAMPLING if arguments[name] != DEFAULTS[name]]
    if arguments["temp"] == CHAT_TEMPERATURE:
        differs.remove("temp")
    return ["temperature" if name == "temp" else name for name in differs]


def check_numbers(arguments: dict[str, Any]) -> None:
    """Raises ControllerError for a sampling argument that is no number."""
    for name, value in arguments.items():
        if isinstance(DEFAULTS.get(name), int | float) and not isinstance(value, Real):
            shown = "temperature" if name == "temp" else name
            raise ControllerError(f"{shown} is {value!r:.40}; give a number, such as {DEFAULTS[name]}")


def call_policy(
    arguments: dict[str, Any],
    *,
    prompt: int,
    window: int,
    model: Any = None,
    own: Policy | None = None,
    show: Show | None = None,
    opening: tuple[int, ...] = (),
) -> Policy:
    """The call's sampling arguments as a policy: constraints first, then samplers.

    Args:
        arguments: of `Llama.generate`, all of them.
        prompt: number of prompt tokens, which the library's penalties never see.
        window: number of last tokens that the penalties see.
        model: the llama_model, for a grammar.
        own: the controller's policy, which takes the samplers' place.
        show: called with all tokens before a logits processor is.
        opening: tokens of the marker that opens thinking, which the grammar leaves alone; empty = it governs all.
    """
    check_numbers(arguments)
    constraints = _constraints(arguments, prompt, window, show)
    if arguments["grammar"] is not None:
        grammar = Grammar.of(arguments["grammar"], model, None if opening else prompt)
        constraints.append(AnswerOnly(grammar, opening) if opening else grammar)
    if own is not None:
        return Constrained(constraints, own) if constraints else own
    if arguments["temp"] == 0:
        return Greedy(*constraints)
    return Chain(*constraints, *_samplers(arguments))


def _constraints(arguments: dict[str, Any], prompt: int, window: int, show: Show | None) -> list[Stage]:
    """Processors and penalties; the grammar comes after them, as in the library's chain."""
    stages: list[Stage] = []
    if arguments["logits_processor"]:
        stages.append(Processors(tuple(arguments["logits_processor"]), show))
    penalties = (arguments["repeat_penalty"], arguments["frequency_penalty"], arguments["presence_penalty"])
    if penalties != (1.0, 0.0, 0.0) and window > 0:
        stages.append(Penalties(*penalties, last_n=window, skip=prompt))
    return stages


def _samplers(arguments: dict[str, Any]) -> list[Stage]:
    """Truncation, then temperature. Mirostat takes no temperature, as in llama-cpp-python."""
    temperature, mode = arguments["temp"], arguments["mirostat_mode"]
    if temperature < 0:  # llama-cpp-python: the model's own distribution
        return [Temperature(1.0)]
    if mode in (1, 2):
        kind = Mirostat if mode == 1 else MirostatV2
        return [kind(tau=arguments["mirostat_tau"], eta=arguments["mirostat_eta"], feedback="llama")]
    truncations = (
        TopK(max(arguments["top_k"], 0)),
        Typical(_share(arguments["typical_p"])),
        TopP(_share(arguments["top_p"])),  # 0 keeps one token, as in llama.cpp
        MinP(min(max(arguments["min_p"], 0.0), 1.0)),
    )
    off = (TopK(0), Typical(1.0), TopP(1.0), MinP(0.0))
    return [*(stage for stage in truncations if stage not in off), Temperature(temperature)]


def _share(value: float) -> float:
    return min(max(value, 1e-9), 1.0)


@dataclass(frozen=True)
class Processors(Stage):
    """The call's logits processors, functions (ids, logits) -> logits; the state are copies of those with `fork()`."""

    name = "logits_processor"
    kind = "constraint"
    stateful = True
    drafts = False  # a user's function may count its calls
    processors: tuple[Processor, ...]
    show: Show | None = None
    """Brings the library's record of its cache up to these tokens, since a processor may read it."""

    def start(self) -> tuple[Processor, ...]:
        return self.processors

    def step(self, state: tuple[Processor, ...], scores: Candidates, row: Row) -> tuple[Any, Candidates]:
        ids, logits = np.asarray(row.tokens, dtype=np.intc), scores.logits.copy()
        state = forked(state)
        if self.show is not None:
            self.show(ids)
        for processor in state:
            logits[:] = processor(ids, logits)
        return state, Candidates(logits)


def check_processors(processors: Sequence[Processor] | None, why: str) -> None:
    """Raises ControllerError for the first processor of a call that may remember tokens taken back."""
    check_stateless([p for p in processors or () if not _of_the_library(p)], why)


def _of_the_library(processor: Any) -> bool:
    """Whether the library made it, of a call's `logit_bias` or least number of tokens."""
    # It remembers its first call only, which is the prompt's row.
    if type(processor) is MinTokensLogitsProcessor:
        return True
    where = (getattr(processor, "__module__", ""), getattr(processor, "__name__", ""))
    return where == ("llama_cpp.llama", "logit_bias_processor")
