"""The one error that people are meant to read: what was given, what the limit is, what to do."""

from __future__ import annotations


class ControllerError(ValueError):
    """A user's mistake or a model's missing capability, said in one line with its remedy."""
