"""Where a run's thinking opens, where it may end and what its answer is, read from text alone.

Nothing here decides that thinking closes. `exit_rule.py` is the contract of a rule that does, and `limits.py` holds the
settings; `decoding/close_thinking.py` asks the one and applies the other. The rules themselves are in `probes/exit.py`.
"""

from .answer_end import ANSWER_ENDS, AnswerEnd, ends_in_brace
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
from .cue_table import CueTable, Passed
from .cues import LONGEST_CUE
from .effort import effort_named, parse_budget
from .exit_form import EXIT_FORMS, FORM_MEANS, exit_place, exit_text, parse_form
from .rendering import TemplateRenderer

__all__ = [
    "ANSWER_ENDS",
    "ANSWER_CUE",
    "AnswerEnd",
    "BREAKS",
    "CueTable",
    "EXIT_FORMS",
    "FORM_MEANS",
    "Format",
    "LONGEST_CUE",
    "Passed",
    "TemplateRenderer",
    "WORDS",
    "after_thinking",
    "chosen_template",
    "default_cues",
    "effort_named",
    "ends_in_brace",
    "exit_place",
    "exit_text",
    "last_side",
    "parse_form",
    "parse_budget",
    "read_template",
    "read_templates",
    "stated_answer",
    "statement",
    "with_markers",
]
