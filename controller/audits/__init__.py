"""Does what an exit rule promised hold while it is used? Some runs aren't exited, and their tried answers are compared.

Read `evidence.py` first: what a bettor makes of the failures. `ledger.py` keeps the runs in the order in which they
were admitted, and `audited.py` is the rule that is asked at cues. Why this is valid: docs/audits.md.
"""

from .audited import Audited, AuditedAnswers, promised_of, stem_of
from .evidence import LEVEL, Evidence
from .ledger import SCHEMA, SHARE, VERSION, AuditLedger, AuditSummary, Place, summaries
from .prompts import Prompts
from .store import Store, version_of

__all__ = [
    "AuditLedger",
    "AuditSummary",
    "Audited",
    "AuditedAnswers",
    "Evidence",
    "LEVEL",
    "Place",
    "Prompts",
    "SCHEMA",
    "SHARE",
    "Store",
    "VERSION",
    "promised_of",
    "stem_of",
    "summaries",
    "version_of",
]
