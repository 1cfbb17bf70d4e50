"""One run as a client of the engine sees it: what is asked next, what may be shown, and the exit that it makes.

The engine ends a request at an exit with a stop token. The client takes the cue back, puts the suffix in its place, and
asks again for what follows. What an exit may still take back isn't shown. Knows neither vLLM nor a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from reasonctl.controller import Cue, MarkerPosition, Span, Thinking, Tokenizer
from reasonctl.controller.thinking import AnswerEnd
from reasonctl.probes import ProbeExit

from .following import fitting_exit
from .options import PREFIX

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Asked:
    """What is asked of the engine."""

    prompt: list[int]
    """The prompt's tokens: the run's own prompt, and what was written after it."""
    most: int
    """Most tokens after them."""
    arguments: dict[str, Any]
    """`vllm_xargs`, or SamplingParams.extra_args."""
    stop_tokens: list[int]
    """Further tokens at which the engine ends the request."""
    turn: int
    """How often this run was asked before: later parts are sampled with another seed."""


@dataclass(frozen=True)
class Client:
    """What all runs of a client share."""

    rule: ProbeExit
    """The engine's rule."""
    tokenizer: Tokenizer
    """The model's."""
    thinking: Thinking
    """How the model thinks, as its template says; `suffix` is the rule's."""
    stop_token: int
    """The token that means an exit; the model itself can't write it."""
    eos: frozenset[int]
    """Every token that ends a text."""


@dataclass
class ClientRun:
    """Feed it the engine's tokens with `push`, and ask again with `asked` for as long as that gives something."""

    client: Client
    """What it shares with others."""
    prompt: list[int]
    """Its prompt's tokens."""
    most: int
    """Most tokens after the prompt."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """The run's own arguments, such as reasonctl_risk."""
    controlled: bool = True
    """Exits are wanted."""

    def __post_init__(self) -> None:
        rule, thinking = self.client.rule, self.client.thinking
        self.tokens: list[int] = list(self.prompt)
        """Prompt and what was written, without what was taken back."""
        self.finish: Finish | None = None
        """Why the run is over; None while it isn't."""
        self.exit: Cue | None = None
        """The cue of the exit."""
        self.repaired = 0
        """Closing markers that were written again after an exit, and replaced."""
        self.cost = 0
        """Tokens that the engine sampled, and those that were put in."""
        self.interrupted = False
        """The engine's request is to be aborted: what it would write next is not wanted."""
        self._shown = len(self.prompt)
        self._turn = 0
        self._limit = len(self.prompt) + self.most
        self._span = Span(self.client.tokenizer, rule.markers, rule.cues, thinking.opens, rule.form)
        self._span.begin(self.prompt)
        self._cue: Cue | None = None
        """The cue that the engine decides about with the next token."""
        self._last_cue: Cue | None = None
        """The last cue at which the engine itself may have made an exit."""
        self._answer: AnswerEnd | None = None

    def asked(self) -> Asked | None:
        """What is to be asked of the engine now; None where the run is over."""
        if self.finish is not None:
            return None
        self.interrupted = False
        made = Asked(list(self.tokens), self._limit - len(self.tokens), self._arguments(), self._stop(), self._turn)
        self._turn += 1
        return made

    def push(self, token: int) -> None:
        """A token that the engine has sampled."""
        self.cost += 1
        if self.exit is None and self._acts and token == self.client.stop_token:
            self._exit()
            return
        self.tokens.append(token)
        cue = self._span.push(token)
        if self.exit is None:
            if self.client.rule.form == "append-open":
                self._note_engine_exit(cue)
            self._cue = cue
            return
        if self._span.closed is not None and not self.client.thinking.ends_messages:
            self._close_once(self._span.closed)
        elif self._answer is not None and self._answer.push(token):
            self._over("stop")

    def ended(self, reason: str | None) -> None:
        """The engine's request has ended by itself; reason: its finish_reason."""
        if not self.interrupted and self.finish is None:
            self.finish = "length" if reason == "length" else "stop"

    def show(self) -> list[int]:
        """The tokens that can no longer be taken back, and that weren't shown before."""
        safe = len(self.tokens) - (0 if self.finish is not None else self._held())
        fresh = self.tokens[self._shown : safe]
        self._shown = max(self._shown, safe)
        return fresh

    @property
    def written(self) -> list[int]:
        """All tokens after the prompt."""
        return self.tokens[len(self.prompt) :]

    @property
    def _acts(self) -> bool:
        """Exits are made here: the cue or the token after it is taken back."""
        return self.controlled and self.client.rule.form != "append-open"

    def _arguments(self) -> dict[str, Any]:
        if self.exit is not None:
            ends = self.client.rule.answer_ends != "model"
            return {PREFIX + ("answer" if ends else "off"): 1}
        if not self.controlled:
            return {PREFIX + "off": 1}
        return {**self.arguments, **({PREFIX + "client": self.client.stop_token} if self._acts else {})}

    def _stop(self) -> list[int]:
        return [self.client.stop_token] if self._acts and self.exit is None else []

    def _exit(self) -> None:
        """The engine has decided for an exit at the cue that the last token showed to be one."""
        client, cue = self.client, self._cue
        found = None if cue is None else fitting_exit(client.rule, client.tokenizer, cue, self._limit)
        if found is None:
            self._over("stop")  # no exit of ours: a stop token that was forced by somebody else
            return
        self._begin_answer(found.cue)
        self._replace(found.first, found.forced)
        self._span.close(len(self.tokens))

    def _note_engine_exit(self, cue: Cue | None) -> None:
        """The engine has written an exit's suffix after a cue, if the last tokens are one."""
        suffix = self.client.tokenizer.encode(self.client.rule.suffix)
        self._last_cue = cue or self._last_cue
        found = self._last_cue
        if found is not None and self.tokens[found.last + 1 :] == suffix:
            self._begin_answer(found)
            self._span.close(len(self.tokens))

    def _begin_answer(self, cue: Cue) -> None:
        self.exit, self._cue = cue, None
        ends = self.client.rule.answer_ends
        self._answer = None if ends == "model" else AnswerEnd(self.client.tokenizer, ends)

    def _close_once(self, mark: MarkerPosition) -> None:
        """Thinking was closed by the exit, and the model closes it again: that marker goes, and the answer begins."""
        client = self.client
        forced = client.tokenizer.encode(mark.before + client.thinking.after_close)
        room = self._limit - mark.first
        assert self.exit is not None
        self._begin_answer(self.exit)
        self._span.rewind(self.tokens[: mark.first])
        self._replace(mark.first, forced[:room])
        for token in forced[:room]:
            self._span.push(token)
        self.repaired += 1
        if len(forced) >= room:
            self._over("length")

    def _replace(self, first: int, forced: list[int]) -> None:
        del self.tokens[first:]
        self.tokens += forced
        self.cost += len(forced)
        self.interrupted = True

    def _over(self, finish: Finish) -> None:
        self.finish, self.interrupted = finish, True

    def _held(self) -> int:
        """How many of the last tokens may still be taken back."""
        length = len(self.tokens)
        if self.exit is not None:
            return self._span.closing()
        held = self._span.held() if self._acts else 0
        if self._cue is not None and self._acts:
            place = self._cue.first if self.client.rule.form == "replace" else self._cue.last + 1
            return max(held, length - place)
        return held
