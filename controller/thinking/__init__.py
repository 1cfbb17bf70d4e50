"""Where a run's thinking opens, where it may end and what its answer is, read from text alone.

Nothing here decides to exit: an exit rule does, and its contract is in `exit_rule.py`.
"""

from .answer_end import ends_in_brace
from .answers import after_thinking, last_side, stated_answer, statement
from .chat_template import (
    ANSWER_CUE,
    BREAKS,
    WORDS,
    Format,
    chosen_template,
    default_cues,
    read_template,
    read_templates,
    with_markers,
)

__all__ = [
    "ANSWER_CUE",
    "BREAKS",
    "Format",
    "WORDS",
    "after_thinking",
    "chosen_template",
    "default_cues",
    "ends_in_brace",
    "last_side",
    "read_template",
    "read_templates",
    "stated_answer",
    "statement",
    "with_markers",
]
