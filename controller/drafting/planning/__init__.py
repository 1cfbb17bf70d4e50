"""How much to draft: measured costs, acceptance seen so far, and the shape that pays by both.

`cost.py` and `acceptance.py` are what is known, `experience.py` is what outlives a run, `plan.py` and `payoff.py`
decide.
"""

from .cost import CostCurve, measure
from .cost_cache import keep_curve
from .experience import Ledger
from .payoff import MARGIN
from .plan import SIZES

__all__ = [
    "CostCurve",
    "Ledger",
    "MARGIN",
    "SIZES",
    "keep_curve",
    "measure",
]
