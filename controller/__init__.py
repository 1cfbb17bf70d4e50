"""reasonctl's decoding loop and what it consults; knows neither torch nor llama.cpp."""

from .controller import Call, Controller
from .decode import NO_DRAFT, ROOT, Capabilities, Decode, Draft, Engine, Proposal, Session, Step
from .drafters import Drafter, Drafting, PromptLookup, Stateless, Target
from .drivers import drive, drive_batch
from .errors import ControllerError
from .exits import Boundary, ExitRule, Trial, entropy
from .hierarchy import Hierarchy
from .model_draft import ModelDrafter
from .policy import Greedy, Policy, Row, Sampling, draw
from .randomness import Keys
from .text import parse_draft, parse_policy
from .thinking import Cue, Cues, Markers, Span, Tokenizer
from .trace import Decision, Event, Trace

__all__ = [
    "Boundary", "Call", "Capabilities", "Controller", "ControllerError", "Cue", "Cues", "Decision", "Decode",
    "Draft", "Drafter", "Drafting", "Engine", "Event", "ExitRule", "Greedy", "Hierarchy", "Keys", "Markers",
    "ModelDrafter", "NO_DRAFT", "Policy",
    "PromptLookup", "Proposal", "ROOT", "Row", "Sampling", "Session", "Span", "Stateless", "Step", "Target",
    "Tokenizer", "Trace", "Trial", "draw", "drive", "drive_batch", "entropy", "parse_draft", "parse_policy",
]  # fmt: skip
