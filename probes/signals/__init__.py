"""From what was observed at a cue to one number: `observation.py` is the input, `signals.py` has every signal.

`probe.py` is the small model that scores hidden states.
"""

from .observation import Observation
from .probe import Probe, features_at, layer_of
from .signals import SIGNALS, Signal, SignalName, Stack, cheap_features, full_features, make_signal

__all__ = [
    "Observation",
    "Probe",
    "SIGNALS",
    "Signal",
    "SignalName",
    "Stack",
    "cheap_features",
    "features_at",
    "full_features",
    "layer_of",
    "make_signal",
]
