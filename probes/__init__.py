"""What a hidden state says: the probe, its file, the thresholds that its table allows, and exit rules."""

from .card import Card
from .drift import DriftMonitor
from .exit import FixedExit, NeverExit, ProbeExit, load_exit
from .file import load_probe, save_probe
from .giveup import GiveUp, LowerCurve, LowerGrid, choose_lower
from .heads import AutoDeco, Heads, load_heads, save_heads
from .probe import Probe
from .risk import choose_threshold, runs_needed

__all__ = [
    "AutoDeco", "Card", "DriftMonitor", "FixedExit", "GiveUp", "Heads", "LowerCurve", "LowerGrid", "NeverExit", "Probe",
    "ProbeExit", "choose_lower", "choose_threshold", "load_exit", "load_heads", "load_probe", "runs_needed",
    "save_heads", "save_probe",
]  # fmt: skip
