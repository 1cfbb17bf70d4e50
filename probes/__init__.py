"""What a hidden state says: the probe, its file, the thresholds that its table allows, and exit rules.

`exit.py` decides at a cue, and `promise.py` holds what the user asks it to keep to. `risk/` computes the threshold from
both; `signals/` scores a cue; `files/` reads and writes what is on disk.
"""

from .autodeco import AutoDeco
from .exit import ProbeExit, answer_tokens, load_exit, make_exit
from .files.card import Card
from .files.heads_file import Heads, load_heads, save_heads
from .files.probe_file import load_probe, save_probe
from .fixed_exits import FixedExit, NeverExit
from .promise import Promise
from .risk.drift import DriftMonitor
from .risk.give_up import GiveUp, LowerCurve, LowerGrid, choose_lower
from .risk.threshold import choose_threshold, runs_needed
from .signals.probe import Probe

__all__ = [
    "AutoDeco",
    "Card",
    "DriftMonitor",
    "FixedExit",
    "GiveUp",
    "Heads",
    "LowerCurve",
    "LowerGrid",
    "NeverExit",
    "Probe",
    "ProbeExit",
    "Promise",
    "answer_tokens",
    "choose_lower",
    "choose_threshold",
    "load_exit",
    "load_heads",
    "load_probe",
    "make_exit",
    "runs_needed",
    "save_heads",
    "save_probe",
]
