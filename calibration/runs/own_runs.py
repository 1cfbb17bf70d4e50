"""Which runs of a log a job can use: as tokens under the model's template, each checked and counted by reason.

And whether they are the model's own, under the sampler that the job names.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from reasonctl.backends import Model
from reasonctl.controller import Controller, ControllerError
from reasonctl.controller.sampling import Explained
from reasonctl.controller.thinking import Format

from ..tasks.problem import Problem
from ..tasks.run_logs import LogLine, RunLog, Unusable
from .logged import LoggedRun
from .making import run_once
from .recipe import Recipe, usual_room

STRIPPED = "reasoning stripped: the model ended its run, and no closing marker is in it"
MOST_STRIPPED = 0.1
"""A larger share of runs without their reasoning refuses the log."""
CHECKED = 64
"""Most runs whose surprisal is measured."""
CHECKED_TOKENS = 20_000
"""Tokens after which no further run is measured."""
ERRORS = 3.5
"""Standard errors by which the surprisal may be off; about 1 log in 2,000 of the model's own is refused."""
NEAR = 0.02
"""Share of the expected surprisal by which it may be off besides: engines and quantisations round differently."""
MOST_IMPOSSIBLE = 0.01
"""Share of tokens that the sampler couldn't draw: rounding moves a few over the edge of a truncation."""
_QUESTION = "What is 1 + 1?"


@dataclass(frozen=True)
class OwnRuns:
    """The runs of a log that a job can use."""

    runs: list[tuple[Problem, LoggedRun]]
    """Questions and tokens, in order, each prompt once."""
    unusable: Unusable
    """The other lines."""


class Reader:
    """Makes tokens of a log's lines."""

    def __init__(self, model: Model, recipe: Recipe, found: Format) -> None:
        """Prepare for a log.

        Args:
            model: The model that is said to have made the runs.
            recipe: How the job's runs are made.
            found: How the model marks its thinking.
        """
        self._model = model
        self._most = recipe.max_new_tokens
        self._markers = found.markers
        self._suffix = found.suffix
        # What the template puts around a question, to take it off a prompt that is a rendered one.
        rendered = model.tokenizer.decode(model.prompt(_QUESTION))
        self._before, _, self._after = rendered.partition(_QUESTION)
        self._start = model.tokenizer.decode(model.start)
        self._opened = self._markers is not None and self._after.rstrip().endswith(self._markers.open)
        self._writes_open = self._markers is not None and not self._opened and found.opens != "start"

    def question(self, prompt: str) -> str:
        """The question of a prompt that the template may have rendered already."""
        for before in (self._before, self._before.removeprefix(self._start)):
            if (before or self._after) and prompt.startswith(before) and prompt.endswith(self._after):
                return prompt[len(before) : len(prompt) - len(self._after)]
        return prompt

    def prompt(self, line: LogLine, question: str) -> tuple[int, ...] | str:
        """The tokens of the line's prompt, or why there are none."""
        if not line.messages:
            if self._after.strip() and self._after.strip() in question:
                return "a prompt that a template rendered with other settings"
            return tuple(self._model.prompt(question))
        if self._model.chat is None:
            return "a conversation, and the model has no chat template"
        tokens = self._model.chat(line.messages)
        if tokens is None:
            return "a conversation that the model's template can't render"
        if len(tokens) + min(self._most, usual_room(self._model)) > self._model.context:
            return "a conversation that leaves no room for a run"
        return tuple(tokens)

    def run(self, line: LogLine) -> LoggedRun | str:
        """The line's run, or why it can't be used."""
        model = self._model
        text = self._text(line)
        tokens = [*(model.tokenizer.encode(text) if line.tokens is None else line.tokens)]
        if line.tokens is not None and tokens and tokens[-1] in model.eos:
            tokens.pop()
        if not tokens:
            return "an empty completion"
        if any(token >= model.can.vocabulary for token in tokens):
            return "tokens that the model doesn't have"
        if any(token in model.eos for token in tokens):
            return "an end of sequence within the text"
        written = model.tokenizer.decode(tokens)
        if written != text and (line.tokens is None or line.text):
            return "tokens that don't give the text back"
        if self._markers is not None and line.finish == "stop" and self._markers.close not in written:
            return STRIPPED
        if line.finish == "length" and len(tokens) < self._most:
            raise ControllerError(
                f"the run in {line.where} was cut at {len(tokens)} tokens, and --max-new-tokens is {self._most}; "
                f"give --max-new-tokens {len(tokens)} or fewer, the limit of the log"
            )
        # A longer run is what the model writes under a larger limit: under this one it ends here.
        return LoggedRun(tuple(tokens[: self._most]), line.where)

    def _text(self, line: LogLine) -> str:
        """The completion as the model wrote it: reasoning and answer joined, without what the prompt holds already."""
        marks, text = self._markers, line.text
        if marks is None:
            return (line.reasoning or "") + text
        if line.reasoning is not None:
            lead, _, tail = self._suffix.partition(marks.close)
            tail = tail[: len(tail) - len(tail.lstrip())]
            thought, answered = line.reasoning, line.finish == "stop" or text
            lead = "" if thought[-1:].isspace() else lead
            tail = "" if text[:1].isspace() else tail
            text = thought + (lead + marks.close + tail + text if answered else "")
            return marks.open + ("" if text[:1].isspace() else "\n") + text if self._writes_open else text
        if self._opened and text.lstrip().startswith(marks.open):
            text = text.lstrip().removeprefix(marks.open)
            spaces = self._after[len(self._after.rstrip()) :]
            return text.removeprefix(spaces)
        return text


def own_runs(model: Model, recipe: Recipe, found: Format, log: RunLog) -> OwnRuns:
    """The runs of a log under a model's template, and the lines that can't be used.

    Raises:
        ControllerError: No line can be used, reasoning was stripped from many, or the log has another length limit.
    """
    reader, unusable, runs = Reader(model, recipe, found), log.unusable, list[tuple[Problem, LoggedRun]]()
    prompts, questions = set[tuple[int, ...]](), set[int]()
    for line in log.lines:
        problem = Problem(line.prompt if line.messages else reader.question(line.prompt), None)
        run = reader.run(line)
        prompt = reader.prompt(line, problem.question)
        if isinstance(run, str):
            unusable.count(run, line.where)
        elif isinstance(prompt, str):
            unusable.count(prompt, line.where)
        elif prompt in prompts:
            unusable.count("a prompt that came before", line.where)
        elif problem.id in questions:
            unusable.count("a question that came before, in another conversation", line.where)
        else:
            prompts.add(prompt)
            questions.add(problem.id)
            runs.append((problem, replace(run, prompt=prompt) if line.messages else run))
    stripped = len(unusable.lines.get(STRIPPED, ()))
    if stripped > MOST_STRIPPED * (stripped + len(runs)):
        close = "" if found.markers is None else found.markers.close
        raise ControllerError(
            f"{stripped} of {stripped + len(runs)} runs of {log.name} end without {close!r}, so their reasoning was "
            "stripped; log it too (reasoning_content), or name other markers with --think-close"
        )
    if not runs:
        raise ControllerError(f"no line of {log.name} can be used: {'; '.join(unusable.messages()) or 'it is empty'}")
    return OwnRuns(runs, unusable)


def explained_by(recipe: Recipe, runs: Sequence[tuple[Problem, LoggedRun]]) -> Explained:
    """How well the recipe's model and policy explain runs: each is read once, in a forward for many tokens."""
    model, total = recipe.load(), Explained()
    for index, (problem, run) in enumerate(runs):
        call = recipe.call(model, problem.question, index, run.prompt)
        policy = run.policy(model, call.policy)
        run_once(model, Controller(drafter=run.drafter()), replace(call, policy=policy))
        total += policy.explained
    return total


def check_own(recipe: Recipe, runs: Sequence[tuple[Problem, LoggedRun]]) -> str:
    """Check, on a few random runs, that the recipe's model wrote them under the recipe's policy.

    Returns:
        What was measured, in one line.

    Raises:
        ControllerError: The tokens are more, or less, surprising than the policy's own would be.
    """
    drawn = random.Random(f"own {recipe.seed}").sample(list(runs), min(CHECKED, len(runs)))
    before = accumulate((len(run.tokens) for _, run in drawn), initial=0)
    some = [one for one, tokens in zip(drawn, before, strict=False) if tokens < CHECKED_TOKENS]
    found = explained_by(recipe, some)
    n = max(1, found.tokens)
    error = math.sqrt(found.variance) / n
    met, expected = found.surprisal / n, found.expected / n
    said = (
        f"the log's tokens have a surprisal of {met:.3f} nats, and {recipe.policy} of {recipe.model} expects "
        f"{expected:.3f} ± {error:.3f} ({found.tokens} tokens of {len(some)} runs, {found.impossible} impossible)"
    )
    far = abs(met - expected) > ERRORS * error + NEAR * expected
    if far or found.impossible > MOST_IMPOSSIBLE * (found.tokens + found.impossible):
        raise ControllerError(
            f"{said}; another model or another sampler wrote it: give the log's --temperature or --policy, or its model"
        )
    return said
