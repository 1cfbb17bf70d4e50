"""How long a run may and must think: the settings and their checks.

`decoding/close_thinking.py` applies them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..core.errors import ControllerError
from ..core.trace import BudgetPer
from .markers import Thinking


@dataclass(frozen=True, kw_only=True)
class ThinkingLimits:
    """The limits of one run's thinking, in thinking tokens: markers don't count, forced texts inside the span do.

    Budget and re-opened thinking are the budget forcing of s1 (Muennighoff et al. 2025, arXiv 2501.19393).

    >>> ThinkingLimits(budget=512).any, ThinkingLimits().any
    (True, False)
    """

    budget: int | float | None = None
    """Most thinking tokens, then `wrap_up` and the closing suffix are fed; a float is a share of the run's tokens."""
    seconds: float | None = None
    """Most seconds of thinking, checked after each token; then it is closed as by a budget. None = no limit."""
    budget_per: BudgetPer = "run"
    """What has the budget and the least thinking: the run with all of its spans, or each span."""
    wrap_up: str = ""
    """Text before the closing suffix when the budget is used up."""
    warn_before: int | None = None
    """`warning` is fed so many thinking tokens before the budget is used up. None = there is no warning."""
    warning: str = "\n\nThere is little room left to think. I should come to the answer.\n\n"
    """Text that the model reads as its own thought then."""
    min_thinking: int = 0
    """Fewest thinking tokens: an earlier close is taken back and `continue_text` is fed in its place."""
    continue_times: int = 0
    """How many later closes are taken back too; with an exit rule, only those where the rule doesn't exit."""
    continue_text: str = "Wait"
    """Text that replaces a close that is taken back."""
    stop_loops: int | None = None
    """Thinking that stands in a loop is closed as by a budget: one span, at least 20 tokens long, so often in a row."""
    always_answer: bool = False
    """An end-of-sequence inside marked thinking closes it, and the model answers; otherwise the run ends there."""

    def __post_init__(self) -> None:
        if isinstance(self.budget, float):
            if not 0 <= self.budget <= 1:
                raise ControllerError(
                    f"budget is {self.budget}; it must be a whole number of thinking tokens, at least 0, or a share of "
                    "the run's tokens from 0.0 to 1.0"
                )
        elif self.budget is not None:
            _require_count("budget", self.budget, "thinking tokens")
        if self.seconds is not None:
            _require_seconds(self.seconds)
        _require_count("min_thinking", self.min_thinking, "thinking tokens")
        _require_count("continue_times", self.continue_times, "times")
        if type(self.budget) is int and self.min_thinking > self.budget:
            raise ControllerError(
                f"min_thinking is {self.min_thinking}, above the budget of {self.budget}; lower it or raise the budget"
            )
        if self.budget_per not in ("run", "span"):
            raise ControllerError(f"budget_per is {self.budget_per!r:.40}; it must be 'run' or 'span'")
        if self.stop_loops is not None:
            _require_count("stop_loops", self.stop_loops, "times", least=2)
        if self.warn_before is not None:
            _require_count("warn_before", self.warn_before, "thinking tokens", least=1)
            if self.budget is None:
                raise ControllerError(f"warn_before is {self.warn_before} and there is no budget; give one")
            if not self.warning.strip():
                raise ControllerError("warning is empty; give the text that says that thinking is about to end")
        if self.wrap_up and not self.closes:
            raise ControllerError(
                f"wrap_up is {self.wrap_up!r} and there is no budget; give one, thinking_seconds, stop_loops or "
                "always_answer"
            )
        if self.reopens and not self.continue_text.strip():
            raise ControllerError("continue_text is empty; give the text that goes in a close's place, e.g. 'Wait'")

    @property
    def reopens(self) -> bool:
        """A close of the model's own may be taken back."""
        return self.min_thinking > 0 or self.continue_times > 0

    @property
    def closes(self) -> bool:
        """Thinking may be closed."""
        limits = (self.budget, self.seconds, self.stop_loops)
        return self.always_answer or any(limit is not None for limit in limits)

    @property
    def any(self) -> bool:
        """Anything is limited or forced."""
        return self.closes or self.reopens

    def of_trial(self) -> ThinkingLimits:
        """The limits of an answer that is only tried: those that a promise may be made for."""
        return replace(NO_LIMITS, always_answer=True, wrap_up=self.wrap_up) if self.always_answer else NO_LIMITS

    def not_promised(self, always_answer: bool) -> list[str]:
        """How runs under these limits differ from those that an exit rule's promise was made for, one line each.

        >>> ThinkingLimits(budget=512).not_promised(always_answer=False)
        ['budget is 512, calibrated with none']

        Args:
            always_answer: Those runs had it; they had no other limit.
        """
        limits = {"budget": self.budget, "thinking_seconds": self.seconds, "stop_loops": self.stop_loops}
        limits |= {"min_thinking": self.min_thinking or None, "continue_times": self.continue_times or None}
        lines = [f"{name} is {value}, calibrated with none" for name, value in limits.items() if value is not None]
        if self.always_answer != always_answer:
            lines.append(f"always_answer is {self.always_answer}, calibrated with {always_answer}")
        return lines

    def within(self, room: int) -> ThinkingLimits:
        """The limits of a run of at most `room` tokens: a share becomes a number of tokens.

        >>> ThinkingLimits(budget=0.5).within(301).budget
        150

        Raises:
            ControllerError: The share is smaller than `min_thinking`.
        """
        return replace(self, budget=int(self.budget * room)) if isinstance(self.budget, float) else self

    def check(self, thinking: Thinking) -> None:
        """Raises ControllerError where a forced text would open or close thinking by itself."""
        markers = thinking.markers
        if markers is None:
            return
        texts = {"wrap_up": self.wrap_up}
        texts |= {} if self.warn_before is None else {"warning": self.warning}
        texts |= {"continue_text": self.continue_text} if self.reopens else {}
        for name, text in texts.items():
            for marker in (markers.open, markers.close):
                if marker in text:
                    raise ControllerError(
                        f"{name} {text!r} holds the marker {marker!r}; leave it out, it is fed by itself"
                    )
        if (self.wrap_up + thinking.suffix).count(markers.close) != 1:
            raise ControllerError(f"wrap_up {self.wrap_up!r} and the suffix {thinking.suffix!r} close thinking twice")


def _require_count(name: str, value: object, unit: str, least: int = 0) -> None:
    """Raises ControllerError unless the value is a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ControllerError(f"{name} is {value!r}; it must be a whole number of {unit}, at least {least}")


def _require_seconds(value: object) -> None:
    """Raises ControllerError unless the value is a time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ControllerError(f"thinking_seconds is {value!r}; it must be a number of seconds, at least 0")


NO_LIMITS = ThinkingLimits()
