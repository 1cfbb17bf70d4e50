"""Does what an exit rule promised hold while it is used? Some runs aren't exited, and their tried answers are compared.

Read `evidence.py` first: what a bettor makes of the failures. `ledger.py` keeps the runs in the order in which they
were admitted, and `audited.py` is the rule that is asked at cues. Why this is valid: docs/audits.md.
"""

from .audited import Audited, AuditedAnswers
from .evidence import LEVEL, Evidence
from .ledger import SHARE, AuditLedger, AuditSummary
from .store import Store

__all__ = ["Audited", "AuditLedger", "AuditSummary", "AuditedAnswers", "Evidence", "LEVEL", "SHARE", "Store"]
