"""What a chat template tells about thinking: the markers, and what the model writes after it closes.

Read from the template's text alone, so that it is the same on every backend; each can be overridden.
"""

from __future__ import annotations

import re

from .markers import Markers

_PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)

ANSWER_CUE = "\n\nThe final answer is"
"""Suffix for models without markers."""

WORDS = ("wait", "hmm", "alternatively")
BREAKS = ("paragraph", "sentence")


def find_markers(template: str | None) -> Markers | None:
    """The first known pair that the template names; None if it names none."""
    for opening, closing in _PAIRS:
        if template and (opening in template or closing in template):
            return Markers(opening, closing)
    return None


def exit_suffix(template: str | None, markers: Markers | None) -> str:
    """The closing marker and the line breaks that the template writes behind it (two if it shows none).

    >>> exit_suffix("{{ '<think>' + r + '</think>\\\\n' + m }}", Markers("<think>", "</think>"))
    '</think>\\n'
    """
    if markers is None:
        return ANSWER_CUE
    behind = re.findall(re.escape(markers.close) + r"((?:\\n|\n)+)", template or "")
    breaks = max((text.replace("\\n", "\n") for text in behind), key=len, default="\n\n")
    return markers.close + breaks


def default_cues(markers: Markers | None) -> tuple[str, ...]:
    """Reflection words (LYNX) inside a thinking span; paragraph and sentence ends where there is none."""
    return WORDS if markers else BREAKS
