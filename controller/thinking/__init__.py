"""Where a run's thinking opens, where it may end and what its answer is, read from text alone.

Nothing here decides to exit: an exit rule does, and its contract is in `exit_rule.py`.
"""

from .answers import after_thinking, last_side, stated_answer, statement
from .chat_template import BREAKS, WORDS, chosen_template, default_cues, read_template, read_templates, with_markers
from .cues import LONGEST_CUE

__all__ = [
    "BREAKS",
    "LONGEST_CUE",
    "WORDS",
    "after_thinking",
    "chosen_template",
    "default_cues",
    "last_side",
    "read_template",
    "read_templates",
    "stated_answer",
    "statement",
    "with_markers",
]
