"""How long a run may and must think. Owns the settings and their checks; the loop carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import ControllerError
from .markers import Thinking


@dataclass(frozen=True, kw_only=True)
class ThinkingLimits:
    """The limits of one run's thinking, in thinking tokens: markers don't count, forced texts inside the span do.

    budget: most of them, None = no limit; then `wrap_up` and the closing suffix are fed. min_thinking: a close before
    so many is taken back and `continue_text` is fed in its place. continue_times: so many later closes are taken back
    too (the budget forcing of s1); with an exit rule its probe is asked at the continue text's cue.

    >>> ThinkingLimits(budget=512).any, ThinkingLimits().any
    (True, False)
    """

    budget: int | None = None
    wrap_up: str = ""
    min_thinking: int = 0
    continue_times: int = 0
    continue_text: str = "Wait"

    def __post_init__(self) -> None:
        for name, value, unit in (
            ("budget", self.budget, "thinking tokens"),
            ("min_thinking", self.min_thinking, "thinking tokens"),
            ("continue_times", self.continue_times, "times"),
        ):
            if name == "budget" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ControllerError(f"{name} is {value!r}; it must be a whole number of {unit}, at least 0")
        if self.budget is not None and self.min_thinking > self.budget:
            raise ControllerError(
                f"min_thinking is {self.min_thinking}, above the budget of {self.budget}; lower it or raise the budget"
            )
        if self.wrap_up and self.budget is None:
            raise ControllerError(f"wrap_up is {self.wrap_up!r} and there is no budget to wrap up; give a budget")
        if self.reopens and not self.continue_text.strip():
            raise ControllerError("continue_text is empty; give the text that goes in a close's place, e.g. 'Wait'")

    @property
    def reopens(self) -> bool:
        """A close of the model's own may be taken back."""
        return self.min_thinking > 0 or self.continue_times > 0

    @property
    def any(self) -> bool:
        """Anything is limited or forced."""
        return self.budget is not None or self.reopens

    def check(self, thinking: Thinking) -> None:
        """Raises ControllerError where a forced text would open or close thinking by itself."""
        markers = thinking.markers
        if markers is None:
            return
        for name, text in (("wrap_up", self.wrap_up), ("continue_text", self.continue_text)):
            for marker in (markers.open, markers.close):
                if marker in text:
                    raise ControllerError(
                        f"{name} {text!r} holds the marker {marker!r}; leave it out, it is fed by itself"
                    )
        if (self.wrap_up + thinking.suffix).count(markers.close) != 1:
            raise ControllerError(f"wrap_up {self.wrap_up!r} and the suffix {thinking.suffix!r} close thinking twice")


NO_LIMITS = ThinkingLimits()
