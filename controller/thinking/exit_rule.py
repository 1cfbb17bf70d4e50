"""The contract of an exit rule, and what it sees at a cue.

The rules themselves are in `probes/exit.py`. `decoding/close_thinking.py` asks them, and closes thinking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..core.decode import Decode, Floats, Session, Step
from ..core.errors import ControllerError
from ..core.probability import entropy
from ..core.tokenizer import Tokenizer
from ..core.trace import Decision, Trace
from .answer_end import AnswerEnds, Closing
from .cues import Cue, Cues
from .effort import Efforts
from .exit_form import ExitForm
from .idle import IdleRun
from .markers import Markers


@dataclass(frozen=True)
class Trial:
    """The answer that an exit would have given, found on a fork."""

    tokens: tuple[int, ...]
    """The answer, end of sequence included."""
    logprobs: tuple[float, ...]
    """Log-probability of each token in the model's own distribution (temperature 1, no truncation), in nats."""
    text: str
    """Forced text and answer as the user would read them."""
    cost: int
    """Tokens of the forced text and of the answer."""
    complete: bool = True
    """The answer ended as the rule or the model ends it. False: a limit cut it."""
    forwards: int = 0
    """Forwards that it took."""
    rows: int = 0
    """Tokens that these forwards fed, with those of rejected drafts."""


@dataclass(frozen=True)
class Boundary:
    """A cue inside the thinking span. All of its tokens are verified and in the cache."""

    cue: Cue
    """The cue."""
    hidden: dict[int, Floats]
    """The hidden state at the cue's last token by layer, each of shape (width,). They are copies."""
    tokens: Sequence[int]
    """The run's tokens. The cue is `tokens[cue.first : cue.last + 1]`.

    One more token follows, which isn't in the cache: a sampled one, or the next of a forced text that goes on after
    its cue word. An exit drops it.
    """
    forced: tuple[int, ...]
    """The tokens that an exit here would feed, in place of the cue or after it, as the rule's form says."""
    prompt: int
    """Number of prompt tokens in `tokens`."""
    session: Session
    """The run's session."""
    memory: list[Any]
    """The rule's own notes on this run. They stay from cue to cue, and are empty at the first."""
    row: Callable[[], Floats]
    """Gives the logits after the cue's last token, shape (vocabulary,). A view: it is stale after the first trial."""
    answer: Callable[..., Generator[Decode, Step, Trial]]
    """Tries the exit on a fork: `answer(n)` is a generator that returns a Trial of at most n answer tokens.

    `answer(n, cue)` tries it at another cue of this row, one of `cue.also`; `answer(n, closing=...)` with a `Closing`
    other than the rule's. All trials of a boundary share one fork, so those that begin alike feed what differs.
    """

    def entropy(self) -> float:
        """Entropy in nats of the next-token distribution after the cue, at temperature 1; ask before any trial."""
        return entropy(self.row())


@dataclass(frozen=True)
class Promised:
    """What a rule promises of each run, as far as a count of failing runs can contradict it."""

    mode: str
    """What is a failure: "disagree", the exit's answer isn't the full run's; "harm", it is wrong and the full run's is
    right; "wrong", it is wrong."""
    risk: float
    """Largest share of runs that fail."""
    answer_tokens: int
    """Most tokens of a tried answer. One that a limit truncates there counts as a failure, as in calibration."""
    name: str
    """Tells this promise from those of other files, and of other requests to the same file."""


@dataclass(frozen=True)
class AdmittedRun:
    """What a rule may know of a run before its first forward."""

    prompt: Sequence[int]
    """The prompt's tokens."""
    tokenizer: Tokenizer
    """The model's."""
    eos: frozenset[int]
    """Tokens that end the run."""
    promised: bool
    """The rule's promise covers the run, as far as a call shows it, and its exits are acted on."""
    policy: str = ""
    """The text form of the sampling policy."""
    max_new_tokens: int = 0
    """Most tokens of the run after its prompt."""
    private: bool = False
    """Nothing of the run may be kept."""
    client: str = ""
    """Who asked; empty where there is one user."""


class ExitRule(ABC):
    """Says at every cue whether thinking ends there.

    A rule sets `cues` and `suffix`, and writes `decide`. Everything else has a default that suits a rule which reads no
    hidden state, tries no answer, and promises nothing.
    """

    cues: Cues
    """What counts as a cue."""
    suffix: str
    """The text that an exit feeds; it closes the span where there are markers."""
    markers: Markers | None = None
    """The texts that open and close thinking. None: the whole completion is the span."""
    max_cues: int = 1_000_000
    """Most cues of a run at which the rule is asked; the same in calibration and in use."""
    answer_ends: AnswerEnds = "model"
    """What ends the answer after an exit; the same for a trial and for the exit itself."""
    form: ExitForm = "replace"
    """What becomes of the cue on exit; the same for a trial and for the exit itself, in calibration and in use."""
    later_spans: bool = False
    """Whether it is asked in every thinking span until its first exit; else in a run's first span only."""
    always_answer: bool = False
    """Its promise was made for runs under `always_answer`."""
    efforts: Efforts = MappingProxyType({})
    """What the names that a user may ask for, such as "low", stand for: a number is a budget."""
    trials: bool = False
    """Whether `decide` may call `at.answer`, which ends the walk over a draft."""
    reads: bool = True
    """Whether `decide` reads the hidden states of `layers`. False where nothing that it could read makes it exit."""

    @property
    def closing(self) -> Closing:
        """Suffix and end of the answer; raises ControllerError where they don't go together."""
        return Closing(self.suffix, self.answer_ends)

    @property
    def takes_back(self) -> bool:
        """Whether its exits take tokens back that are in the cache: cues with a text whose place the suffix takes."""
        return self.form == "replace" and self.cues.have_text

    @abstractmethod
    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Exit at this cue, or go on.

        Args:
            at: The cue and what is known of the run so far.

        Returns:
            A generator that may yield Decodes on a fork, and returns the decision.
        """

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks whose outputs at the cue are wanted. Default: none.

        Args:
            depth: Number of blocks of the model in use.

        Raises:
            ControllerError: The rule was made for a model of another depth.
        """
        return ()

    def at(self, *, risk: float) -> ExitRule:
        """The same rule at another risk, in (0, 1). Default: a rule that promises nothing has no risk to set.

        Raises:
            ControllerError: The rule promises no risk.
        """
        raise ControllerError(
            f"risk is {risk}, and a {type(self).__name__} promises none; use a calibrated rule (load_exit)"
        )

    @property
    def why(self) -> str:
        """One line for the trace: what the rule promises, or why it never exits. Default: empty."""
        return ""

    def in_use(self, policy: str, max_new_tokens: int) -> list[str]:
        """How a call differs from the calls that the promise was made for, one line each. Default: no difference.

        Args:
            policy: The text form of the sampling policy in use.
            max_new_tokens: Most tokens of the run after its prompt.
        """
        return []

    def check(self, model: Any) -> list[str]:
        """Compare the rule with the model that it is attached to. Default: nothing to compare.

        Args:
            model: A `backends.Model`.

        Returns:
            Warnings about small differences.

        Raises:
            ControllerError: The rule was made for another model.
        """
        return []

    def expected_saving(self, position: int) -> float | None:
        """Tokens that an exit saves, as far as the rule's calibration runs say. Default: nobody knows.

        Args:
            position: Tokens generated before the cue of the exit.
        """
        return None

    @property
    def promised(self) -> Promised | None:
        """What audits can watch. Default: None, nothing is promised of a run."""
        return None

    def for_run(self, run: AdmittedRun) -> ExitRule:
        """The rule that decides in one run: its `begin` follows, if the run begins at all. Default: this one."""
        return self

    def idle(self) -> IdleRun | None:
        """What the rule would do while nobody uses the model. Default: nothing.

        Call it in the thread that runs the model, while no other idle run is under way.
        """
        return None

    def verdict(self, *, right: bool, exited: bool) -> None:
        """A user says whether a run's answer was right. Default: nothing; nothing may be decided by it.

        Args:
            right: What the user says.
            exited: Whether the run was exited.
        """
        return None

    def begin(self, trace: Trace) -> None:
        """A run begins; `finish` or `abandon` will be called with the same trace. Default: nothing.

        Runs that share forwards end in any order. A rule that learns from runs must take them in in the order in which
        they began, or short runs would come first.
        """
        return None

    def finish(self, trace: Trace) -> None:
        """Take in a finished run; the rule may add to its trace. Default: nothing."""
        return None

    def abandon(self, trace: Trace) -> None:
        """A run that began has failed, and won't be finished. Default: nothing."""
        return None
