"""What a user configures: the parts of a controller and its limits, checked against each other."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, Self, get_args

from .core.errors import ControllerError
from .core.text_form import shown
from .core.trace import BudgetPer
from .drafting.drafter import Drafter
from .sampling.policy import Policy, require_policy
from .thinking.effort import Efforts, effort_named
from .thinking.exit_form import parse_form
from .thinking.exit_rule import ExitRule
from .thinking.limits import NO_LIMITS, ThinkingLimits
from .thinking.markers import Thinking

Probabilities = Literal["model", "drawn"]
"""Whose probabilities a call is given."""
Others = Literal["refuse", "pass"]
"""What becomes of a call with a loop of its own."""


@dataclass
class ControllerSettings:
    """Exit rule, sampling policy, drafter and limits of thinking; each may be absent."""

    exit: ExitRule | None = None
    """Decides at every cue whether thinking ends there."""
    policy: Policy | None = None
    """How tokens are sampled. It wins over the sampling arguments of a call; None = those arguments."""
    drafter: Drafter | None = None
    """Proposes tokens for the model to verify."""
    thinking: Thinking | None = None
    """Where the model thinks and what closes it. None = the exit rule's, else what `attach` finds in the template."""
    budget: int | float | None = None
    """Most thinking tokens, or a share of the run's tokens: 0.5 is half of them. None = no limit.

    Once they are used up, `wrap_up` and the closing suffix are fed to the model. A character that is split over
    several tokens is finished first.
    """
    budget_per: BudgetPer = "run"
    """What has the budget: the run with all of its thinking spans, or each span by itself ("span")."""
    thinking_seconds: float | None = None
    """Most seconds of thinking, checked after each token; then it is closed as by the budget. None = no limit."""
    effort: InitVar[str | None] = None
    """The name of the settings to begin with, one of `efforts`, of the exit rule's, or "none": no thinking."""
    efforts: Efforts = field(default_factory=dict)
    """What names such as "low" stand for: a number is a budget, an `Effort` may set a time or a risk."""
    wrap_up: str = ""
    """Text that the model reads before the closing suffix when the budget is used up."""
    warn_before: int | None = None
    """Feed `warning` so many thinking tokens before the budget is used up; None = no warning. It needs a budget."""
    warning: str = NO_LIMITS.warning
    """Text that the model reads as its own thought then."""
    min_thinking: int = 0
    """Fewest thinking tokens. An earlier close of the model's own is taken back, and `continue_text` replaces it."""
    continue_times: int = 0
    """How many later closes are continued as well; with an exit rule, only those where the rule doesn't exit."""
    continue_text: str = "Wait"
    """Text that replaces a close that is taken back."""
    stop_loops: int | None = None
    """Close thinking once one span of 20 tokens or more stands there so many times in a row; None = never."""
    always_answer: bool | None = None
    """Close marked thinking where the model ends the sequence inside it, and let it answer; False = the run ends.

    None = as in the runs that the exit rule was calibrated on, and False without one.
    """
    logprobs: Probabilities = "model"
    """Whose probabilities calls are given that ask for `logprobs` or `output_scores`: the library's, which are the
    model's, or those that each token was drawn from ("drawn")."""
    others: Others = "refuse"
    """What becomes of calls with a loop of the library's own, such as beam search: an error, or that loop ("pass").

    A controller that has nothing to do lets them pass in any case.
    """
    shadow: bool = False
    """The exit rule decides and is recorded, and never acts."""
    record: bool = False
    """The trace also gets the entropy and the temperature of each token: a second pass of the policy over its row."""

    def __post_init__(self, effort: str | None) -> None:
        self._check_kinds()
        if effort is not None:
            self._begin_with(effort)
        limits, rule = self.limits, self.exit
        if self.closing is not None:
            limits.check(self.closing)
        if rule is None:
            if self.shadow:
                raise ControllerError("shadow mode watches an exit rule, and there is none; give one")
            return
        _ = rule.closing, parse_form(rule.form)
        if self.thinking is not None and self.thinking.markers != rule.markers:
            raise ControllerError(
                f"thinking has the markers {self.thinking.markers} and the exit rule {rule.markers}; leave thinking out"
            )
        self._check_suppression(self.policy)
        begins = rule.cues.pattern.match
        if self.continue_times and not (begins(self.continue_text) or begins(self.continue_text.lstrip() + " ")):
            raise ControllerError(
                f"continue_text {self.continue_text!r} begins with none of the exit rule's cues "
                f"({', '.join(rule.cues.names)}), so its probe can't be asked there; begin it with one of "
                "them ('\\n\\n' is a paragraph's)"
            )

    def _begin_with(self, effort: str) -> None:
        """Take the settings of an effort."""
        for name, value in self._settings_of(effort).items():
            if name != "exit" and vars(self)[name] is not None:
                raise ControllerError(f"effort {effort!r} sets {name}, which was given too; leave one of them out")
            setattr(self, name, value)

    def _settings_of(self, effort: str) -> dict[str, Any]:
        """What an effort sets, by the names of this class."""
        settings = effort_named(effort, self.efforts, {} if self.exit is None else self.exit.efforts).settings
        risk = settings.pop("risk", None)
        return settings if risk is None else {**settings, "exit": self._rule_at(risk)}

    def _check_kinds(self) -> None:
        """Raises ControllerError for a part that is something else, before a run fails on a method that it lacks."""
        if self.policy is not None:
            require_policy(self.policy)
        kinds: tuple[tuple[str, object, type, str], ...] = (
            ("exit", self.exit, ExitRule, "a rule such as load_exit('my.probe.safetensors', risk=0.05)"),
            ("drafter", self.drafter, Drafter, "a drafter such as PromptLookup(), or parse_draft('ngram(8)', load)"),
            ("thinking", self.thinking, Thinking, "Thinking(Markers('<think>', '</think>'), '</think>\\n\\n')"),
        )
        for name, value, kind, example in kinds:
            if value is not None and not isinstance(value, kind):
                raise ControllerError(f"{name} is {shown(value)}; give {example}")
        for name, value, known in (("logprobs", self.logprobs, Probabilities), ("others", self.others, Others)):
            if value not in get_args(known):
                words = " or ".join(map(repr, get_args(known)))
                raise ControllerError(f"{name} is {shown(value)}; give {words}")

    @property
    def limits(self) -> ThinkingLimits:
        """The limits of thinking; raises ControllerError for impossible ones."""
        calibrated = self.exit is not None and self.exit.always_answer
        return ThinkingLimits(
            budget=self.budget,
            budget_per=self.budget_per,
            seconds=self.thinking_seconds,
            wrap_up=self.wrap_up,
            warn_before=self.warn_before,
            warning=self.warning,
            min_thinking=self.min_thinking,
            continue_times=self.continue_times,
            continue_text=self.continue_text,
            stop_loops=self.stop_loops,
            always_answer=calibrated if self.always_answer is None else self.always_answer,
        )

    @property
    def closing(self) -> Thinking | None:
        """Markers and suffix: the exit rule's, which was calibrated with them, or `thinking`."""
        if self.exit is None:
            return self.thinking
        if self.thinking is None:
            return Thinking(self.exit.markers, self.exit.suffix)
        return replace(self.thinking, suffix=self.exit.suffix)

    @property
    def reads_text(self) -> bool:
        """A tokenizer is needed."""
        return self.exit is not None or self.limits.any

    @property
    def inert(self) -> bool:
        """Nothing is decided, sampled or drafted: runs are the library's own, and at most recorded."""
        return not self.limits.any and self.exit is None and self.policy is None and self.drafter is None

    @property
    def rewrites(self) -> bool:
        """Tokens may be taken back, fed or tried: what reads them must not keep a state of its own."""
        return self.limits.any or (self.exit is not None and (self.exit.trials or not self.shadow))

    def knowing(self, thinking: Thinking | None) -> Self:
        """The same controller with what the model's template says about thinking, unless `thinking` is set.

        An exit rule keeps its suffix; who opens the span is the template's to say, if both have the same markers.
        """
        if thinking is None or self.thinking is not None:
            return self
        fits = self.exit is None or self.exit.markers == thinking.markers
        return replace(self, thinking=thinking) if fits else self

    def under(
        self,
        *,
        risk: float | None = None,
        effort: str | None = None,
        thinking_budget: int | float | None = None,
        thinking_seconds: float | None = None,
        min_thinking: int | None = None,
        continue_times: int | None = None,
    ) -> Self:
        """The same controller with one call's overrides; None keeps the controller's setting.

        Args:
            risk: Risk of the exit rule, in (0, 1).
            effort: The name of an effort, see `efforts`. What is given next to it wins.
            thinking_budget: Most thinking tokens, or a share of the run's.
            thinking_seconds: Most seconds of thinking.
            min_thinking: Fewest thinking tokens.
            continue_times: How many closes of the model's own are continued.

        Raises:
            ControllerError: A value is impossible, or there is no exit rule to hold the risk.
        """
        changes: dict[str, Any] = {
            "budget": thinking_budget,
            "thinking_seconds": thinking_seconds,
            "min_thinking": min_thinking,
            "continue_times": continue_times,
        }
        if risk is not None:
            changes["exit"] = self._rule_at(risk)
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **({} if effort is None else self._settings_of(effort)) | given)

    def _rule_at(self, risk: float) -> ExitRule:
        if self.exit is None:
            raise ControllerError(f"risk is {risk}, and the controller has no exit rule to hold it; give one")
        if isinstance(risk, bool) or not isinstance(risk, float | int) or not 0 < risk < 1:
            raise ControllerError(f"risk is {risk!r}; it must lie between 0 and 1, e.g. 0.05")
        return self.exit.at(risk=risk)

    def _check_suppression(self, policy: Policy | None) -> None:
        words = sorted(self.exit.cues.words) if self.exit is not None else []
        if words and policy is not None and policy.suppresses_cues:
            raise ControllerError(
                f"the policy suppresses cue words and the exit rule waits for them ({', '.join(words)}), so it would "
                "never be asked; use one of the two, or a rule on 'paragraph', 'sentence' or 'every(k)'"
            )
