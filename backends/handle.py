"""What `attach` returns: the traces of the last call, and the way to give the model back.

A backend says how its model is restored and reports its runs. The keywords that calls of an attached model take beyond
the library's own are here too.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from reasonctl.controller import AnswerNow, Controller, ControllerError, Thinking, Tokenizer, Trace, Turn, drive
from reasonctl.controller.core import SavedRun, append_runs
from reasonctl.controller.thinking import read_templates

from .turns import Turns

OVERRIDES = ("risk", "effort", "thinking_budget", "thinking_seconds", "min_thinking", "continue_times")
"""Keywords of one call under a controller; None = as the controller is set. `turn` is one too, and no setting."""


class Handle:
    """An attached controller; as a context manager it detaches at the end of the block.

    >>> given_back = []
    >>> with Handle(Controller(), restore=lambda: given_back.append("model")) as handle:
    ...     handle.begin()
    ...     handle.add(Trace(seed=7))
    >>> handle.detach()
    >>> given_back, handle.trace.seed, handle.runs
    (['model'], 7, 1)
    """

    def __init__(self, controller: Controller, restore: Callable[[], None]) -> None:
        self.controller = controller
        self.traces: list[Trace] = []
        """One for each row of the last call, whichever thread made it."""
        self.runs = 0
        """Runs that the controlled loop has started since attach."""
        self.custom_generate: Callable[..., Any] | None = None
        """For `model.generate(..., custom_generate=handle.custom_generate)`; None on llama.cpp."""
        self.turns: Turns | None = None
        """Whose turn a call is."""
        self.private = False
        """Set it to keep nothing of the next calls, where the exit rule learns from its own."""
        self.tokenizer: Tokenizer | None = None
        """Reads the tokens of traces; None where the model was attached without one."""
        self._prompts: list[Sequence[int]] = []
        self._under_way: list[AnswerNow] = []
        self._restore: Callable[[], None] | None = restore

    @property
    def trace(self) -> Trace | None:
        """The last run's record; None before the first run."""
        return self.traces[-1] if self.traces else None

    def begin(self) -> None:
        """A call starts: the traces of the call before it are dropped."""
        self.traces = []
        self._prompts = []
        self._under_way = []

    def add(self, trace: Trace, answer_now: AnswerNow | None = None, prompt: Sequence[int] = ()) -> None:
        """A run starts; its trace fills while it runs.

        Args:
            trace: Its record.
            answer_now: How it is asked for its answer.
            prompt: Its tokens before the first that it generates.
        """
        self.traces.append(trace)
        self._prompts.append(prompt)
        self.runs += 1
        if answer_now is not None:
            self._under_way.append(answer_now)

    def answer_now(self) -> bool:
        """Close the thinking of every run that is under way, at its next token, as a used-up budget would.

        Call it from another thread than the one that generates, or between two reads of a stream. All rows of a
        batch that think now are meant; a call that waits for its turn isn't.

        Returns:
            Whether any run was thinking. False: nothing was changed.
        """
        return any([now.ask() for now in self._under_way])

    def learn_now(self, seconds: float | None = None) -> int:
        """Let the exit rule label runs of its own while the model is free; other calls wait meanwhile.

        Args:
            seconds: Begin no further run after so long. None: label all that wait.

        Returns:
            The number of runs that were labelled.
        """
        rule, until, done = self.controller.exit, time.monotonic() + (seconds or 0.0), 0
        while rule is not None and self.turns is not None and (seconds is None or time.monotonic() < until):
            with self.turns.whole():
                own = rule.idle()
                if own is None:
                    break
                for _ in drive(own.loop):
                    pass
            done += 1
        return done

    def verdict(self, *, right: bool, row: int = -1) -> None:
        """Say whether the answer of a run of the last call was right, for the exit rule's counts.

        Verdicts are shown next to the audits. They are self-selected, so no promise and no alarm depends on them.

        Args:
            right: Whether it was right.
            row: Which run; the last one unless it is given.

        Raises:
            ControllerError: There is no such run, or no exit rule that counts.
        """
        rule = self.controller.exit
        if not -len(self.traces) <= row < len(self.traces) or rule is None:
            raise ControllerError(f"there is no run {row} under an exit rule to speak of; call the model first")
        rule.verdict(right=right, exited=self.traces[row].exit is not None)

    def save(self, path: str | Path, *, text: bool = False, model: str = "") -> None:
        """Append the runs of the last call to a file of runs, one JSON line each, for `ctl view`.

        Args:
            path: The file; it is made where there is none.
            text: Also keep the prompt, the tokens and their text, which may be private.
            model: A name to show with the runs.

        Raises:
            ControllerError: There is no run yet, no tokenizer to read its text, or the file can't be written.
        """
        if not self.traces:
            raise ControllerError("there is no run to save yet; call the model first")
        if not text:
            return append_runs(path, [SavedRun.of(trace, model=model) for trace in self.traces])
        reader = self.tokenizer
        if reader is None:
            raise ControllerError("saving the text needs the tokenizer; attach with it: attach(…, tokenizer=…)")
        both = zip(self.traces, self._prompts, strict=True)
        append_runs(path, [SavedRun.with_text(t, reader, reader.decode(p), model=model) for t, p in both])

    def detach(self) -> None:
        """Give the model back as it was; a second call does nothing.

        Raises:
            ControllerError: a call of the model is running, in another thread for example; it stays attached.
        """
        if self._restore is not None:
            self._restore()
            self._restore = None

    @property
    def attached(self) -> bool:
        """False once detached."""
        return self._restore is not None

    def __reduce__(self) -> NoReturn:
        raise ControllerError(
            "a handle can't be copied or pickled, as it gives back one model of this process; "
            "copy its traces or the model, which comes out uncontrolled"
        )

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()


def check_parts(controller: Controller, model: Any) -> None:
    """Compare what was made for a model with the one it gets: an error for another model, warnings for differences."""
    about_rule = [] if controller.exit is None else controller.exit.check(model)
    about_policy = [] if controller.policy is None else controller.policy.check(model)
    for message in (*about_rule, *about_policy):
        warnings.warn(message, stacklevel=4)


def take_overrides(named: dict[str, Any]) -> dict[str, Any]:
    """Take the keywords that are meant for the controller out of a call's; None counts as not given.

    >>> arguments = {"max_tokens": 9, "risk": 0.05, "thinking_budget": None}
    >>> take_overrides(arguments), arguments
    ({'risk': 0.05}, {'max_tokens': 9})
    """
    found = {name: named.pop(name) for name in (*OVERRIDES, "turn") if name in named}
    return {name: value for name, value in found.items() if value is not None}


def turn_of(overrides: Mapping[str, Any]) -> Turn | None:
    """The turn that a call belongs to. Raises ControllerError for something else."""
    turn = overrides.get("turn")
    if turn is not None and not isinstance(turn, Turn):
        raise ControllerError(f"turn is {turn!r:.40}; make one with Turn() and give it to every call of the turn")
    return turn


def recorded(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A call's options as its traces record them: the turn isn't a value."""
    return {name: value for name, value in overrides.items() if name != "turn"}


def thinking_of(template: str | Mapping[str, str] | None) -> Thinking:
    """Where a model thinks, as its chat template has it, or one of several.

    >>> thinking_of("{{ '<think>\\n' }}").suffix
    '</think>\\n\\n'
    """
    return read_templates(template).thinking


def for_call(controller: Controller, thinking: Thinking | None, overrides: dict[str, Any]) -> Controller:
    """The controller of one call. Raises ControllerError for impossible overrides.

    Args:
        controller: as the user attached it.
        thinking: markers and suffix of the chat template, used where neither controller nor exit rule has any.
        overrides: keywords of the call, by the names of `Controller.under`.
    """
    turn_of(overrides)
    return controller.knowing(thinking).under(**recorded(overrides))
