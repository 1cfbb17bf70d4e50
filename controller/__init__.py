"""reasonctl's decoding loop and what it consults; knows neither torch nor llama.cpp."""

from .chain import Chain, Constrained, Greedy, PerPhase, Sampling
from .controller import Call, Controller
from .cues import Cue, Cues
from .decode import NO_DRAFT, ROOT, Capabilities, Decode, Draft, Engine, Proposal, Session, Step
from .drafters import Drafter, Drafting, PromptLookup, Stateless, Target
from .drivers import drive, drive_batch
from .errors import ControllerError
from .exits import Boundary, ExitRule, Trial, entropy
from .feedback import Mirostat, MirostatV2
from .guided import KLGuided
from .hierarchy import Hierarchy
from .lengths import Lengths
from .model_draft import ModelDrafter
from .penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .policy import Frame, Policy, Row, draw
from .randomness import Keys
from .scores import Scores
from .stage import Pure, Stage
from .temperature import EAD, EDT, Dynatemp, Temperature
from .text import parse_draft, parse_policy
from .thinking import Mark, Markers, Span, Thinking, Tokenizer
from .trace import Decision, Event, Trace
from .triforce import TriForce
from .truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical

__all__ = [
    "BadWords", "Boundary", "Call", "Capabilities", "Chain", "Constrained", "Controller", "ControllerError", "Cue",
    "Cues", "DRY", "Decision", "Decode", "Draft", "Drafter", "Drafting", "Dynatemp", "EAD", "EDT", "Engine",
    "Epsilon", "Eta", "Event", "ExitRule", "Frame", "Greedy", "Hierarchy", "KLGuided", "Keys", "Lengths",
    "LogitBias", "Mark", "Markers", "MinNewTokens", "MinP", "Mirostat", "MirostatV2", "ModelDrafter", "NO_DRAFT",
    "Penalties", "PerPhase", "Policy", "PromptLookup", "Proposal", "Pure", "ROOT", "Row", "Sampling", "Scores",
    "Session", "Span", "Stage", "Stateless", "Step", "Target", "Temperature", "Thinking", "Tokenizer", "TopH",
    "TopK", "TopNSigma", "TopP", "Trace", "TriForce", "Trial", "Typical", "XTC", "draw", "drive", "drive_batch",
    "entropy", "parse_draft", "parse_policy",
]  # fmt: skip
