"""reasonctl's decoding loop and what it consults; knows neither torch nor llama.cpp."""

from .chain import Chain, Greedy, Sampling
from .composed import Constrained, PerPhase
from .controller import Call, Controller
from .cues import Cue, Cues
from .decode import NO_DRAFT, ROOT, Capabilities, Decode, Draft, Engine, Proposal, Session, Step
from .distortion import Distortion, Weighed, distortion, importance_weights, log_z
from .draft_text import parse_draft
from .drafters import Drafter, Drafting, PromptLookup, Stateless, Target
from .drivers import drive, drive_batch
from .errors import ControllerError
from .exits import Boundary, ExitRule, Trial, entropy
from .feedback import Mirostat, MirostatV2
from .grammar import Grammar
from .guided import KLGuided
from .hierarchy import Hierarchy
from .lengths import Lengths
from .model_draft import ModelDrafter
from .no_wait import NoWait
from .penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .policy import Frame, Policy, Row, draw
from .randomness import Keys
from .scores import Scores
from .stage import Pure, Stage
from .temperature import EAD, EDT, Dynatemp, Temperature
from .text import parse_policy, register_stage, same_policy
from .thinking import Mark, Markers, Span, Thinking, Tokenizer
from .trace import Decision, Event, Trace
from .triforce import TriForce
from .truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical

__all__ = [
    "BadWords", "Boundary", "Call", "Capabilities", "Chain", "Constrained", "Controller", "ControllerError", "Cue",
    "Cues", "DRY", "Decision", "Decode", "Distortion", "Draft", "Drafter", "Drafting", "Dynatemp", "EAD", "EDT",
    "Engine", "Epsilon", "Eta", "Event", "ExitRule", "Frame", "Grammar", "Greedy", "Hierarchy", "KLGuided", "Keys",
    "Lengths", "LogitBias", "Mark", "Markers", "MinNewTokens", "MinP", "Mirostat", "MirostatV2", "ModelDrafter",
    "NO_DRAFT", "NoWait", "Penalties", "PerPhase", "Policy", "PromptLookup", "Proposal", "Pure", "ROOT", "Row",
    "Sampling", "Scores", "Session", "Span", "Stage", "Stateless", "Step", "Target", "Temperature", "Thinking",
    "Tokenizer", "TopH", "TopK", "TopNSigma", "TopP", "Trace", "TriForce", "Trial", "Typical", "Weighed", "XTC",
    "distortion", "draw", "drive", "drive_batch", "entropy", "importance_weights", "log_z", "parse_draft",
    "parse_policy", "register_stage", "same_policy",
]  # fmt: skip
