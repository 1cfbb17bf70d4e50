"""The sampling arguments of a llama-cpp-python call as a policy: its chain's order, our keyed uniforms.

Owns what the library applies before truncation (processors, penalties); truncation itself is `Sampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..controller import ControllerError, Greedy, Policy, Row, Sampling
from ..controller.decode import Floats

Processor = Callable[[Any, Any], Any]

DEFAULTS: dict[str, Any] = {
    "temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "logits_processor": None,
}  # fmt: skip
"""Of `Llama.generate`; chat completions differ in the temperature only."""

CHAT_TEMPERATURE = 0.2

_UNSUPPORTED: dict[str, Any] = {"typical_p": 1.0, "mirostat_mode": 0, "grammar": None}


def refuse_unsupported(arguments: dict[str, Any]) -> None:
    """ControllerError for a sampling argument that stock honours and the controlled loop can't yet."""
    for name, off in _UNSUPPORTED.items():
        value = arguments.get(name, off)
        if value != off:
            shown = value if isinstance(value, int | float) else "set"
            hint = " (response_format and tool_choice use one)" if name == "grammar" else ""
            raise ControllerError(f"{name} is {shown}{hint}; it can't be honoured yet: drop it or detach")


def changed(arguments: dict[str, Any]) -> list[str]:
    """Names of sampling arguments that differ from the library's defaults, in the caller's words."""
    differs = [name for name, default in DEFAULTS.items() if arguments[name] != default]
    if arguments["temp"] == CHAT_TEMPERATURE:
        differs.remove("temp")
    return ["temperature" if name == "temp" else name for name in differs]


def call_policy(arguments: dict[str, Any], *, prompt: int, window: int) -> Policy:
    """The call's own law. prompt: number of prompt tokens; window: tokens that penalties look back on."""
    processors = tuple(arguments["logits_processor"] or ())
    penalties = (arguments["repeat_penalty"], arguments["frequency_penalty"], arguments["presence_penalty"])
    temperature = arguments["temp"]
    law: Sampling | None = None
    if temperature < 0:  # llama-cpp-python: the model's own distribution
        law = Sampling()
    elif temperature > 0:
        law = Sampling(
            temperature=temperature,
            top_k=max(arguments["top_k"], 0),
            top_p=min(max(arguments["top_p"], 1e-9), 1.0),  # 0 keeps one token, as in llama.cpp
            min_p=min(max(arguments["min_p"], 0.0), 1.0),
            temperature_first=False,
        )
    plain = not processors and (penalties == (1.0, 0.0, 0.0) or window < 1)
    if plain and law is None:
        return Greedy()
    return CallPolicy(law, processors, None if penalties == (1.0, 0.0, 0.0) else penalties, prompt, window)


@dataclass(frozen=True)
class CallPolicy:
    """Processors, penalties, truncation, draw: the order of llama-cpp-python's sampler chain.

    law: None = greedy. penalties: (repeat, frequency, presence), over the last `window` *generated* tokens:
    the library's sampler never sees the prompt.
    """

    law: Sampling | None
    processors: tuple[Processor, ...]
    penalties: tuple[float, float, float] | None
    prompt: int
    window: int

    def start(self) -> None:
        return None

    def step(self, state: None, row: Row) -> tuple[None, int]:
        logits = row.logits
        if self.processors:
            logits = self._process(row.tokens, logits.copy())
        if self.penalties is not None and self.window > 0:
            logits = self._penalise(row.tokens, logits)
        if self.law is None:
            return None, int(logits.argmax())
        ids, weights = self.law.law(logits)
        return None, row.draw(weights, ids)

    def _process(self, tokens: Sequence[int], logits: Floats) -> Floats:
        ids = np.asarray(tokens, dtype=np.intc)
        for processor in self.processors:
            logits[:] = processor(ids, logits)
        return logits

    def _penalise(self, tokens: Sequence[int], logits: Floats) -> Floats:
        recent = tokens[max(self.prompt, len(tokens) - self.window) :]
        if not recent:
            return logits
        assert self.penalties is not None
        repeat, frequency, presence = self.penalties
        ids, counts = np.unique(np.asarray(recent), return_counts=True)
        logits = logits.copy()
        values = logits[ids]
        values = np.where(values <= 0, values * np.float32(repeat), values / np.float32(repeat))
        logits[ids] = values - counts.astype(np.float32) * np.float32(frequency) - np.float32(presence)
        return logits
