"""One run of the loop, timed. Every command and every worker plays its runs through here."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reasonctl.backends.model import Model
from reasonctl.controller import Boundary, Call, Controller, Cue, Cues, Decision, Event, ExitRule, Trace, Trial
from reasonctl.controller.sampling.policy import layers_of
from reasonctl.controller.thinking.answers import after_thinking
from reasonctl.controller.thinking.chat_template import read_template
from reasonctl.probes.signals.probe import layer_of

from .recipe import Recipe
from .run_file import pack


def play(
    model: Model, controller: Controller, call: Call, each: Callable[[Event], None] | None = None
) -> tuple[Trace, float]:
    """The run's trace and its wall-clock seconds, prefill included; `each` gets its tokens as they come."""
    if controller.exit is not None:
        controller = controller.knowing(read_template(model.template).thinking)
    session, trace = model.engine.session(), Trace()
    start = time.perf_counter()
    for event in controller.stream(session, model.tokenizer, call, trace):
        if each is not None:
            each(event)
    seconds = time.perf_counter() - start
    session.close()
    return trace, seconds


_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass
class Collect:
    """The exit rule that never exits: at every cue it tries the exit on a fork and writes down what came of it.

    seen: what the rule deployed at all of these cues looks at. others: what is looked at with fewer of them only: a cue
    that another one in its row hides, and those past the most cues of a run, until each name had its own share of them.
    """

    recipe: Recipe
    model: Model
    seen: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    trials: bool = True
    max_cues = sys.maxsize
    """Never reached: a smaller set of cues has its first ones later."""

    def __post_init__(self) -> None:
        self.markers, self.cues = self.recipe.span(), Cues(self.recipe.cues)
        self.suffix = self.recipe.suffix
        self.met: Counter[str] = Counter()

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(layer_of(f, depth) for f in self.recipe.layers))

    def decide(self, at: Boundary) -> Any:
        entropy, row = at.entropy(), (at.cue, *at.cue.also)
        for cue in row:
            # The first of a set's cues are among the first of at least one of its names.
            if any(self.met[name] < self.recipe.max_cues for name in cue.names):
                trial = yield from at.answer(self.recipe.answer_tokens, cue)
                first = cue is at.cue and cue.index < self.recipe.max_cues
                (self.seen if first else self.others).append(self._look(at, cue, entropy, trial))
        self.met.update({name for cue in row for name in cue.names})
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, float("inf"))

    def _look(self, at: Boundary, cue: Cue, entropy: float, trial: Trial) -> dict[str, Any]:
        states = [at.hidden[layer_of(f, self.model.depth)] for f in self.recipe.layers]
        text = self.model.tokenizer.decode(at.tokens[at.prompt : cue.first])
        values = _NUMBER.findall(text)
        return {
            "name": cue.name,
            "names": list(cue.names),
            "position": cue.first - at.prompt,
            "row": cue.last - at.prompt,
            "offset": len(text),
            # Up to the cue's last token, the token sampled behind it, and the exit itself.
            "tokens": cue.last + 2 - at.prompt + trial.cost,
            "trial": trial.cost,
            "answer": after_thinking(trial.text, self.markers),
            "logprobs": list(trial.logprobs),
            "entropy": entropy,
            "value": values[-1] if values else "",
            "hidden": pack(np.concatenate(states).astype(np.float32)),
        }


def plain_text(model: Model, tokens: list[int]) -> str:
    """The tokens' text without the end of the sequence."""
    return model.tokenizer.decode([token for token in tokens if token not in model.eos])


def answer_text(recipe: Recipe, model: Model, tokens: list[int]) -> str:
    """What the user reads as the answer: the text after thinking closed; all of it if there are no markers."""
    return after_thinking(plain_text(model, tokens), recipe.span())


def one_run(recipe: Recipe, model: Model, index: int, question: str, rule: ExitRule | None) -> tuple[Trace, float]:
    """Run number `index` of a job under `rule`, and its seconds."""
    return play(model, Controller(exit=rule, drafter=recipe.drafter()), recipe.call(model, question, index))


def collect_run(recipe: Recipe, index: int, question: str) -> dict[str, Any]:
    """A full run, with the answer that an exit would have given at every cue. Its record holds no times."""
    model = recipe.load()
    # Without cues to look at (runs for training heads) nothing is tried, and no cache needs a fork.
    rule = Collect(recipe, model) if recipe.max_cues else None
    trace, _ = one_run(recipe, model, index, question, rule)
    return {
        "run": index,
        "question": question,
        "tokens": len(trace.tokens),
        "finish": trace.finish_reason,
        "text": plain_text(model, trace.tokens),
        "answer": answer_text(recipe, model, trace.tokens),
        "cues": rule.seen if rule else [],
        "others": rule.others if rule else [],
    }


def compare_run(recipe: Recipe, index: int, question: str, rule: ExitRule) -> dict[str, Any]:
    """The same run with nothing switched on and under control, one after the other; which goes first alternates."""
    arms: dict[str, Any] = {}
    reads = bool(layers_of((recipe.law(),), recipe.load().depth))
    order = ["baseline", "controlled"] if index % 2 == 0 else ["controlled", "baseline"]
    for arm in order:
        model = recipe.load(hidden=arm == "controlled" or reads)
        plain = replace(recipe, draft="none") if arm == "baseline" else recipe
        trace, seconds = one_run(plain, model, index, question, rule if arm == "controlled" else None)
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
