"""Makes one run: collected, with an exit tried at every cue, or in both arms of an evaluation.

Every command and every worker makes its runs here.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from reasonctl.backends import Model
from reasonctl.controller import (
    Boundary,
    Controller,
    Cue,
    Cues,
    Decision,
    Decode,
    ExitRule,
    Step,
    Trace,
    Trial,
)
from reasonctl.controller.thinking import after_thinking
from reasonctl.probes.signals import features_at, layer_of

from ..parallel.run_jobs import processes_of
from ..tasks.problem import Problem
from .logged import LoggedRun
from .making import FinishedRun, PreparedRun, check_batch, longest_of, run_window, windows_of
from .recipe import Recipe
from .records import CueRecord, RunRecord, pack
from .trials import EVERYWHERE, Trials

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass
class Collect(ExitRule):
    """The exit rule that never exits: it tries the exit on a fork, at some cues, and writes down what came of it."""

    recipe: Recipe
    """How the run is made."""
    model: Model
    """The model that makes it."""
    run: int = 0
    """The run's number in its job."""
    which: Trials = field(default_factory=Trials)
    """At which cues an exit is tried."""
    seen: list[CueRecord] = field(default_factory=list)
    """The cues at which an exit rule is asked that waits for all of these cues."""
    others: list[CueRecord] = field(default_factory=list)
    """The cues at which a rule is asked only if it waits for fewer of these cues.

    Another cue in the same row hides some of them. Others come after the most cues of a run; they are recorded until
    each name was met as often as that.
    """
    trials: bool = True
    """A trial may be run at every cue."""
    highest: float = -math.inf
    """The highest score so far."""
    max_cues = sys.maxsize
    """No limit, since the first cues of a smaller set come later."""

    def __post_init__(self) -> None:
        self.markers, self.cues = self.recipe.span(), Cues(self.recipe.cues)
        self.suffix, self.answer_ends, self.form = self.recipe.suffix, self.recipe.answer_ends, self.recipe.form
        self.always_answer, self.later_spans = self.recipe.always_answer, self.recipe.later_spans
        self.met: Counter[str] = Counter()

    def layers(self, depth: int) -> tuple[int, ...]:
        """The blocks of the recipe's layers."""
        return tuple(dict.fromkeys(layer_of(fraction, depth) for fraction in self.recipe.layers))

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Try the exit at the cues of the row where it is wanted, write all of them down, and stay."""
        entropy, row, score = at.entropy(), (at.cue, *at.cue.also), self._score(at)
        for cue in row:
            # Each of a smaller set's first cues is among the first cues of one of its names.
            if any(self.met[name] < self.recipe.max_cues for name in cue.names):
                first = cue is at.cue and cue.index < self.recipe.max_cues
                trial = None
                if self.which.wanted(self.recipe.seed, self.run, cue.index if first else None, score, self.highest):
                    trial = yield from at.answer(self.recipe.answer_tokens, cue, closing=self.closing)
                (self.seen if first else self.others).append(self._record(at, cue, entropy, score, trial))
        if score is not None:
            self.highest = max(self.highest, score)
        self.met.update({name for cue in row for name in cue.names})
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, float("inf"))

    def _score(self, at: Boundary) -> float | None:
        """The frozen probe's score of the row, computed as a deployed rule computes it."""
        if self.which.probe is None:
            return None
        blocks = [layer_of(fraction, self.model.depth) for fraction in self.recipe.layers]
        return self.which.probe.score(features_at(at.hidden, blocks))

    def _record(self, at: Boundary, cue: Cue, entropy: float, score: float | None, trial: Trial | None) -> CueRecord:
        states = [at.hidden[layer_of(fraction, self.model.depth)] for fraction in self.recipe.layers]
        text = self.model.tokenizer.decode(at.tokens[at.prompt : cue.first])
        values = _NUMBER.findall(text)
        return CueRecord(
            name=cue.name,
            names=tuple(cue.names),
            position=cue.first - at.prompt,
            row=cue.last - at.prompt,
            offset=len(text),
            # Up to the cue's last token, the token sampled after it, and the exit itself.
            tokens=None if trial is None else cue.last + 2 - at.prompt + trial.cost,
            trial=0 if trial is None else trial.cost,
            answer=None if trial is None else after_thinking(trial.text, self.markers),
            logprobs=() if trial is None else trial.logprobs,
            entropy=entropy,
            value=values[-1] if values else "",
            hidden=pack(np.concatenate(states).astype(np.float32)),
            score=score,
            complete=None if trial is None else trial.complete,
        )


def plain_text(model: Model, tokens: list[int]) -> str:
    """The tokens' text without the end of the sequence."""
    return model.tokenizer.decode([token for token in tokens if token not in model.eos])


def answer_text(recipe: Recipe, model: Model, tokens: list[int]) -> str:
    """The answer that the user reads: the text after thinking closed, or all of it if there are no markers."""
    return after_thinking(plain_text(model, tokens), recipe.span())


def one_run(
    recipe: Recipe, model: Model, index: int, question: str, rule: ExitRule | None, logged: LoggedRun | None = None
) -> FinishedRun:
    """Run number `index` of a job under `rule`: decoded, or read from a log, where the rule must not exit."""
    return run_window(model, [prepared(recipe, model, AskedRun(index, question, logged), rule)], 1)[0]


def prepared(recipe: Recipe, model: Model, asked: AskedRun, rule: ExitRule | None) -> PreparedRun:
    """What makes a run: decoded under the recipe, or read from its log."""
    logged = asked.logged
    call = recipe.call(model, asked.question, asked.run, logged.prompt if logged else ())
    if logged is None:
        always = recipe.always_answer
        thinking = recipe.thinking(model) if always else None
        controller = Controller(exit=rule, drafter=recipe.drafter(), thinking=thinking, always_answer=always)
        return PreparedRun(controller, call)
    policy = logged.policy(model, call.policy)
    return PreparedRun(Controller(exit=rule, drafter=logged.drafter()), replace(call, policy=policy))


class AskedRun(NamedTuple):
    """A run that a job asks for."""

    run: int
    """Its number in the job."""
    question: str
    """Its question."""
    logged: LoggedRun | None = None
    """Its tokens, where it was made elsewhere. None: it is decoded."""


def collect_run(
    recipe: Recipe, index: int, question: str, which: Trials = EVERYWHERE, logged: LoggedRun | None = None
) -> RunRecord:
    """A full run, with the answer that an exit would have given at the cues in question; nothing is graded yet.

    Args:
        recipe: How the run is made.
        index: Its number in its job.
        question: Its question.
        which: The cues at which an exit is tried.
        logged: The run's tokens, where it was made elsewhere. None: it is decoded.
    """
    model = recipe.load()
    rule = _collecting(recipe, model, index, which)
    trace, _ = one_run(recipe, model, index, question, rule, logged)
    return record_of(recipe, model, AskedRun(index, question, logged), trace, rule)


def collect_runs(recipe: Recipe, window: Sequence[AskedRun], which: Trials = EVERYWHERE) -> list[RunRecord]:
    """`collect_run` for several questions, whose runs share forwards where the recipe asks for batches.

    Args:
        recipe: How the runs are made.
        window: The runs. Which of them share forwards follows from their order.
        which: At which cues exits are tried.
    """
    model = recipe.load()
    rules = [_collecting(recipe, model, asked.run, which) for asked in window]
    runs = [prepared(recipe, model, asked, rule) for asked, rule in zip(window, rules, strict=True)]
    made = run_window(model, runs, recipe.batch)
    return [
        record_of(recipe, model, asked, run.trace, rule) for asked, run, rule in zip(window, made, rules, strict=True)
    ]


def start_engine(recipe: Recipe) -> None:
    """Start what a process starts with its first run, vLLM's engine, so that runs can be timed without."""
    model = recipe.load()
    if model.backend == "vllm":
        from reasonctl.backends.vllm.runs import start

        start(model, [_collecting(recipe, model, 0, EVERYWHERE)])


def check_recipe(
    recipe: Recipe, model: Model, problems: Sequence[Problem], workers: int | str, *, besides: int = 0
) -> None:
    """Raise ControllerError, before any work, if the runs of a job, with their trials, don't fit in its batches.

    Args:
        recipe: How the runs are made.
        model: The job's model, loaded for its batch.
        problems: Run i is on problem i.
        workers: As in `run_jobs`.
        besides: As in `check_batch`.
    """
    processes = processes_of(workers, len(windows_of(problems, recipe.batch)))
    if problems and (recipe.batch > 1 or processes):
        longest = AskedRun(0, longest_of(model, problems))
        run = prepared(recipe, model, longest, _collecting(recipe, model, 0, EVERYWHERE))
        check_batch(model, [run], recipe.batch, processes=processes, besides=besides)


def check_arms(recipe: Recipe, model: Model, problems: Sequence[Problem], workers: int) -> None:
    """`check_recipe` for `compare_runs`, whose plain arm on llama.cpp may have a context of its own."""
    apart = model.backend == "llama.cpp" and (recipe.draft != "none" or not _reads_hidden(recipe))
    check_recipe(recipe, model, problems, workers, besides=model.engine.loaded_bytes if apart else 0)


def _collecting(recipe: Recipe, model: Model, index: int, which: Trials) -> Collect | None:
    """The rule that collects; None without cues to observe (runs for training heads), so that no cache needs a fork."""
    return Collect(recipe, model, index, which) if recipe.max_cues else None


def record_of(recipe: Recipe, model: Model, asked: AskedRun, trace: Trace, rule: Collect | None) -> RunRecord:
    """A finished run, with what a collecting rule saw of it; without grades."""
    index, question, _ = asked
    return RunRecord(
        run=index,
        problem=Problem(question, None).id,
        question=question,
        tokens=len(trace.tokens),
        finish=str(trace.finish_reason),
        text=plain_text(model, trace.tokens),
        answer=answer_text(recipe, model, trace.tokens),
        cues=tuple(rule.seen) if rule else (),
        others=tuple(rule.others) if rule else (),
    )


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """One run of an evaluation, with control or without."""

    tokens: int
    """The run's cost: tokens generated, or fed for its sake, beyond the prompt."""
    seconds: float
    """Wall-clock, prefill included; in a batch an equal share of the window's."""
    answer: str
    """What the user reads as the answer."""
    exit: int | None
    """Index of the cue at which the run exited. None: it didn't."""
    drafted: int
    """Tokens proposed by the drafter."""
    accepted: int
    """Drafted tokens that were accepted."""
    why: str
    """One line of the trace: what the controller did."""
    scores: tuple[float, ...]
    """The rule's score at each cue at which it was asked."""
    right: bool = False
    """Whether the grader accepts the answer; False where nothing was graded, or there is no right answer."""
    trace: Trace = field(default_factory=Trace)
    """The run's whole record."""


class Arms(NamedTuple):
    """The same problem with the same keys, in both arms."""

    baseline: ArmRecord
    """Without a rule and without drafts."""
    controlled: ArmRecord
    """Under the rule, with the recipe's drafter."""


def compare_runs(
    recipe: Recipe, window: Sequence[AskedRun], rule: ExitRule, *, baseline_first: bool = True
) -> list[Arms]:
    """Make the same runs twice, plainly and under control. Only runs of one arm share forwards.

    Args:
        recipe: How the runs are made.
        window: The runs.
        rule: The rule of the controlled arm.
        baseline_first: Whether the plain arm comes first; alternate, so that no arm profits from its place.
    """
    reads_hidden, plain = _reads_hidden(recipe), replace(recipe, draft="none")

    def baseline() -> list[ArmRecord]:
        return _arm(plain, plain.load(hidden=reads_hidden), window, None)

    def controlled() -> list[ArmRecord]:
        return _arm(recipe, recipe.load(hidden=True), window, rule)

    if baseline_first:
        return list(map(Arms, baseline(), controlled()))
    first = controlled()
    return list(map(Arms, baseline(), first))


def _reads_hidden(recipe: Recipe) -> bool:
    """Whether plain runs need hidden states."""
    return bool(recipe.parsed_policy().layers(recipe.load().depth))


def _arm(recipe: Recipe, model: Model, window: Sequence[AskedRun], rule: ExitRule | None) -> list[ArmRecord]:
    runs = [prepared(recipe, model, asked, rule) for asked in window]
    return [_arm_record(recipe, model, run) for run in run_window(model, runs, recipe.batch)]


def _arm_record(recipe: Recipe, model: Model, run: FinishedRun) -> ArmRecord:
    trace = run.trace
    return ArmRecord(
        tokens=trace.cost,
        seconds=run.seconds,
        answer=answer_text(recipe, model, trace.tokens[trace.forced[0] :] if trace.forced else trace.tokens),
        exit=None if trace.exit is None else trace.exit.index,
        drafted=trace.drafted,
        accepted=trace.accepted,
        why=trace.why,
        scores=tuple(decision.score for decision in trace.decisions),
        trace=trace,
    )
