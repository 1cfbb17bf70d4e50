"""From a table of recorded runs and a named risk to a threshold, with exact bounds.

`table.py` holds the runs, and `threshold.py` computes what they can promise with the tests of `bounds.py`. `give_up.py`
does the same for the lower exit. `drift.py` tests whether runs in use still are like the recorded ones.
"""

from .bounds import accepted, refutes, upper_bound
from .drift import DriftMonitor
from .give_up import GiveUp, LowerCurve, LowerGrid
from .in_order import InOrder
from .stopping import Stopping, first_analysis, following, planned
from .table import NO_EXIT, Bools, Floats64, Ints, Outcomes, Table
from .threshold import (
    MODES,
    NEARLY,
    Grid,
    Mode,
    Threshold,
    check_request,
    choose_threshold,
    count_failures,
    failing_cues,
    failures_at,
    runs_needed,
)

__all__ = [
    "Bools",
    "DriftMonitor",
    "Floats64",
    "GiveUp",
    "InOrder",
    "Grid",
    "Ints",
    "LowerCurve",
    "LowerGrid",
    "MODES",
    "Mode",
    "NEARLY",
    "NO_EXIT",
    "Outcomes",
    "Stopping",
    "Table",
    "Threshold",
    "accepted",
    "check_request",
    "choose_threshold",
    "count_failures",
    "failing_cues",
    "failures_at",
    "first_analysis",
    "following",
    "planned",
    "refutes",
    "runs_needed",
    "upper_bound",
]
