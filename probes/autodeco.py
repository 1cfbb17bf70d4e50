"""AutoDeco: temperature and top-p of every token from two small heads on the model's last hidden state.

After AutoDeco (arXiv 2510.26697, "The End of Manual Decoding") and its released code: heads of 256 hidden units, with
2 * sigmoid and sigmoid as outputs. This file is the stage that asks the heads. files/heads_file.py has their file and
numbers, and calibration/fitting/heads.py trains them. Control by instructions in the prompt ("be creative") is left
out: heads that are trained on a task's right answers learn that task's sampling and nothing about instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reasonctl.controller import Candidates, ControllerError, Row, TopP, register_stage
from reasonctl.controller.sampling import Pure

from .files.card import check_model
from .files.heads_file import COOLEST, SEALED, HeadsFile, load_heads


@register_stage
@dataclass(frozen=True)
class AutoDeco(Pure):
    """Temperature and top-p of each token, from heads that read the last block's state at every row.

    The heads see the logits that the constraints leave. Temperatures below COOLEST are raised to it. The most
    probable token always stays.
    """

    name = "autodeco"
    kind = "temperature"
    truncates = True
    reads_text = True  # a model is known by its vocabulary
    drafts = False  # a draft model has other states
    file: str
    """Made by `ctl calibrate MODEL --tasks T --heads --out FILE`. A missing or broken file is an error at once."""
    content: HeadsFile = field(init=False, compare=False, repr=False)
    """The file's heads and card."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", load_heads(self.file))

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last block. Raises ControllerError for a model of another depth."""
        card = self.content.card
        if depth != card.depth:
            raise ControllerError(
                f"heads were fitted on a {card.depth}-layer model of width {card.width}; this model has {depth} "
                f"layers. Make some for it: {SEALED.make}"
            )
        return (depth - 1,)

    def check(self, model: Any) -> list[str]:
        """Warnings where the model differs slightly from the card's; ControllerError for another model."""
        return check_model(
            self.content.card,
            model,
            what="heads were",
            make=f"Make some for it: {SEALED.make}",
            again="the heads on your task",
        )

    def divisor(self, candidates: Candidates, row: Row) -> float:
        return self._at(candidates, row)[0]

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        temperature, top_p = self._at(candidates, row)
        return TopP(top_p).apply(candidates.tempered(temperature), row)

    def _at(self, candidates: Candidates, row: Row) -> tuple[float, float]:
        """(temperature, top-p) of this row: the heads see the whole of it, whatever stands before this stage."""
        hidden = row.hidden(self.content.card.depth - 1)
        temperature, top_p = self.content.heads.at(hidden, candidates.whole.shifted)
        return max(temperature, COOLEST), top_p
