"""A promise that is watched while it is used, and one that comes from one's own traffic.

`watched.py` puts audits around a rule. `learned.py` is a rule that learns from the runs that it watches: `traffic.py`
keeps them, `labelling.py` tries exits on them, and `promises.py` says what they allow.
"""

from .clients import CLIENT_SHARE, share_of_keys
from .learn import StoreLimits, learn
from .settings import LearnedSettings
from .traffic import SCHEMA, VERSION, Stage, Traffic, open_store
from .watched import audited

__all__ = [
    "CLIENT_SHARE",
    "SCHEMA",
    "VERSION",
    "LearnedSettings",
    "Stage",
    "StoreLimits",
    "Traffic",
    "audited",
    "learn",
    "open_store",
    "share_of_keys",
]
