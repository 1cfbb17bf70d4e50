"""reasonctl's decoding loop and what it consults; knows neither torch nor llama.cpp."""

from .controller import Call, Controller
from .cues import Cue, Cues
from .decode import NO_DRAFT, ROOT, Capabilities, Decode, Draft, Engine, Session, Step
from .drafters import Drafter, PromptLookup
from .drivers import drive, drive_batch
from .errors import ControllerError
from .exits import Boundary, ExitRule, Trial, entropy
from .lengths import Lengths
from .policy import Greedy, Policy, Row, Sampling, draw
from .randomness import Keys
from .text import parse_draft, parse_policy
from .thinking import Mark, Markers, Span, Thinking, Tokenizer
from .trace import Decision, Event, Trace

__all__ = [
    "Boundary", "Call", "Capabilities", "Controller", "ControllerError", "Cue", "Cues", "Decision", "Decode",
    "Draft", "Drafter", "Engine", "Event", "ExitRule", "Greedy", "Keys", "Lengths", "Mark", "Markers", "NO_DRAFT",
    "Policy", "PromptLookup", "ROOT", "Row", "Sampling", "Session", "Span", "Step", "Thinking", "Tokenizer", "Trace",
    "Trial", "draw", "drive", "drive_batch", "entropy", "parse_draft", "parse_policy",
]  # fmt: skip
