"""Drafts that a model proposes: chains and trees of a smaller one, and TriForce's chains of the target itself.

`model_run.py` is one run of either; the other files are its parts.
"""

from .draft_distribution import DRAFT_TEMPERATURE
from .model_drafter import DraftModel

__all__ = [
    "DRAFT_TEMPERATURE",
    "DraftModel",
]
