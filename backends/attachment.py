"""What an attached model has in common in every library: a class of its own, a call's overrides, one warning.

A backend's attachment adds which methods are taken over and how one of the library's calls becomes a `Call`.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reasonctl.controller import Controller, Thinking, Tokenizer

from .class_swap import subclass_of_its_name
from .handle import Handle, for_call
from .turns import Turns


@functools.cache
def warn_once(message: str) -> None:
    """Warn; each message once a process."""
    warnings.warn(message, stacklevel=5)


class Attachment:
    """One model under one controller, until it is detached."""

    def __init__(self, model: Any, controller: Controller, thinking: Thinking | None) -> None:
        """Prepare; the model stays as it is until `swap_class`.

        Args:
            model: the library's object.
            controller: what the user attaches.
            thinking: markers and suffix found in the chat template; None where no text can be read.
        """
        self.model = model
        self.base = type(model)
        self.thinking = thinking
        self.handle = Handle(controller, restore=self.detach)
        self.turns = Turns()
        """Calls run one after another."""
        self.handle.turns = self.turns
        self.of_thread = threading.local()
        """What a call keeps for the loop that it leads to, and the library wouldn't pass on."""
        self._warned = False

    def swap_class(self, members: dict[str, Any]) -> None:
        """Give the model a class with these members."""
        self.model.__class__ = subclass_of_its_name(self.base, members)

    def detach(self) -> None:
        """Give the model its own class back. Raises ControllerError while a call runs."""
        self.turns.close()
        self.model.__class__ = self.base

    @property
    def overrides(self) -> dict[str, Any]:
        """The controller's keywords of the call that this thread is in."""
        found: dict[str, Any] = getattr(self.of_thread, "overrides", {})
        return found

    @property
    def in_chat(self) -> bool:
        """Whether this thread is in a chat call."""
        return bool(getattr(self.of_thread, "chat", False))

    def under(self, overrides: dict[str, Any]) -> Controller:
        """The controller of a call with these overrides. Raises ControllerError for impossible ones."""
        return for_call(self.handle.controller, self.thinking, overrides)

    def opening(self, controller: Controller, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Tokens of the marker that opens thinking; empty where nothing marks thoughts."""
        thinking = controller.closing
        if thinking is None or thinking.markers is None:
            return ()
        return tuple(tokenizer.encode(thinking.markers.open.strip()))

    @contextmanager
    def calling(self, overrides: dict[str, Any], *, chat: bool = False) -> Iterator[Controller]:
        """Keep a call's overrides for the loop that it leads to: the library wouldn't pass them on.

        Args:
            overrides: The controller's keywords of the call.
            chat: It is a chat call; so are the calls that it leads to.

        Raises:
            ControllerError: impossible overrides, before the library does any work.
        """
        controller = self.under(overrides)
        before, was_chat = self.overrides, self.in_chat
        self.of_thread.overrides, self.of_thread.chat = overrides, chat or was_chat
        try:
            yield controller
        finally:
            self.of_thread.overrides, self.of_thread.chat = before, was_chat

    def without_effect(self, arguments: Sequence[str]) -> list[str]:
        """Notes for a trace: these sampling arguments gave way to the controller's policy. The first one warns."""
        if not arguments:
            return []
        note = f"the controller's own policy decides the sampling; this call's {', '.join(arguments)} had no effect"
        if not self._warned:
            self._warned = True
            warnings.warn(note, stacklevel=4)
        return [note]
