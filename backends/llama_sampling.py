"""The sampling arguments of a llama-cpp-python call as a chain: its order of stages, our keyed uniforms.

Owns what exists on this backend only: the call's logits processors and its grammar, as constraints.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import MinTokensLogitsProcessor
from llama_cpp import llama_cpp as C

from reasonctl.controller import (
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
    Scores,
    Stage,
    Temperature,
    TopK,
    TopP,
    Typical,
)

from .processors import check_stateless, forked

Processor = Callable[[Any, Any], Any]

DEFAULTS: dict[str, Any] = {
    "temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1.0, "repeat_penalty": 1.0,
    "frequency_penalty": 0.0, "presence_penalty": 0.0, "mirostat_mode": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1,
    "logits_processor": None, "grammar": None,
}  # fmt: skip
"""Of `Llama.generate`; chat completions differ in the temperature only."""

CHAT_TEMPERATURE = 0.2

_LAW = ("temp", "top_k", "top_p", "min_p", "typical_p", "mirostat_mode", "mirostat_tau", "mirostat_eta")
"""Sampling arguments proper: a policy of the controller's own takes their place. All others are constraints."""


def changed(arguments: dict[str, Any]) -> list[str]:
    """Names of the law's arguments that differ from the library's defaults, in the caller's words."""
    differs = [name for name in _LAW if arguments[name] != DEFAULTS[name]]
    if arguments["temp"] == CHAT_TEMPERATURE:
        differs.remove("temp")
    return ["temperature" if name == "temp" else name for name in differs]


def call_policy(
    arguments: dict[str, Any], *, prompt: int, window: int, model: Any = None, own: Policy | None = None
) -> Policy:
    """The call's own law behind its constraints; `own` takes the law's place.

    prompt: number of prompt tokens, which the library's penalties never see. window: tokens that they look back on.
    model: the llama_model, for a grammar.
    """
    constraints = _constraints(arguments, prompt, window, model)
    if own is not None:
        return Constrained(constraints, own) if constraints else own
    if arguments["temp"] == 0:
        return Greedy(*constraints)
    return Chain(*constraints, *_law(arguments))


def _constraints(arguments: dict[str, Any], prompt: int, window: int, model: Any) -> list[Stage]:
    """Processors, penalties, grammar: the order of the library's chain."""
    stages: list[Stage] = []
    if arguments["logits_processor"]:
        stages.append(Processors(tuple(arguments["logits_processor"])))
    penalties = (arguments["repeat_penalty"], arguments["frequency_penalty"], arguments["presence_penalty"])
    if penalties != (1.0, 0.0, 0.0) and window > 0:
        stages.append(Penalties(*penalties, last_n=window, skip=prompt))
    if arguments["grammar"] is not None:
        stages.append(Grammar.of(arguments["grammar"], model, prompt))
    return stages


def _law(arguments: dict[str, Any]) -> list[Stage]:
    """Truncation before temperature; mirostat takes no temperature here, as in llama-cpp-python."""
    temperature, mode = arguments["temp"], arguments["mirostat_mode"]
    if temperature < 0:  # llama-cpp-python: the model's own distribution
        return [Temperature(1.0)]
    if mode in (1, 2):
        kind = Mirostat if mode == 1 else MirostatV2
        return [kind(tau=arguments["mirostat_tau"], eta=arguments["mirostat_eta"], feedback="llama")]
    cuts = (
        TopK(max(arguments["top_k"], 0)),
        Typical(_share(arguments["typical_p"])),
        TopP(_share(arguments["top_p"])),  # 0 keeps one token, as in llama.cpp
        MinP(min(max(arguments["min_p"], 0.0), 1.0)),
    )
    off = (TopK(0), Typical(1.0), TopP(1.0), MinP(0.0))
    return [*(cut for cut in cuts if cut not in off), Temperature(temperature)]


def _share(value: float) -> float:
    return min(max(value, 1e-9), 1.0)


@dataclass(frozen=True)
class Processors(Stage):
    """The call's logits processors: functions (ids, logits) -> logits. Those with a `fork()` are the state: each token
    has its own copies."""

    name = "logits_processor"
    kind = "constraint"
    stateful = True
    drafts = False  # a user's function may count its calls
    processors: tuple[Processor, ...]

    def start(self) -> tuple[Processor, ...]:
        return self.processors

    def step(self, state: tuple[Processor, ...], scores: Scores, row: Row) -> tuple[Any, Scores]:
        ids, logits = np.asarray(row.tokens, dtype=np.intc), scores.logits.copy()
        state = forked(state)
        for processor in state:
            logits[:] = processor(ids, logits)
        return state, Scores(logits)


def check_processors(processors: Sequence[Processor] | None, why: str) -> None:
    """Raises ControllerError for the first of the call's processors that may remember tokens taken back."""
    check_stateless([p for p in processors or () if not _library_s(p)], why)


def _library_s(processor: Any) -> bool:
    """Made by the library: the closure behind a call's `logit_bias`, and its least number of tokens."""
    where = (getattr(processor, "__module__", ""), getattr(processor, "__name__", ""))
    # The latter remembers its first call only, which is the prompt's row.
    return where == ("llama_cpp.llama", "logit_bias_processor") or type(processor) is MinTokensLogitsProcessor


@dataclass(frozen=True)
class Grammar(Stage):
    """llama.cpp's GBNF sampler as a constraint: tokens that the grammar doesn't admit get -inf.

    It governs everything after `start` tokens. The state is a sampler that is never changed once it is a state, with
    the number of tokens behind it.
    """

    name = "grammar"
    kind = "constraint"
    stateful = True
    drafts = False
    text: str
    root: str
    vocabulary: Any
    first: int

    @classmethod
    def of(cls, grammar: Any, model: Any, prompt: int) -> Grammar:
        """From a LlamaGrammar and the model whose tokens it reads."""
        text = getattr(grammar, "_grammar", None)
        if not isinstance(text, str):
            raise ControllerError(f"grammar is {type(grammar).__name__}; give a LlamaGrammar")
        return cls(text, grammar._root, C.llama_model_get_vocab(model), prompt)

    def start(self) -> tuple[_Sampler, int]:
        made = C.llama_sampler_init_grammar(self.vocabulary, self.text.encode(), self.root.encode())
        if not made:
            raise ControllerError("grammar can't be read: llama.cpp has printed where; check its GBNF")
        return _Sampler(made), self.first

    def step(self, state: tuple[_Sampler, int], scores: Scores, row: Row) -> tuple[Any, Scores]:
        sampler, seen = state
        for token in row.tokens[seen:]:  # written without having been drawn here: an exit's suffix
            sampler = sampler.after(token, len(scores.logits))
        logits = np.where(sampler.allowed(np.arange(len(scores.logits), dtype=np.intc)), scores.logits, -np.inf)
        return (sampler, len(row.tokens)), Scores(logits.astype(scores.logits.dtype))

    def accept(self, state: tuple[_Sampler, int], scores: Scores, token: int) -> Any:
        sampler, seen = state
        return sampler.after(token, None), seen + 1


_CANDIDATE = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)


class _Sampler:
    """A llama_sampler that is freed with its last reference."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        weakref.finalize(self, C.llama_sampler_free, sampler)

    def allowed(self, tokens: Any) -> Any:
        """Which of these tokens may come next, shape (n,), bool."""
        data = np.zeros(len(tokens), dtype=_CANDIDATE)
        data["id"] = tokens
        pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)
        C.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return data["logit"] > -np.inf

    def after(self, token: int, vocabulary: int | None) -> _Sampler:
        """A copy that has read `token`; vocabulary: check first, for llama.cpp ends the process on a wrong one."""
        if vocabulary is not None and not self.allowed(np.array([token], dtype=np.intc))[0]:
            raise ControllerError(
                f"the call's grammar doesn't admit the forced token {token}; leave out the grammar, or the exit rule"
            )
        copy = _Sampler(C.llama_sampler_clone(self._sampler))
        C.llama_sampler_accept(copy._sampler, token)
        return copy
