"""One run of a job, in whatever process it happens: collect it, or run it with and without control.

A run depends on the recipe, its index and its question alone, so that jobs resume and spread without a trace.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from ..backends.load import load_drafter, load_model
from ..backends.model import Model
from ..controller import (
    Boundary,
    Call,
    Controller,
    Cues,
    Decision,
    Drafter,
    ExitRule,
    Keys,
    Markers,
    Policy,
    Trace,
    parse_policy,
)  # fmt: skip
from ..controller.policy import checked, layers_of
from ..probes.answers import after_thinking
from ..probes.probe import layer_of
from .runs import pack

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Recipe:
    """What all runs of a job share. layers: fractions of depth. answer_tokens: most tokens of a trial answer."""

    model: str
    backend: Literal["llama.cpp", "transformers"] | None
    threads: int | None
    markers: tuple[str, str] | None
    cues: tuple[str, ...]
    suffix: str
    max_cues: int
    layers: tuple[float, ...]
    policy: str
    draft: str
    seed: int
    max_new_tokens: int
    answer_tokens: int

    def span(self) -> Markers | None:
        return Markers(*self.markers) if self.markers else None

    def load(self, *, hidden: bool = True) -> Model:
        """The model, loaded once per process."""
        return _load(self.model, self.backend, self.threads, hidden or self.backend == "transformers")


@cache
def _load(name: str, backend: Literal["llama.cpp", "transformers"] | None, threads: int | None, hidden: bool) -> Model:
    return load_model(name, backend=backend, threads=threads, hidden=hidden)


@cache
def _drafter(text: str, threads: int | None) -> Drafter | None:
    return load_drafter(text, threads=threads)


@dataclass
class Collect:
    """The exit rule that never exits: at every cue it tries the exit on a fork and writes down what came of it."""

    recipe: Recipe
    model: Model
    seen: list[dict[str, Any]] = field(default_factory=list)
    trials: bool = True

    def __post_init__(self) -> None:
        self.markers, self.cues = self.recipe.span(), Cues(self.recipe.cues)
        self.suffix, self.max_cues = self.recipe.suffix, self.recipe.max_cues

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(layer_of(f, depth) for f in self.recipe.layers))

    def decide(self, at: Boundary) -> Any:
        entropy = at.entropy()
        trial = yield from at.answer(self.recipe.answer_tokens)
        position = at.cue.first - at.prompt
        states = [at.hidden[layer_of(f, self.model.depth)] for f in self.recipe.layers]
        text = self.model.tokenizer.decode(at.tokens[at.prompt : at.cue.first])
        values = _NUMBER.findall(text)
        self.seen.append({
            "name": at.cue.name,
            "position": position,
            "offset": len(text),
            # Up to the cue's last token, the token sampled behind it, and the exit itself.
            "tokens": at.cue.last + 2 - at.prompt + trial.cost,
            "trial": trial.cost,
            "answer": after_thinking(trial.text, self.markers),
            "logprobs": list(trial.logprobs),
            "entropy": entropy,
            "value": values[-1] if values else "",
            "hidden": pack(np.concatenate(states).astype(np.float32)),
        })  # fmt: skip
        return Decision(False, at.cue.name, at.cue.index, position, 0.0, float("inf"))


@cache
def _policy(recipe: Recipe) -> Policy:
    """The recipe's policy, compared with the model once per process; raises ControllerError for another model."""
    policy = parse_policy(recipe.policy)
    checked((policy,), recipe.load())
    return policy


def plain_text(model: Model, tokens: list[int]) -> str:
    """The tokens' text without the end of the sequence."""
    return model.tokenizer.decode([token for token in tokens if token not in model.eos])


def answer_text(recipe: Recipe, model: Model, tokens: list[int]) -> str:
    """What the user reads as the answer: the text after thinking closed; all of it if there are no markers."""
    return after_thinking(plain_text(model, tokens), recipe.span())


def _run(recipe: Recipe, model: Model, index: int, question: str, rule: ExitRule | None) -> tuple[Trace, float]:
    """One run of the loop and its wall-clock seconds, prefill included."""
    controller = Controller(exit=rule, drafter=_drafter(recipe.draft, recipe.threads))
    prompt = model.prompt(question)
    keys = Keys(seed=recipe.seed, run=index)
    call = Call(prompt, recipe.max_new_tokens, model.eos, keys, _policy(recipe))
    trace = Trace()
    session = model.engine.session()
    start = time.perf_counter()
    for _ in controller.stream(session, model.tokenizer, call, trace):
        pass
    seconds = time.perf_counter() - start
    session.close()
    return trace, seconds


def collect_run(recipe: Recipe, index: int, question: str) -> dict[str, Any]:
    """A full run, with the answer that an exit would have given at every cue. Its record holds no times."""
    model = recipe.load()
    # Without cues to look at (runs for training heads) nothing is tried, and no cache needs a fork.
    rule = Collect(recipe, model) if recipe.max_cues else None
    trace, _ = _run(recipe, model, index, question, rule)
    return {
        "run": index,
        "question": question,
        "tokens": len(trace.tokens),
        "finish": trace.finish_reason,
        "text": plain_text(model, trace.tokens),
        "answer": answer_text(recipe, model, trace.tokens),
        "cues": rule.seen if rule else [],
    }


def compare_run(recipe: Recipe, index: int, question: str, rule: ExitRule) -> dict[str, Any]:
    """The same run with nothing switched on and under control, one after the other; which goes first alternates."""
    arms: dict[str, Any] = {}
    reads = bool(layers_of((_policy(recipe),), recipe.load().depth))
    order = ["baseline", "controlled"] if index % 2 == 0 else ["controlled", "baseline"]
    for arm in order:
        model = recipe.load(hidden=arm == "controlled" or reads)
        plain = Recipe(**{**vars(recipe), "draft": "none"}) if arm == "baseline" else recipe
        trace, seconds = _run(plain, model, index, question, rule if arm == "controlled" else None)
        exited = trace.exit
        answer = trace.tokens[trace.forced[0] :] if trace.forced else trace.tokens
        arms[arm] = {
            "tokens": trace.cost,
            "seconds": seconds,
            "answer": answer_text(recipe, model, answer),
            "exit": None if exited is None else exited.index,
            "drafted": trace.drafted,
            "accepted": trace.accepted,
            "why": trace.why,
            "scores": [decision.score for decision in trace.decisions],
        }
    return arms
