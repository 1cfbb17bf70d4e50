"""Text written by unmasking: how does a canvas of masks become an answer, in which order, and when is it committed?

Read first: `canvas.py`.
"""

from .analysis import ar_ness, global_ar_ness, local_ar_ness
from .canvas import Canvas, Denoise, MaskedEngine, PrefixCache
from .commit import AnswerAfter, Commit, Confidence, Signal, Stability, Unsure
from .coupled import Estimate, answer_log_prob, coupled_log_prob, independent_log_prob
from .loop import UnmaskingTrace, unmask
from .orders import Order, by_entropy_bound, schedule
from .runs import Unmask, run_all, run_one
from .settings import Unmasking, parse_unmasking

__all__ = [
    "AnswerAfter",
    "Canvas",
    "Commit",
    "Confidence",
    "Denoise",
    "Estimate",
    "MaskedEngine",
    "Order",
    "PrefixCache",
    "Signal",
    "Stability",
    "Unmask",
    "Unmasking",
    "UnmaskingTrace",
    "Unsure",
    "answer_log_prob",
    "ar_ness",
    "by_entropy_bound",
    "coupled_log_prob",
    "global_ar_ness",
    "independent_log_prob",
    "local_ar_ness",
    "parse_unmasking",
    "run_all",
    "run_one",
    "schedule",
    "unmask",
]
