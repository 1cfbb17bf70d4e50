"""A run that was made elsewhere, as tokens: what reading it needs besides its question."""

from __future__ import annotations

from dataclasses import dataclass

from reasonctl.backends import Model
from reasonctl.controller import Policy
from reasonctl.controller.drafting import KnownText
from reasonctl.controller.sampling import Replay

SOURCE = "source"
"""The entry of a card's report that says where runs were logged; it is there only if a log had them."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The model's own tokens after a prompt."""

    tokens: tuple[int, ...]
    """Without the end of sequence. As many as the job's limit: truncated there; fewer: the model ended the run."""
    where: str
    """The line that it was read from, for messages."""
    prompt: tuple[int, ...] = ()
    """The prompt's tokens. (): those of the question alone."""

    def drafter(self) -> KnownText:
        """Proposes the run's tokens."""
        return KnownText(self.tokens)

    def policy(self, model: Model, inner: Policy) -> Replay:
        """Writes the run's tokens, and draws as `inner` does elsewhere."""
        return Replay(inner, self.tokens, model.eos)
