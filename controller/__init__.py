"""reasonctl's decoding loop and what it consults; knows neither torch nor llama.cpp."""

from .audits.audited import Audited, AuditedAnswers
from .audits.ledger import AuditLedger, AuditSummary
from .controller import Controller
from .core.decode import NO_DRAFT, ROOT, Capabilities, Decode, Draft, Engine, Need, Proposal, Session, Step
from .core.errors import ControllerError
from .core.probability import entropy
from .core.randomness import Keys
from .core.tokenizer import Tokenizer
from .core.trace import Decision, Event, Trace
from .decoding.call import Call
from .decoding.drivers import drive
from .decoding.run import Decoding
from .decoding.scheduler import Emitted, Ended, QueuedRun, Scheduler, ends_of
from .drafting.drafter import Drafter, Drafting, Stateless, Target
from .drafting.hierarchy import Hierarchy
from .drafting.models.model_drafter import ModelDrafter
from .drafting.models.triforce import TriForce
from .drafting.parse import parse_draft
from .drafting.prompt_lookup import PromptLookup
from .sampling.candidates import Candidates
from .sampling.chain import Chain, Greedy
from .sampling.composed import Constrained, PerPhase
from .sampling.distortion import Distortion, Weighed, distortion, importance_weights, log_z
from .sampling.draw import Row, RunContext, draw
from .sampling.parse import parse_policy, register_stage, same_policy
from .sampling.policy import Policy, PolicyWrapper
from .sampling.presets import Sampling
from .sampling.stage import Pure, Stage
from .sampling.stages.answer_only import AnswerOnly
from .sampling.stages.grammar import Grammar
from .sampling.stages.kl_guided import KLGuided
from .sampling.stages.mirostat import Mirostat, MirostatV2
from .sampling.stages.no_wait import NoWait
from .sampling.stages.penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .sampling.stages.temperature import EAD, EDT, Dynatemp, Temperature
from .sampling.stages.truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical
from .thinking.answer_end import AnswerEnds, Closing
from .thinking.answer_now import AnswerNow
from .thinking.cues import Cue, Cues
from .thinking.effort import Effort, parse_efforts
from .thinking.exit_form import ExitForm
from .thinking.exit_rule import AdmittedRun, Boundary, ExitRule, Promised, Trial
from .thinking.idle import IdleRun
from .thinking.limits import ThinkingLimits
from .thinking.markers import Markers, Thinking
from .thinking.rule_wrapper import RuleWrapper
from .thinking.span import MarkerPosition, Span
from .thinking.turn import Turn

__all__ = [
    "AdmittedRun",
    "AnswerEnds",
    "AnswerNow",
    "AnswerOnly",
    "AuditLedger",
    "AuditSummary",
    "Audited",
    "AuditedAnswers",
    "BadWords",
    "Boundary",
    "Call",
    "Capabilities",
    "Chain",
    "Closing",
    "Constrained",
    "Controller",
    "ControllerError",
    "Cue",
    "Cues",
    "DRY",
    "Decision",
    "Decode",
    "Decoding",
    "Distortion",
    "Draft",
    "Drafter",
    "Drafting",
    "Dynatemp",
    "EAD",
    "EDT",
    "Effort",
    "Emitted",
    "Ended",
    "Engine",
    "Epsilon",
    "Eta",
    "Event",
    "ExitForm",
    "ExitRule",
    "RuleWrapper",
    "RunContext",
    "Grammar",
    "Greedy",
    "Hierarchy",
    "IdleRun",
    "KLGuided",
    "Keys",
    "ThinkingLimits",
    "LogitBias",
    "MarkerPosition",
    "Markers",
    "MinNewTokens",
    "MinP",
    "Mirostat",
    "MirostatV2",
    "ModelDrafter",
    "NO_DRAFT",
    "Need",
    "NoWait",
    "Penalties",
    "PerPhase",
    "Policy",
    "PolicyWrapper",
    "PromptLookup",
    "Promised",
    "Proposal",
    "Pure",
    "QueuedRun",
    "ROOT",
    "Row",
    "Sampling",
    "Scheduler",
    "Candidates",
    "Session",
    "Span",
    "Stage",
    "Stateless",
    "Step",
    "Target",
    "Temperature",
    "Thinking",
    "Tokenizer",
    "TopH",
    "TopK",
    "TopNSigma",
    "TopP",
    "Trace",
    "TriForce",
    "Trial",
    "Turn",
    "Typical",
    "Weighed",
    "XTC",
    "distortion",
    "draw",
    "drive",
    "ends_of",
    "entropy",
    "importance_weights",
    "log_z",
    "parse_draft",
    "parse_efforts",
    "parse_policy",
    "register_stage",
    "same_policy",
]
