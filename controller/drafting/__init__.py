"""Where drafted tokens come from, and how many of them are worth verifying.

Read `drafter.py` first: it is the contract. `prompt_lookup.py` and `hierarchy.py` copy from texts, `models/` draws from
a model, `planning/` decides how much. A draft never changes the distribution of what is emitted.
"""

from .known_text import KnownText
from .ngrams import NgramTable, Recent, build_table, load_table, save_table
from .parse import DRAFTS
from .shapes import best_shape, monotone

__all__ = [
    "DRAFTS",
    "KnownText",
    "NgramTable",
    "Recent",
    "best_shape",
    "build_table",
    "load_table",
    "monotone",
    "save_table",
]
