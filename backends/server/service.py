"""From a request that was read to runs under the scheduler, for either library. Read this first."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from reasonctl.controller import (
    AnswerNow,
    Call,
    Controller,
    ControllerError,
    Emitted,
    Ended,
    ExitRule,
    IdleRun,
    Keys,
    Policy,
    Thinking,
    Trace,
)
from reasonctl.controller.thinking import read_template

from ..model import Model
from .driving import Driver, Group, Output, ServedRun
from .grammars import Grammars
from .guard import LOCAL
from .limits import ServerLimits
from .messages import Prompts, ends_open
from .prefixes import Prefixes, Text
from .recording import Drawn, Recorded
from .refusals import Refusal, invalid
from .requests import Asked, ChatRequest
from .sampling import Drafters, chosen_policy, governed, limited, wanted_schema
from .splitting import Marking, Piece, Splitter, StopAt
from .tools import forced_schema
from .verdicts import Verdicts

_RANDOM_BITS = 63


@dataclass(frozen=True)
class Served:
    """What a server serves."""

    model: Model
    """The model, loaded for a batch."""
    controller: Controller
    """Exit rule, limits and drafter of requests that don't say otherwise; its policy is None."""
    policy: Policy
    """How tokens are drawn for requests that name no sampling."""
    max_new_tokens: int
    """Length of a run where a request names none."""
    at_once: int
    """Most runs under way."""
    presets: Mapping[str, Policy] = field(default_factory=dict)
    """Policies by the names that requests may use."""
    limits: ServerLimits = ServerLimits()
    """How much a request may take."""

    @property
    def name(self) -> str:
        """The model's name for clients: no path of this machine."""
        return self.model.name.rstrip("/").rpartition("/")[2] or self.model.name


@dataclass(frozen=True)
class Update:
    """What a client may be given of one token, or of a run's end."""

    choice: int
    """The run's number."""
    piece: Piece
    """Text."""
    logprobs: tuple[Drawn, ...] = ()
    """Of answer tokens that were drawn, where they are wanted."""
    ended: bool = False
    """The run is over; `ServedChoice` has its record."""


@dataclass(eq=False)
class ServedChoice:
    """One run as its client sees it."""

    text: Text
    """Its text, and what of it wasn't fed again."""
    splitter: Splitter
    """Tells thoughts and answer apart."""
    recorded: Recorded | None
    """Notes log-probabilities."""
    error: Exception | None = None
    """What it failed with."""
    begun: list[tuple[int, Drawn]] = field(default_factory=list)
    """Notes of answer tokens with the place in the answer where each begins."""

    @property
    def trace(self) -> Trace:
        """Its record."""
        return self.text.trace

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """OpenAI's word for why it ended; a run that was left ended at a limit of time."""
        if self.splitter.stopped is not None or self.trace.finish_reason == "stop":
            return "stop"
        return "length"


@dataclass(eq=False)
class Work:
    """A request on its way."""

    id: str
    """A random name, which no other client can guess."""
    key: str
    """The key of its client."""
    request: Asked
    """What was asked."""
    prompt_tokens: int
    """Length of its prompt."""
    choices: list[ServedChoice]
    """Its runs."""
    answers: list[AnswerNow]
    """Lets the client close the thinking of each run."""
    runs: list[ServedRun]
    """The same for the driver."""
    rule: ExitRule | None
    """Decides about its exits."""
    client_id: str | None = None
    """Its client's own name for it, which means nothing with another key."""
    created: int = field(default_factory=lambda: int(time.time()))
    """When it came, in seconds since 1970."""
    group: Group | None = None
    """The driver's; None: not handed over yet."""
    outputs: asyncio.Queue[list[Output]] = field(default_factory=asyncio.Queue)
    """What its runs have brought: at most their tokens."""


class Service:
    """Turns requests into runs, and outputs into what a client reads."""

    def __init__(self, served: Served) -> None:
        """Nothing runs before `start`."""
        self.served = served
        model = served.model
        found = read_template(model.template)
        self._controller = served.controller.knowing(found.thinking if found.markers is not None else None)
        self._prompts = Prompts(model)
        self._grammars = Grammars(model, served.limits)
        self._drafters = Drafters(served.controller.drafter)
        self.prefixes = Prefixes(model.engine, served.limits.prefix_tokens)
        self.driver = Driver(served.at_once, served.limits.queue, self._idle)
        self.open: dict[str, Work] = {}
        """Requests that aren't answered yet, by their ids."""
        self.verdicts = Verdicts(served.limits.verdicts)

    def _idle(self) -> IdleRun | None:
        """What the exit rule would do while nobody asks."""
        rule = self.served.controller.exit
        own = None if rule is None else rule.idle()
        return None if own is None else self.prefixes.apart(own)

    def start(self) -> None:
        """Start the thread that runs the model."""
        self.driver.start()

    def close(self) -> None:
        """End all runs, the thread and the helper processes."""
        self.driver.close()
        self.prefixes.close()
        self._prompts.close()
        self._grammars.close()

    def prepare(self, request: Asked, key: str, client_id: str | None = None) -> Work:
        """A request's runs, not started. It may take a while; call it in a thread.

        Args:
            request: The request.
            key: Its client's.
            client_id: Its client's own name for it.

        Raises:
            Refusal: The request can't be served.
        """
        name = self.served.name
        if request.model not in (name, self.served.model.name):
            message = f"there is no model {request.model!r:.80}; this server has {name!r}"
            raise Refusal(404, message, param="model", code="model_not_found")
        if isinstance(request, ChatRequest):
            prompt = self._prompts.chat(request)
            schema = forced_schema(request) or wanted_schema(request)
        else:
            prompt = self._prompts.completion(request.prompt)
            schema = wanted_schema(request)
        source = self._grammars.checked(schema, "response_format" if request.response_format else "tools")
        controller = self._controlled(request, key)
        work = self._work(request, key, prompt, controller, source)
        work.client_id = client_id
        return work

    def _controlled(self, request: Asked, key: str) -> Controller:
        """The controller of one request."""
        drafter = self._drafters.of(key, request.reasonctl.draft)
        return limited(request, replace(self._controller, drafter=drafter))

    def _work(self, request: Asked, key: str, prompt: list[int], controller: Controller, source: str | None) -> Work:
        model, thinking = self.served.model, controller.closing
        markers = None if thinking is None else thinking.markers
        opening = () if markers is None else tuple(model.tokenizer.encode(markers.open.strip()))
        policy = chosen_policy(request, self.served.policy, self.served.presets)
        policy = governed(policy, source, opening, controller.reads_text)
        most = self._most_new_tokens(request, prompt, controller)
        marking = Marking()
        if isinstance(request, ChatRequest) and markers is not None:
            marking = Marking(markers, _opens(prompt, thinking, model), reopens=not policy.one_answer)
        seed = secrets.randbits(_RANDOM_BITS) if request.seed is None else request.seed
        work = Work(_new_id(request), key, request, len(prompt), [], [], [], controller.exit)
        for i in range(request.reasonctl.samples or request.n):
            text, splitter = Text(key, prompt, Trace()), Splitter(model.tokenizer, model.eos, marking, request.stops)
            choice = ServedChoice(text, splitter, None)
            own = policy
            if request.most_alternatives is not None:
                own = choice.recorded = Recorded(policy, request.most_alternatives)
            call = Call(prompt, most, model.eos, Keys(seed=seed, run=i), own, repeat=i > 0, answer_now=AnswerNow())
            call = replace(call, private=not request.reasonctl.learn, client="" if key == LOCAL else key)
            stop = StopAt(len(prompt), choice.splitter) if request.stops else None
            call = replace(call, stop=stop, wanted=request.most_new_tokens or 0)
            text.needs = controller.needs(model.engine, model.tokenizer, call)
            loop = partial(controller.loop, tokenizer=model.tokenizer, call=call, trace=text.trace)
            work.choices.append(choice)
            work.answers.append(call.answer_now or AnswerNow())
            work.runs.append(ServedRun(self.prefixes.run(text, loop), text.needs))
        return work

    def _most_new_tokens(self, request: Asked, prompt: list[int], controller: Controller) -> int:
        """Most new tokens of a run: what was asked for, or what the context leaves room for."""
        model, thinking = self.served.model, controller.closing
        suffix = 0 if thinking is None else len(model.tokenizer.encode(thinking.suffix))
        room = min(model.context, model.engine.room) - len(prompt) - suffix
        if room < 1:
            message = f"the prompt has {len(prompt)} tokens and the context {model.context}; shorten it"
            raise Refusal(400, message, param="messages", code="context_length_exceeded")
        return min(request.most_new_tokens or self.served.max_new_tokens, room)

    def enter(self, work: Work) -> None:
        """Hand a request's runs over; `leave` ends them. Call it in the event loop.

        Raises:
            Refusal: There is no place for it, or another open request of its key has its client's name.
        """
        if work.client_id is not None and self._named(work.client_id, work.key) is not None:
            message = f"a request named {work.client_id!r} is running; give each a name of its own"
            raise Refusal(409, message, code="duplicate_request_id")
        loop = asyncio.get_running_loop()

        def deliver(brought: list[Output]) -> None:
            with suppress(RuntimeError):  # the event loop has ended, and with it the client's connection
                loop.call_soon_threadsafe(work.outputs.put_nowait, brought)

        shares = self.prefixes.shares(work.choices[0].text.prompt)
        work.group = Group(work.key, work.runs, deliver, shares)
        self.driver.submit(work.group)
        self.open[work.id] = work

    def leave(self, work: Work) -> None:
        """Cancel what still runs of a request, and forget it. More than once is harmless."""
        if work.group is not None:
            self.driver.cancel(work.group)
        self.open.pop(work.id, None)

    async def updates(self, work: Work) -> AsyncGenerator[Update, None]:
        """What the client may read of a request that has entered, as it comes.

        Raises:
            Refusal: A run failed.
        """
        until = asyncio.get_running_loop().time() + self.served.limits.request_seconds
        left = len(work.choices)
        while left:
            try:
                async with asyncio.timeout_at(until):
                    brought = await work.outputs.get()
            except TimeoutError:
                self.leave(work)
                for update in self._cut_short(work):
                    yield update
                return
            for output in brought:
                left -= isinstance(output, Ended)
                yield self._update(work, output)

    def _update(self, work: Work, output: Output) -> Update:
        """What one output means to the client."""
        number = int(str(output.key))
        choice = work.choices[number]
        if isinstance(output, Ended):
            if output.error is not None:
                choice.error = output.error
                raise _failed(output.error)
            return Update(number, choice.splitter.finish(), _kept(choice, last=True), ended=True)
        return Update(number, _read(choice, output), _kept(choice))

    def _cut_short(self, work: Work) -> Sequence[Update]:
        """The end of a request whose time is up."""
        limit = self.served.limits.request_seconds
        updates = []
        for i, choice in enumerate(work.choices):
            choice.trace.warnings.append(f"the request took longer than {limit:g} s, and ends here")
            updates.append(Update(i, choice.splitter.finish(), _kept(choice, last=True), ended=True))
        return updates

    def answer_now(self, request_id: str, key: str) -> int:
        """Close the thinking of a running request.

        Args:
            request_id: Its id, as its client was given it, or its client's own name for it.
            key: The key of who asks: no other one may.

        Returns:
            The number of runs whose thinking closes.

        Raises:
            Refusal: The key has no such request.
        """
        work = self._named(request_id, key)
        if work is None:
            raise Refusal(404, "no running request of this key has this id", code="request_not_found")
        return sum(answer.ask() for answer in work.answers)

    def _named(self, name: str, key: str) -> Work | None:
        """The open request of a key that has this id or this client's name."""
        return next((one for one in self.open.values() if one.key == key and name in (one.id, one.client_id)), None)


def _read(choice: ServedChoice, output: Emitted) -> Piece:
    """A token's text; its log-probability is noted with its place."""
    event, splitter = output.event, choice.splitter
    before, part = splitter.written, splitter.part
    piece = splitter.push(event.token, forced=event.source == "forced")
    if choice.recorded is not None:
        note = choice.recorded.notes.pop(event.position, None)
        in_answer = part == splitter.part == "content" and event.token not in splitter.eos
        if note is not None and note.token == event.token and in_answer:
            choice.begun.append((before, note))
    return piece


def _kept(choice: ServedChoice, *, last: bool = False) -> tuple[Drawn, ...]:
    """Notes that can be given out: those of text that is certain, up to a stop text."""
    splitter = choice.splitter
    if not choice.begun:
        return ()
    end = splitter.cut if splitter.cut is not None else splitter.written - (0 if last else splitter.held)
    ready = [note for place, note in choice.begun if place < end or (last and splitter.cut is None)]
    if splitter.cut is not None or last:
        choice.begun.clear()
    else:
        choice.begun = choice.begun[len(ready) :]
    return tuple(ready)


def _opens(prompt: list[int], thinking: Thinking | None, model: Model) -> bool:
    """Whether a run begins inside its thoughts."""
    if thinking is None or thinking.markers is None:
        return False
    if ends_open(prompt, model.tokenizer, thinking.markers.open):
        return True
    return thinking.opens == "start" and not ends_open(prompt, model.tokenizer, thinking.markers.close)


def _new_id(request: Asked) -> str:
    return f"{'chatcmpl' if isinstance(request, ChatRequest) else 'cmpl'}-{secrets.token_hex(16)}"


def _failed(error: Exception) -> Refusal:
    """What a client reads of a run that failed: a mistake of its own, or that something is wrong here."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ControllerError):
        return invalid(str(error))
    return Refusal(500, "the run failed; the server's log has why", code="run_failed")


def usage_of(work: Work) -> dict[str, Any]:
    """`usage`, of all runs."""
    written = sum(len(choice.trace.tokens) for choice in work.choices)
    thought = sum(choice.trace.thinking_tokens for choice in work.choices)
    return {
        "prompt_tokens": work.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": work.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": work.choices[0].text.cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
