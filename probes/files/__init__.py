"""What is on disk: a whole file, or an error.

`sealed.py` writes and checks any file. `probe_file.py` and `heads_file.py` say what is in one, `card.py` what it was
made for.
"""

from .card import Card, Scalar, check_model, origin_of
from .heads_file import COOLEST, SEALED, STATISTICS, Heads, HeadsCard, HeadsFile, load_heads, save_heads, unit
from .hub import CARD_NAME, PROBE_NAME, find_probe
from .probe_file import ProbeFile, SignalTable, digest_of, is_probe, load_probe, save_probe
from .sealed import Sealed, check_target, write_whole

__all__ = [
    "CARD_NAME",
    "COOLEST",
    "Card",
    "Heads",
    "HeadsCard",
    "HeadsFile",
    "PROBE_NAME",
    "ProbeFile",
    "SEALED",
    "STATISTICS",
    "Scalar",
    "Sealed",
    "SignalTable",
    "check_model",
    "check_target",
    "digest_of",
    "find_probe",
    "is_probe",
    "load_heads",
    "load_probe",
    "origin_of",
    "save_heads",
    "save_probe",
    "unit",
    "write_whole",
]
