"""What happened in one run: events for the consumer, decisions at cues, and one Trace for the record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from .notebook import html_table

Source = Literal["model", "draft", "forced"]
Finish = Literal["stop", "length"]
Closer = Literal["model", "exit", "budget", "time", "asked", "loop", "end"]
BudgetPer = Literal["run", "span"]
Held = Literal["", "audit", "alarm"]


class Event(NamedTuple):
    """One token that can no longer be taken back."""

    token: int
    """Its id."""
    source: Source
    """Who wrote it: the model, a draft that the model accepted, or the controller."""
    position: int
    """Its index, counted from the start of the prompt."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the exit rule said at one cue."""

    exit: bool
    """Thinking shall end here."""
    cue: str
    """Name of the cue."""
    index: int
    """Number of the cue in its run, from 0."""
    position: int
    """Tokens generated before the cue."""
    score: float
    """The signal's value at the cue; NaN where nothing was read, since no value would end thinking."""
    threshold: float
    """The rule exits above it."""
    gave_up: bool = False
    """Thinking ended because the run seemed hopeless."""
    held: Held = ""
    """Why an exit that was decided isn't made: the run is audited, or audits have raised the alarm."""

    @property
    def at(self) -> str:
        """The cue and what its score was."""
        if math.isnan(self.score):
            return f"at cue {self.index + 1} ({self.cue!r}): not scored, as no score would end thinking"
        sign = ">" if self.score > self.threshold else "<="
        return f"at cue {self.index + 1} ({self.cue!r}): score {self.score:.3f} {sign} {self.threshold:.3f}"

    def __str__(self) -> str:
        return f"{'gave up' if self.gave_up else 'exited' if self.exit else 'went on'} {self.at}"


@dataclass
class ThinkingSpan:
    """One thinking span of a run. Places are indices of the run's tokens."""

    start: int
    """The first thinking token."""
    end: int
    """The token after the last."""
    closed_by: Closer | None = None
    """Who closed it; None: nobody, so far."""
    forced: int = 0
    """Number of tokens from `end` on that were fed to close it."""

    @property
    def tokens(self) -> int:
        """Thinking tokens in it: markers don't count, forced texts inside the span do."""
        return self.end - self.start


@dataclass
class Trace:
    """The record of one run. Decoding writes it and never reads it."""

    prompt_tokens: int = 0
    """Length of the prompt."""
    tokens: list[int] = field(default_factory=list)
    """What the run generated, with forced tokens and the end-of-sequence token."""
    sources: list[Source] = field(default_factory=list)
    """Who wrote each of `tokens`. As plain values it is one text, of the first letter of each: m, d or f."""
    entropies: list[float | None] = field(default_factory=list)
    """Under `Controller(record=True)`: the entropy, in nats, of the model's own row for each of `tokens`; None: forced.

    Empty where nothing was recorded.
    """
    temperatures: list[float | None] = field(default_factory=list)
    """The same of the temperature that each was drawn at; 0 is greedy, None where none is known."""
    cost: int = 0
    """Tokens generated or fed beyond the prompt: `tokens`, what was taken back, and trial answers.

    Rejected draft tokens don't count; `drafted` has them.
    """
    forwards: int = 0
    """Forwards of the model, those of trials included."""
    trials: int = 0
    """Exits that were tried."""
    trial_tokens: int = 0
    """Of `cost`: forced texts and answers of trials."""
    trial_forwards: int = 0
    """Of `forwards`: those of trials."""
    trial_rows: int = 0
    """Tokens that these forwards fed, with those of rejected drafts."""
    drafted: int = 0
    """Drafted tokens that were verified; a trial's own drafts aren't among them."""
    accepted: int = 0
    """Drafted tokens that were accepted."""
    seed: int = 0
    """Seed of the run's randomness."""
    run: int = 0
    """Number of the run under its seed."""
    repeat: bool = False
    """Another sample of a prompt that was run in the same call: the two depend on each other."""
    controlled: bool = False
    """There was an exit rule."""
    shadow: bool = False
    """The exit rule decided and didn't act."""
    rule: str = ""
    """What the exit rule says about itself: its promise, or why it never exits."""
    overrides: dict[str, float | str] = field(default_factory=dict)
    """The call's own options, e.g. {"risk": 0.02}; the controller's settings hold for the rest."""
    budget: int | None = None
    """Most thinking tokens."""
    warn_before: int | None = None
    """Thinking tokens before the budget's end at which the model was to be warned; None: it wasn't."""
    budget_per: BudgetPer = "run"
    """What has the budget: the run with all of its spans, or each span."""
    spent_before: int = 0
    """Thinking tokens of earlier calls of the same turn, which the budget counts."""
    seconds: float | None = None
    """Most seconds of thinking."""
    stop_loops: int | None = None
    """How often a span stands in a row before thinking is closed for it; None: loops weren't stopped."""
    always_answer: bool = False
    """An end-of-sequence inside thinking closes it, and the model answers."""
    loop: int | None = None
    """Length in tokens of the span that thinking was found to repeat so often."""
    decisions: list[Decision] = field(default_factory=list)
    """What the exit rule said, cue by cue."""
    would_exit_at: int | None = None
    """Where in `tokens` the first exit that wasn't acted on would have fed its suffix: after a cue that stays."""
    spans: list[ThinkingSpan] = field(default_factory=list)
    """The thinking spans, in order."""
    warned: list[int] = field(default_factory=list)
    """Where in `tokens` a warning begins that the budget was about to end."""
    reopened: list[int] = field(default_factory=list)
    """Where in `tokens` a close of the model's own was taken back and thinking was continued."""
    repeated: int = 0
    """Closing markers that the model wrote again in its answer and that were taken back."""
    finish_reason: Finish | None = None
    """Why the run ended: "stop" for an end token or a stop condition, "length" at its limit. None: it was left."""
    note: str = ""
    """Why the controller could not act, where it could not."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know about this run, one line each."""
    why_not: list[str] = field(default_factory=list)
    """Why the exit rule's promise doesn't cover this run, one line each, as far as the run shows it."""
    log_z: float | None = None
    """Under a `Weighed` policy: the sum of ln Z over the drawn tokens, the run's importance weight as a logarithm."""
    mean_logprob: float | None = None
    """Under a `Scored` policy: the mean log-probability of the drawn tokens under the model, in nats."""
    drift: dict[str, Any] | None = None
    """What the rule's drift monitor knows after this run; None where nothing is monitored."""
    audit: dict[str, Any] | None = None
    """What the rule's audits know after this run, and its own part: whether it was `drawn`, whether it `failed` and its
    `cost` in tokens. None where nothing is audited."""

    @property
    def closed_by(self) -> Closer | None:
        """Who ended the last span; None: it didn't end, or thinking never began."""
        return self.spans[-1].closed_by if self.spans else None

    @property
    def thinking(self) -> tuple[int, int] | None:
        """First thinking token of the last span, and the one after the last; None: thinking never began."""
        return (self.spans[-1].start, self.spans[-1].end) if self.spans else None

    @property
    def forced(self) -> tuple[int, int] | None:
        """Start and length of the last forced tokens that closed a span; None: nothing was forced."""
        return next(((span.end, span.forced) for span in reversed(self.spans) if span.forced), None)

    @property
    def exit(self) -> Decision | None:
        """The decision that ended thinking, if one did."""
        return self.decisions[-1] if any(span.closed_by == "exit" for span in self.spans) else None

    @property
    def would_exit(self) -> Decision | None:
        """The first decision to exit that wasn't acted on: in shadow mode, or before `min_thinking`."""
        return next((decision for decision in self.decisions if decision.exit and decision is not self.exit), None)

    @property
    def would_save(self) -> int:
        """Thinking tokens that came after the first exit that wasn't acted on."""
        if self.would_exit is None:
            return 0
        place = self.would_exit.position if self.would_exit_at is None else self.would_exit_at
        return sum(max(0, span.end - max(place, span.start)) for span in self.spans)

    @property
    def thinking_tokens(self) -> int:
        """Thinking tokens of all spans: markers don't count, forced texts inside a span do."""
        return sum(span.tokens for span in self.spans)

    @property
    def score(self) -> float | None:
        """What the exit rule said at the last cue."""
        return self.decisions[-1].score if self.decisions else None

    @property
    def threshold_why(self) -> str | None:
        """Whether the rule never exits or exits at every cue, where its threshold is infinite; None where it isn't."""
        thresholds = {decision.threshold for decision in self.decisions}
        return self._never() if math.inf in thresholds else "exits at every cue" if -math.inf in thresholds else None

    @property
    def why(self) -> str:
        """One line: why thinking ended where it did."""
        parts = [self._end()]
        if self.reopened:
            parts.append(f"re-opened {len(self.reopened)} time{'s' if len(self.reopened) > 1 else ''}")
        if self.warned:
            parts.append(f"warned at token {', '.join(map(str, self.warned))}")
        if len(self.spans) > 1:
            parts.append(f"{len(self.spans)} spans")
        return "; ".join(parts)

    def _end(self) -> str:
        each = " a span" if self.budget_per == "span" else ""
        closed = {
            "budget": f"budget of {self.budget} thinking tokens{each} used up",
            "time": f"{self.seconds or 0:g} seconds of thinking{each} used up",
            "asked": "answer_now closed thinking",
            "end": "the model ended the sequence inside its thinking, which was closed",
            "loop": f"thinking repeated a span of {self.loop} tokens {self.stop_loops} times in a row",
        }
        closers = [span.closed_by for span in self.spans if span.closed_by in closed]
        if not closers:
            return self._rule()
        end = closed[closers[-1]]
        return f"{end}; {self._rule()}" if self.controlled else end

    def _rule(self) -> str:
        if not self.controlled:
            return f"no exit rule was set{f'; {self.note}' if self.note else ''}"
        if self.exit:
            return str(self.exit)
        if self.would_exit and self.would_exit.held == "audit":
            return f"audited: the exit {self.would_exit.at} was tried and not made"
        if self.would_exit and self.shadow:
            did = "given up" if self.would_exit.gave_up else "exited"
            return f"shadow: would have {did} {self.would_exit.at}; {self.would_save} thinking tokens came after it"
        outcome = "shadow: no exit" if self.shadow else "no exit"
        if self.note:
            return f"{outcome}: {self.note}"
        if self.would_exit:
            return f"{outcome}: min_thinking forbade the one {self.would_exit.at}"
        if not self.decisions:
            return f"{outcome}: no cue was met while thinking"
        cues, best = len(self.decisions), max(self.decisions, key=lambda decision: decision.score)
        if best.threshold == float("inf"):
            return f"{outcome}: {self._never()}; {cues} cues met"
        return f"{outcome}: {cues} cues, highest score {best.score:.3f} <= {best.threshold:.3f}"

    def not_promised(self, *reasons: str) -> None:
        """Note why the exit rule's promise doesn't cover this run; each reason becomes a warning too."""
        self.why_not += reasons
        self.warnings += [f"{reason}: the exit rule's promise doesn't cover this run" for reason in reasons]

    def charge(self, trial: Trace, forced: int, rows: int) -> None:
        """Count a trial as a part of this run.

        Args:
            trial: The trial's own record.
            forced: Tokens of the forced text before its answer.
            rows: Tokens that its forwards fed.
        """
        self.cost += trial.cost + forced
        self.forwards += trial.forwards
        self.trials += 1
        self.trial_tokens += trial.cost + forced
        self.trial_forwards += trial.forwards
        self.trial_rows += rows

    def to_dict(self) -> dict[str, Any]:
        """The fields, `closed_by`, `thinking`, `forced`, `why` and `threshold_why`, as plain values for a JSON line.

        JSON has no infinite numbers, so an infinite threshold is null; `threshold_why` then says whether the rule
        never exits or exits at every cue.
        """
        of_last: dict[str, Any] = {"closed_by": self.closed_by, "thinking": self.thinking, "forced": self.forced}
        of_last["sources"] = "".join(source[0] for source in self.sources)
        parts = {"decisions": list(map(asdict, self.decisions)), "spans": list(map(asdict, self.spans))}
        return {**_finite(vars(self) | parts | of_last), "why": self.why, "threshold_why": self.threshold_why}

    def _repr_html_(self) -> str:
        """What a notebook shows for `handle.trace`."""
        return html_table(self.why, self.facts())

    def facts(self) -> Iterator[tuple[str, object]]:
        """Names and values that say in a few lines what happened."""
        yield "tokens", f"{len(self.tokens)} after a prompt of {self.prompt_tokens}; ended: {self.finish_reason}"
        if self.thinking is not None:
            yield "thinking", f"{self.thinking_tokens} tokens; closed by: {self.closed_by or 'nobody'}"
        if self.exit is not None or self.would_exit is not None:
            yield "exit", self.exit or self.would_exit
        yield "cost", f"{self.cost} tokens in {self.forwards} forwards"
        if self.trials:
            yield "trials", f"{self.trials}, of {self.trial_tokens} tokens"
        if self.drafted:
            yield "drafted", f"{self.accepted} of {self.drafted} tokens accepted"
        if self.note:
            yield "note", self.note
        yield from (("warning", warning) for warning in self.warnings)

    def _never(self) -> str:
        return self.rule or "threshold +inf, too few calibration runs for this risk"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
