"""A promise that is watched while it is used, and one that comes from one's own traffic.

`watched.py` puts audits around a rule.
"""

from .watched import audited

__all__ = ["audited"]
