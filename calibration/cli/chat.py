"""`ctl chat`: a conversation in the terminal, over the same requests and the same scheduler as `ctl serve`."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from reasonctl.backends.extras import LIBRARIES, require
from reasonctl.controller import ControllerError, parse_policy
from reasonctl.controller.thinking import parse_budget

from .console import Console
from .flags import PROMISE
from .options import Options
from .recipes import open_any
from .serve import controller_of

HELP = """\
/budget N|none    most thinking tokens of the next answers; 0.5 is half of the answer's tokens
/risk R|none      risk of the exit rule for the next answers
/why              what the controller did in the last answer
/thoughts         hide thoughts, or show them again, those of the last answer first
/system TEXT      what the model is to be, from now on
/new              forget the conversation
/quit             leave, as Ctrl-D does
Escape and Enter begin a new line. Ctrl-C stops an answer, Ctrl-\\ closes its thinking."""
"""What `/help` prints."""


@dataclass
class Totals:
    """What answers have taken; the numbers of several add up."""

    tokens: int = 0
    """Tokens written."""
    thinking: int = 0
    """Thoughts among them."""
    seconds: float = 0.0
    """Time of the answers."""
    saved: float = 0.0
    """Tokens that exits saved, as the calibration runs say."""

    def add(self, other: Totals) -> None:
        """Count another one in."""
        self.tokens += other.tokens
        self.thinking += other.thinking
        self.seconds += other.seconds
        self.saved += other.saved

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{self.tokens} tokens", f"{self.thinking} of them thoughts"]
        parts += [f"{self.tokens / max(self.seconds, 1e-6):.1f} a second"]
        return ", ".join(parts + ([f"about {self.saved:z.0f} saved"] if self.saved else []))


class Reader(Protocol):
    """Asks for what the user says next."""

    def __call__(self) -> str:
        """One message; EOFError where there are no more."""


@dataclass
class Conversation:
    """What was said, and how the next answer is made."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """Of users and of the model, in order."""
    system: str | None = None
    """What comes before them."""
    ours: dict[str, Any] = field(default_factory=dict)
    """`reasonctl` of the next request."""
    thoughts: bool = True
    """Thoughts are printed."""
    why: str = "nothing was answered yet"
    """What was done last."""
    hidden: str = ""
    """Thoughts of the last answer that weren't printed."""
    seed: int = 0
    """Of the next answer; each has its own."""
    answers: int = 0
    """Answers so far, stopped ones included."""
    totals: Totals = field(default_factory=Totals)
    """Of all of them."""

    def request(self, model: str, most: int) -> dict[str, Any]:
        """The next request's fields."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {
            "model": model,
            "messages": before + self.messages,
            "seed": self.seed,
            "max_tokens": most,
            "reasonctl": self.ours,
        }


def chat(name: str, options: Options, *, probe: str | None, system: str | None, budget: str | None) -> None:
    """Talk until the user leaves."""
    require("serve", *LIBRARIES["serve"])
    from reasonctl.backends.server.service import Served, Service

    show = Console(as_json=False)
    opened = open_any(show, "ctl chat", name, options, probe, *PROMISE, because="nothing decides about exits")
    controller = controller_of(opened, budget, None)
    policy = parse_policy(opened.recipe.policy)
    service = Service(Served(opened.model, controller, policy, opened.recipe.max_new_tokens, 1))
    service.start()
    show.say(f"{service.served.name}: /help says what else can be said", "dim")
    try:
        said = Conversation(system=system, seed=options.seed)
        talk(show, service, said, reader())
        if said.answers:
            show.say(f"{said.answers} answer{'s' if said.answers > 1 else ''}: {said.totals}", "dim")
    finally:
        service.close()


def reader() -> Reader:
    """A prompt with history and several lines; plain lines where nobody sits at a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return input
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession("> ", multiline=True, key_bindings=keys)
    return session.prompt


def talk(show: Console, service: Any, said: Conversation, read: Reader) -> None:
    """Read, answer, and read again."""
    while True:
        try:
            text = read().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text in ("/quit", "/exit"):
            return
        if text.startswith("/"):
            command(show, said, text)
        elif text:
            answer(show, service, said, text)


def command(show: Console, said: Conversation, text: str) -> None:
    """Do what a line with a slash says."""
    name, _, value = text.partition(" ")
    value = value.strip()
    if name == "/why":
        show.say(said.why, "bold")
    elif name == "/new":
        said.messages.clear()
    elif name == "/thoughts":
        said.thoughts = not said.thoughts
        if said.thoughts and said.hidden:
            show.say(said.hidden, "dim")
        show.say(f"thoughts are {'shown' if said.thoughts else 'hidden'}", "dim")
    elif name == "/system":
        said.system = value or None
    elif name in ("/budget", "/risk"):
        try:
            number = None if value in ("", "none") else parse_budget(value) if name == "/budget" else float(value)
        except ValueError:
            show.say(f"{name} {value:.40}: give a number, or none", "yellow")
            return
        said.ours = {key: old for key, old in said.ours.items() if key != name[1:]}
        said.ours |= {} if number is None else {name[1:]: number}
    else:
        show.say(HELP, "dim")


def answer(show: Console, service: Any, said: Conversation, text: str) -> None:
    """Ask, and print the answer as it comes. One that is stopped or refused leaves the conversation as it was."""
    from reasonctl.backends.server.refusals import Refusal

    said.messages.append({"role": "user", "content": text})
    try:
        written = asyncio.run(_ask(show, service, said))
    except (Refusal, ControllerError) as error:
        said.messages.pop()
        show.say(str(error), "yellow")
        return
    said.messages.append({"role": "assistant", "content": written})
    said.seed += 1


async def _ask(show: Console, service: Any, said: Conversation) -> str:
    """One answer's text; Ctrl-C ends it where it is."""
    from reasonctl.backends.server.requests import ChatRequest

    request = ChatRequest.model_validate(said.request(service.served.name, service.served.max_new_tokens))
    work = await asyncio.to_thread(service.prepare, request, "local")
    service.enter(work)
    printed = Printed(show, said.thoughts)
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(_follow(service, work, printed))
    taken = _keys(loop, task, work)
    start = time.perf_counter()
    try:
        await asyncio.wait((task,))
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
        service.leave(work)
    stopped = task.cancelled()
    if not stopped:
        task.result()
    _end(show, said, work, printed, time.perf_counter() - start, stopped)
    return printed.answer


def _keys(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], work: Any) -> list[signal.Signals]:
    """Let Ctrl-C stop the answer and Ctrl-\\ close its thinking; returns the signals that were taken."""
    taken: list[signal.Signals] = []

    def close_thinking() -> None:
        for one in work.answers:
            one.ask()

    actions: dict[str, Callable[[], object]] = {"SIGINT": task.cancel, "SIGQUIT": close_thinking}
    for name, action in actions.items():
        number = getattr(signal, name, None)
        with suppress(NotImplementedError, RuntimeError, ValueError):
            if number is not None:
                loop.add_signal_handler(number, action)
                taken.append(number)
    return taken


async def _follow(service: Any, work: Any, printed: Printed) -> None:
    async for update in service.updates(work):
        printed.thought(update.piece.reasoning)
        printed.said(update.piece.content)


class Printed:
    """What was printed of an answer: thoughts dimmed, or counted where they are hidden."""

    def __init__(self, show: Console, thoughts: bool) -> None:
        self._show = show
        self._thoughts = thoughts
        self._thinking = False
        self.answer = ""
        """The answer's text."""
        self.hidden = ""
        """Thoughts that weren't printed."""

    def thought(self, text: str) -> None:
        """Print thoughts."""
        if text and self._thoughts:
            self._show.stream(text, "dim")
        elif text and not self._thinking:
            self._show.stream("thinking ... ", "dim")
        self.hidden += "" if self._thoughts else text
        self._thinking |= bool(text)

    def said(self, text: str) -> None:
        """Print a part of the answer."""
        if text and self._thinking and not self.answer:
            self._show.say("\n")
        self._show.stream(text)
        self.answer += text


def _end(show: Console, said: Conversation, work: Any, printed: Printed, seconds: float, stopped: bool) -> None:
    """A line about the answer: its length and speed, and what was saved."""
    from reasonctl.backends.server.answers import expected_saving

    trace = work.choices[0].trace
    taken = Totals(len(trace.tokens), trace.thinking_tokens, seconds, expected_saving(work, trace))
    said.answers += 1
    said.totals.add(taken)
    said.hidden = printed.hidden
    said.why = "\n".join([trace.why, *(f"warning: {warning}" for warning in trace.warnings)])
    show.say()
    show.say(f"{taken}{', stopped' if stopped else ''}", "dim")
