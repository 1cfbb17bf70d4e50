"""One request as the engine's processor follows it: its cues, its decision, and the tokens that make an exit.

Knows neither vLLM nor torch. `requests.py` holds all requests and asks the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from reasonctl.controller import Cue, Decision, Thinking, Tokenizer
from reasonctl.controller.thinking import AnswerEnd, CueTable, Passed, exit_place, exit_text
from reasonctl.probes import ProbeExit

from .options import RequestOptions


@dataclass(frozen=True)
class Exits:
    """How exits are made in one engine: what all of its requests share."""

    rule: ProbeExit
    """The rule, at the engine's risk."""
    tokenizer: Tokenizer
    """The model's."""
    eos: int | None
    """A token that ends a text; None: the model has none."""
    table: CueTable
    """Follows every request's cues."""

    @classmethod
    def of(cls, rule: ProbeExit, tokenizer: Tokenizer, thinking: Thinking, eos: int | None, vocabulary: int) -> Exits:
        """For a rule and a model.

        Args:
            rule: The exit rule.
            tokenizer: The model's.
            thinking: How the model thinks, as its template says.
            eos: A token that ends a text.
            vocabulary: Number of token ids.
        """
        opens = thinking.opens if thinking.markers == rule.markers else "model"
        table = CueTable(tokenizer, rule.markers, rule.cues, opens, rule.form, vocabulary=vocabulary)
        return cls(rule, tokenizer, eos, table)


class Following:
    """A request on its way through the engine."""

    def __init__(
        self, exits: Exits, options: RequestOptions, prompt: Sequence[int], most: int, rule: ProbeExit | None = None
    ) -> None:
        """Begin after a prompt.

        Args:
            exits: What the engine's requests share.
            options: The request's arguments.
            prompt: Its tokens.
            most: Most tokens after the prompt.
            rule: The rule at the request's own risk. None: the engine's.
        """
        self.exits, self.options = exits, options
        self.rule = exits.rule if rule is None else rule
        self.prompt = len(prompt)
        self.seen = 0
        """Tokens after the prompt that were taken in."""
        self.forced: list[int] = []
        """Tokens that make the exit, in the order in which they are written."""
        self.exit_at: int | None = None
        """Tokens after the prompt before the first of `forced`. None: no exit was decided."""
        self.decisions: list[Decision] = []
        self.unread = 0
        """Cues whose state was gone, so that nothing was decided at them."""
        self._limit = self.prompt + most
        self._score: float | None = None
        """What the probe says of the last token's row, until the next token shows whether a cue has ended there."""
        self._cue: Cue | None = None
        """The cue that ends in the last token, where the rule decides without the next one."""
        self._answer = self._answer_end() if options.answer else None
        self._acts = not options.shadow and (self.rule.form == "append-open" or options.client is not None)
        self.begun = False
        """The drift monitor knows of it."""
        self.finished_thinking = False
        """Its thinking was closed, or its tokens are used up."""
        self.follows = not (options.off or options.answer) and self.rule.reads
        """Whether cues are still sought."""
        self.place = exits.table.begin(prompt if self.follows else ())

    @property
    def reserved(self) -> int | None:
        """The client's stop token, which only an exit may write. None: it isn't reserved."""
        return self.options.client if self.follows and self._acts else None

    @property
    def over(self) -> bool:
        """Nothing will be done about this request any more."""
        done = self.exit_at is not None and self.seen >= self.exit_at + len(self.forced)
        return not self.follows and self._answer is None and (self.exit_at is None or done)

    def take(self, token: int) -> bool:
        """Take in the next token; whether the probe is asked about its row."""
        if self.follows:
            return self.taken(self.exits.table.push(self.place, token))
        self.seen += 1
        if self._answer is not None and self.exit_at is None and self._answer.push(token):
            self._force([] if self.exits.eos is None else [self.exits.eos])
            self._answer = None
        elif self._answer is None and self.exit_at is not None and self._exited():
            self._answer = self._answer_end()
            self.exit_at = None
        return False

    def taken(self, passed: Passed) -> bool:
        """The same for a token that the table has taken in already."""
        self.seen += 1
        score, self._score = self._score, None
        length = self.prompt + self.seen
        self.finished_thinking = passed.phase == "answer" or length + 1 >= self._limit
        cue = passed.cue_at(length)
        if cue is not None and self.rule.form != "append-open" and length < self._limit:
            self._decide(cue, score)
        if passed.phase == "answer" and not self.rule.later_spans and not passed.wants_row:
            self.follows = False
        if self.rule.form != "append-open":
            return self.follows and passed.wants_row
        self._cue = cue
        return self.follows and cue is not None

    def passed_by(self) -> None:
        """The table has taken in a token that means nothing."""
        self.seen += 1
        self._score = None
        self.finished_thinking = self.prompt + self.seen + 1 >= self._limit

    def scored(self, score: float) -> None:
        """The probe's score of the last token's row, for which `take` has asked."""
        if self._cue is None:
            self._score = score
        else:
            self._decide(self._cue, score)

    def next_forced(self) -> int | None:
        """The token that must come next. None: the model may choose."""
        if self.exit_at is None or not 0 <= self.seen - self.exit_at < len(self.forced):
            return None
        return self.forced[self.seen - self.exit_at]

    def _decide(self, cue: Cue, score: float | None) -> None:
        """Decide at the first cue of a row whose exit has room below the limit."""
        if len(self.decisions) >= self.rule.max_cues:
            self.follows = False
            return
        found = fitting_exit(self.rule, self.exits.tokenizer, cue, self._limit)
        if found is None:
            return
        fitting = found.cue
        if score is None:
            self.unread += 1
            return
        position, index = fitting.first - self.prompt, len(self.decisions)
        threshold = self.rule.threshold.value
        decision = self.rule.decided(Decision(score > threshold, fitting.name, index, position, score, threshold))
        self.decisions.append(decision)
        if decision.exit and self._acts:
            self.follows = False
            # The engine writes the suffix itself where the cue stays as it is; else its client does.
            open_form, client = self.rule.form == "append-open", self.options.client
            self._force(found.forced if open_form or client is None else [client])

    def _force(self, tokens: list[int]) -> None:
        self.forced, self.exit_at = tokens, self.seen

    def _exited(self) -> bool:
        """The suffix is written, and the answer's end is sought from here on."""
        ends = self.rule.answer_ends != "model" and self.rule.form == "append-open"
        assert self.exit_at is not None
        return ends and self.seen == self.exit_at + len(self.forced)

    def _answer_end(self) -> AnswerEnd | None:
        ends = self.rule.answer_ends
        return None if ends == "model" else AnswerEnd(self.exits.tokenizer, ends)


class MadeExit(NamedTuple):
    """An exit at a cue."""

    cue: Cue
    """The cue."""
    first: int
    """Absolute index: the tokens from here on go."""
    forced: list[int]
    """The tokens that take their place."""


def fitting_exit(rule: ProbeExit, tokenizer: Tokenizer, cue: Cue, limit: int) -> MadeExit | None:
    """The exit at the first cue of a row that has room for one below the limit, an absolute index."""
    for one in (cue, *cue.also):
        first, forced = exit_place(rule.form, one), tokenizer.encode(exit_text(rule.form, one, rule.suffix))
        if first + len(forced) < limit:
            return MadeExit(replace(one, also=()), first, forced)
    return None
