"""reasonctl's decoding loop and what it consults; knows neither torch nor llama.cpp."""

from .chain import Chain, Constrained, Greedy, PerPhase, Sampling
from .controller import Call, Controller
from .decode import NO_DRAFT, ROOT, Capabilities, Decode, Draft, Engine, Session, Step
from .drafters import Drafter, PromptLookup
from .drivers import drive, drive_batch
from .errors import ControllerError
from .exits import Boundary, ExitRule, Trial, entropy
from .feedback import Mirostat, MirostatV2
from .guided import KLGuided
from .penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .policy import Frame, Policy, Row, draw
from .randomness import Keys
from .scores import Scores
from .stage import Pure, Stage
from .temperature import EAD, EDT, Dynatemp, Temperature
from .text import parse_draft, parse_policy
from .thinking import Cue, Cues, Markers, Span, Tokenizer
from .trace import Decision, Event, Trace
from .truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical

__all__ = [
    "BadWords", "Boundary", "Call", "Capabilities", "Chain", "Constrained", "Controller", "ControllerError", "Cue",
    "Cues", "Decision", "Decode", "Draft", "Drafter", "draw", "drive", "drive_batch", "DRY", "Dynatemp", "EAD", "EDT",
    "Engine", "entropy", "Epsilon", "Eta", "Event", "ExitRule", "Frame", "Greedy", "Keys", "KLGuided", "LogitBias",
    "Markers", "MinNewTokens", "MinP", "Mirostat", "MirostatV2", "NO_DRAFT", "parse_draft", "parse_policy",
    "Penalties", "PerPhase", "Policy", "PromptLookup", "Pure", "ROOT", "Row", "Sampling", "Scores", "Session", "Span",
    "Stage", "Step", "Temperature", "Tokenizer", "TopH", "TopK", "TopNSigma", "TopP", "Trace", "Trial", "Typical",
    "XTC",
]  # fmt: skip
