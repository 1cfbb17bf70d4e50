"""From one row of logits to one token: `policy.py` is the contract, and `draw.py` draws.

A policy is a chain of stages with explicit state. A new method is a class in its family's file in `stages/`, and one
name in `parse.py`.
"""

from .draw import draw_rows
from .drawn import See, Shown
from .option_text import LETTERS, option_spans, with_contents
from .parse import BUILT_IN, STAGES
from .rejection import node_tests
from .replay import Explained, Replay
from .stage import Pure
from .stages.options import letter_logits, letter_tokens, mean_by_option, rotations

__all__ = [
    "BUILT_IN",
    "Explained",
    "LETTERS",
    "Pure",
    "Replay",
    "See",
    "Shown",
    "STAGES",
    "draw_rows",
    "letter_logits",
    "letter_tokens",
    "mean_by_option",
    "node_tests",
    "option_spans",
    "rotations",
    "with_contents",
]
