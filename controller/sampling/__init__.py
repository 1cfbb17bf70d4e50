"""From one row of logits to one token.

A policy is a chain of stages with explicit state. A new method is one file in `stages/` and one line in `parse.py`.
"""

from .rejection import node_tests
from .stage import Pure

__all__ = [
    "Pure",
    "node_tests",
]
