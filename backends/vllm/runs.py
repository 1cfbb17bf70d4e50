"""Whole runs in vLLM for jobs that collect: all texts in one batch, then the exits that a rule tries at their cues.

vLLM has a loop of its own, so a run is made first and the rule reads it afterwards, cue by cue, as our loop would have
asked it. A rule that never exits sees the same either way. The trials of all runs go into common batches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from reasonctl.controller import (
    Boundary,
    Call,
    Closing,
    Controller,
    ControllerError,
    Cue,
    Cues,
    Decode,
    ExitRule,
    Span,
    Step,
    Thinking,
    Trace,
    Trial,
)
from reasonctl.controller.thinking import exit_place, exit_text
from reasonctl.probes import NeverExit

from ..model import Model
from .batch import run_all
from .client_run import Client, ClientRun
from .recording import Seen
from .sampler import sampling_of


@dataclass(frozen=True)
class RecordedBoundary(Boundary):
    """A cue of a run that is over."""

    seen: Seen | None = None
    """What was recorded at its row."""

    def entropy(self) -> float:
        """Entropy in nats of the next-token distribution after the cue, at temperature 1."""
        assert self.seen is not None
        return self.seen.entropy


class Tried(NamedTuple):
    """A trial that a rule asks for."""

    tokens: list[int]
    """The run's tokens up to the exit's place."""
    forced: list[int]
    """The exit."""
    closing: Closing
    """What ends the answer."""
    most: int
    """Most answer tokens."""
    call: Call
    """The run's call."""


_NO_CUES = Cues(["wait"])
"""For runs at which no cue is sought."""

Replay = Generator[Tried, Trial, None]
"""A run that is read; it asks for trials."""


def start(model: Model, rules: Sequence[ExitRule | None]) -> Any:
    """Start the engine of runs under these rules, unless it runs; returns vLLM's LLM.

    Raises:
        ControllerError: It runs, and records something else.
    """
    return cast(Any, model.engine).started(next((rule for rule in rules if rule is not None), None))


def make_runs(model: Model, runs: Sequence[tuple[Controller, Call]]) -> list[Trace]:
    """Make runs under rules that never exit.

    Args:
        model: A model that `load_vllm` gave.
        runs: What controls each, and its call.

    Raises:
        ControllerError: Something is asked for that vLLM can't do.
    """
    if not runs:
        return []
    engine, llm = model.engine, start(model, [controller.exit for controller, _ in runs])
    made = [_full_run(model, i, controller, call) for i, (controller, call) in enumerate(runs)]
    run_all(llm, made, [{**sampling_of(call.policy), "seed": _seed(call, 0)} for _, call in runs])
    seen = cast(Any, engine).recorded()
    traces = [_trace(run, call) for run, (_, call) in zip(made, runs, strict=True)]
    replays: dict[int, Replay] = {}
    for i, (controller, call) in enumerate(runs):
        if controller.exit is not None:
            own = {row: one for (run, row), one in seen.items() if run == i}
            replays[i] = replay(model, controller, call, made[i], own)
    _try_all(model, llm, replays, traces)
    return traces


def replay(model: Model, controller: Controller, call: Call, run: ClientRun, seen: dict[int, Seen]) -> Replay:
    """Ask a run's rule at its cues, in order, as our loop asks it.

    Args:
        model: The model that made the run.
        controller: The run's.
        call: The run's.
        run: The run.
        seen: What was recorded, by row.

    Yields:
        The trials that the rule asks for.
    """
    rule, memory = controller.exit, list[Any]()
    assert rule is not None
    for found, length in _asked(model, controller, call, run):
        row = seen.get(found.last - len(call.prompt))
        if row is None:
            raise ControllerError(f"vLLM recorded nothing at the cue {found.name!r}, token {found.last} of a run")
        boundary = _boundary(model, rule, call, run.tokens[:length], found, row, memory)
        decision = yield from cast(Generator[Tried, Trial, Any], rule.decide(boundary))
        if decision.exit:
            raise ControllerError("in vLLM runs are made for rules that never exit; serve exits with ctl serve")


def _asked(model: Model, controller: Controller, call: Call, run: ClientRun) -> Iterator[tuple[Cue, int]]:
    """The cues at which a run's rule is asked, and the length of the text at which it is: one token after each."""
    rule, thinking = controller.exit, controller.closing
    assert rule is not None and thinking is not None
    span = Span(model.tokenizer, thinking.markers, rule.cues, thinking.opens, rule.form)
    span.begin(call.prompt)
    limit, asked = len(call.prompt) + call.max_new_tokens, 0
    for length in range(len(call.prompt) + 1, len(run.tokens) + 1):
        token = run.tokens[length - 1]
        cue = span.push(token)
        ended = length == limit or (token in call.eos and rule.form != "append-open")
        if asked >= rule.max_cues or (span.number > 1 and not rule.later_spans):
            return
        if cue is None or ended:
            continue
        fitting = [one for one in (cue, *cue.also) if _forced_end(model, rule, one) < limit]
        if fitting:
            yield replace(fitting[0], index=asked, also=tuple(fitting[1:])), length
            asked += 1


def _boundary(
    model: Model, rule: ExitRule, call: Call, tokens: list[int], cue: Cue, seen: Seen, memory: list[Any]
) -> RecordedBoundary:
    """What the rule is given at a cue; seen: what was recorded at its row."""
    blocks = rule.layers(model.depth)
    state = seen.state.reshape(len(blocks), -1)
    return RecordedBoundary(
        cue=cue,
        hidden={block: state[i].copy() for i, block in enumerate(blocks)},
        tokens=tokens,
        forced=tuple(_forced(model, rule, cue, rule.closing)),
        prompt=len(call.prompt),
        session=cast(Any, None),
        memory=memory,
        row=lambda: np.full(1, math.nan),  # it isn't kept; its entropy is
        answer=_answers(model, rule, call, tokens, cue),
        seen=seen,
    )


def _answers(
    model: Model, rule: ExitRule, call: Call, tokens: list[int], cue: Cue
) -> Callable[..., Generator[Decode, Step, Trial]]:
    """What a boundary's `answer` is."""
    limit = len(call.prompt) + call.max_new_tokens

    def answer(longest: int, at: Cue | None = None, closing: Closing | None = None) -> Generator[Tried, Trial, Trial]:
        where, how = at or cue, closing or rule.closing
        before, forced = tokens[: exit_place(rule.form, where)], _forced(model, rule, where, how)
        most = min(limit - len(before) - len(forced), longest)
        if most < 1:
            return Trial((), (), model.tokenizer.decode(forced), 0, complete=False)
        return (yield Tried(before, forced, how, most, call))

    return cast(Callable[..., Generator[Decode, Step, Trial]], answer)


def _try_all(model: Model, llm: Any, replays: dict[int, Replay], traces: list[Trace]) -> None:
    """Read all runs; the trials that they ask for at the same time are one batch."""
    waiting = {i: tried for i, reading in replays.items() if (tried := next(reading, None)) is not None}
    while waiting:
        runs = {i: _trial_run(model, tried) for i, tried in waiting.items()}
        params = [
            {**sampling_of(tried.call.policy), "seed": _seed(tried.call, len(tried.tokens)), "logprobs": 0}
            for tried in waiting.values()
        ]
        run_all(llm, list(runs.values()), params)
        going: dict[int, Tried] = {}
        for i, run in runs.items():
            trial = _trial(model, waiting[i], run)
            traces[i].cost += trial.cost
            try:
                going[i] = replays[i].send(trial)
            except StopIteration:
                continue
        waiting = going


def _full_run(model: Model, number: int, controller: Controller, call: Call) -> ClientRun:
    if controller.drafter is not None or controller.limits.any:
        raise ControllerError(
            "vLLM drafts and limits thinking in its own ways; leave --draft and limits of thinking out"
        )
    recorded = {} if controller.exit is None else {"reasonctl_record": number}
    rule = controller.exit or NeverExit(cues=_NO_CUES, suffix="\n")
    client = _client(model, rule, controller.closing)
    return ClientRun(client, list(call.prompt), call.max_new_tokens, recorded, controlled=False)


def _trial_run(model: Model, tried: Tried) -> ClientRun:
    closing = tried.closing
    thinking = cast(Any, model.engine).thinking(closing.suffix)
    rule = NeverExit(cues=_NO_CUES, suffix=closing.suffix, markers=thinking.markers, answer_ends=closing.answer_ends)
    return ClientRun.after_exit(_client(model, rule, thinking), tried.tokens, tried.forced, tried.most)


def _client(model: Model, rule: ExitRule, thinking: Thinking | None) -> Client:
    return Client(rule, model.tokenizer, thinking or Thinking(None, "\n"), -1, model.eos)


def _trial(model: Model, tried: Tried, run: ClientRun) -> Trial:
    """A finished trial."""
    answer, forced = run.written, tried.forced
    text = model.tokenizer.decode([token for token in [*forced, *answer] if token not in model.eos])
    cost = len(forced) + len(answer)
    return Trial(tuple(answer), tuple(run.logprobs), text, cost, run.finish == "stop")


def _trace(run: ClientRun, call: Call) -> Trace:
    trace = Trace()
    trace.tokens, trace.finish_reason = run.written, run.finish
    trace.cost, trace.prompt_tokens = run.cost, len(call.prompt)
    trace.seed, trace.run = call.keys.seed, call.keys.run
    return trace


def _forced(model: Model, rule: ExitRule, cue: Cue, closing: Closing) -> list[int]:
    return model.tokenizer.encode(exit_text(rule.form, cue, closing.suffix))


def _forced_end(model: Model, rule: ExitRule, cue: Cue) -> int:
    """Absolute index of the token after an exit's last one."""
    return exit_place(rule.form, cue) + len(_forced(model, rule, cue, rule.closing))


def _seed(call: Call, position: int) -> int:
    """vLLM's seed of a part of a run: other runs and other trials draw other numbers."""
    text = f"{call.keys.seed} {call.keys.run} {position}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
