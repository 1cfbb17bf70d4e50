"""Which of several samples of one prompt is the answer, and how the samples are drawn.

`codes.py` draws samples that depend on each other by arithmetic codes, `utilities.py` compares texts, `choices.py`
chooses one of them, and `early_stop.py` says when enough samples have been drawn (`stop_file.py` keeps a calibrated
rule). None of it runs a model.
"""

from .choices import AnswerClasses, Choice, answer_classes, best_logprob, mbr, vote
from .codes import ArithmeticCode, Codes, arithmetic_codes, policies_of
from .early_stop import BetaStop, LosslessStop, ShareStop, StopRule, samples_read, share
from .samples import Samples
from .scores import Scored
from .stop_file import CalibratedStop, load_stop, stop_text
from .text_utilities import BLEU, ChrF, EmbeddingCosine
from .utilities import AllPairs, Utility, exact, sim_lcs, utility_matrix

__all__ = [
    "AllPairs",
    "AnswerClasses",
    "ArithmeticCode",
    "BLEU",
    "BetaStop",
    "CalibratedStop",
    "Choice",
    "ChrF",
    "Codes",
    "EmbeddingCosine",
    "LosslessStop",
    "Samples",
    "Scored",
    "ShareStop",
    "StopRule",
    "Utility",
    "answer_classes",
    "arithmetic_codes",
    "best_logprob",
    "exact",
    "load_stop",
    "mbr",
    "policies_of",
    "samples_read",
    "share",
    "sim_lcs",
    "stop_text",
    "utility_matrix",
    "vote",
]
