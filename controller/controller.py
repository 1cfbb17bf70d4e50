"""The Controller: what a user configures once and attaches to a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .core.decode import Engine, Need, Session
from .core.errors import ControllerError
from .core.randomness import Keys
from .core.text_form import shown
from .core.tokenizer import Tokenizer
from .core.trace import Event, Trace
from .decoding.drivers import drive
from .decoding.loop import decode_loop
from .decoding.run import Decoding, RunSettings
from .decoding.transcript import Start
from .drafting.drafter import Drafter, Target
from .sampling.draw import RunContext
from .sampling.policy import Policy, require_policy
from .thinking.answer_now import AnswerNow
from .thinking.cues import LONGEST_CUE
from .thinking.exit_form import parse_form
from .thinking.exit_rule import ExitRule
from .thinking.limits import ThinkingLimits
from .thinking.markers import Thinking
from .thinking.span import Span


@dataclass(frozen=True)
class Call:
    """One generate call: the prompt's tokens and what ends the run."""

    prompt: Sequence[int]
    """The prompt's tokens; at least one."""
    max_new_tokens: int
    """Most tokens after the prompt."""
    eos: frozenset[int]
    """Tokens that end the run."""
    keys: Keys
    """The run's randomness."""
    policy: Policy
    """The call's own sampling arguments. A controller's policy replaces it."""
    stop: Callable[[Sequence[int], int], bool] | None = None
    """Says after every sampled token whether the run ends: given all tokens, and the first after which none was fed."""
    repeat: bool = False
    """Another sample of a prompt that was already run in this call."""
    beyond: int = 0
    """Most tokens past `max_new_tokens`, for a reader that asks for more than the last one; the run goes on for it."""
    answer_now: AnswerNow | None = None
    """Closes the run's thinking when it is asked to, from any thread; None = nobody can ask."""


@dataclass
class Controller:
    """Exit rule, sampling policy, drafter and limits of thinking under one decoding loop; each may be absent."""

    exit: ExitRule | None = None
    """Decides at every cue whether thinking ends there."""
    policy: Policy | None = None
    """How tokens are sampled. It wins over the sampling arguments of a call; None = those arguments."""
    drafter: Drafter | None = None
    """Proposes tokens for the model to verify."""
    thinking: Thinking | None = None
    """Where the model thinks and what closes it. None = the exit rule's, else what `attach` finds in the template."""
    budget: int | None = None
    """Most thinking tokens; None = no limit.

    Once they are used up, `wrap_up` and the closing suffix are fed to the model. A character that is split over
    several tokens is finished first.
    """
    wrap_up: str = ""
    """Text that the model reads before the closing suffix when the budget is used up."""
    min_thinking: int = 0
    """Fewest thinking tokens. An earlier close of the model's own is taken back, and `continue_text` replaces it."""
    continue_times: int = 0
    """How many later closes are continued as well; with an exit rule, only those where the rule doesn't exit."""
    continue_text: str = "Wait"
    """Text that replaces a close that is taken back."""
    stop_loops: int | None = None
    """Close thinking once one span of 20 tokens or more stands there so many times in a row; None = never."""
    always_answer: bool = False
    """Close marked thinking where the model ends the sequence inside it, and let it answer; False = the run ends."""
    shadow: bool = False
    """The exit rule decides and is recorded, and never acts."""

    def __post_init__(self) -> None:
        self._check_kinds()
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

    @property
    def limits(self) -> ThinkingLimits:
        """The limits of thinking; raises ControllerError for impossible ones."""
        return ThinkingLimits(
            budget=self.budget,
            wrap_up=self.wrap_up,
            min_thinking=self.min_thinking,
            continue_times=self.continue_times,
            continue_text=self.continue_text,
            stop_loops=self.stop_loops,
            always_answer=self.always_answer,
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
    def rewrites(self) -> bool:
        """Tokens may be taken back, fed or tried: what reads them must not keep a state of its own."""
        return self.limits.any or (self.exit is not None and (self.exit.trials or not self.shadow))

    def knowing(self, thinking: Thinking | None) -> Controller:
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
        thinking_budget: int | None = None,
        min_thinking: int | None = None,
        continue_times: int | None = None,
    ) -> Controller:
        """The same controller with one call's overrides; None keeps the controller's setting.

        Args:
            risk: Risk of the exit rule, in (0, 1).
            thinking_budget: Most thinking tokens.
            min_thinking: Fewest thinking tokens.
            continue_times: How many closes of the model's own are continued.

        Raises:
            ControllerError: A value is impossible, or there is no exit rule to hold the risk.
        """
        changes: dict[str, Any] = {
            "budget": thinking_budget,
            "min_thinking": min_thinking,
            "continue_times": continue_times,
        }
        if risk is not None:
            changes["exit"] = self._rule_at(risk)
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

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

    def loop(self, session: Session, tokenizer: Tokenizer, call: Call, trace: Trace) -> Decoding:
        """The run as a generator of Decodes and Events.

        Args:
            session: The sequence to continue. The tokens that its cache holds are not fed again.
            tokenizer: The model's.
            call: The prompt, its limits and its sampling.
            trace: Filled in as the run goes on.

        Raises:
            ControllerError: The call can't run under this controller.
        """
        prompt = list(call.prompt)
        policy = call.policy if self.policy is None else self.policy
        self._check_call(session, policy, call)
        context = RunContext(len(prompt), call.eos, tokenizer, session.engine)
        policy.check_run(context)
        self._describe(session, policy, call, trace)
        span = self._span(tokenizer, prompt)
        target = Target(session, tokenizer, call.keys, policy, trace.warnings, context, lambda: span.phase)
        drafter = None if self.drafter is None else self.drafter.start(target)
        settings = RunSettings(
            policy=policy,
            tokenizer=tokenizer,
            keys=call.keys,
            limit=len(prompt) + call.max_new_tokens,
            eos=call.eos,
            beyond=call.beyond,
            trace=trace,
            drafter=drafter,
            clock=None if drafter is None else target.clock,
            rule=self.exit,
            stop=call.stop,
            thinking=self.closing,
            limits=self.limits,
            shadow=self.shadow,
            answer_now=call.answer_now,
            context=context,
        )
        return decode_loop(settings, session, span, Start(prompt, prompt[session.length :]))

    def run(self, engine: Engine, tokenizer: Tokenizer, call: Call, trace: Trace) -> Decoding:
        """The run as a generator with a session of its own, for a `Scheduler`.

        The session is opened when the generator starts, and closed however it ends.

        Args:
            engine: The model's.
            tokenizer: The model's.
            call: The prompt, its limits and its sampling.
            trace: Filled in as the run goes on.

        Raises:
            ControllerError: The call can't run under this controller; raised when the generator starts.
        """
        session = engine.session()
        try:
            return (yield from self.loop(session, tokenizer, call, trace))
        finally:
            session.close()

    def needs(self, engine: Engine, tokenizer: Tokenizer, call: Call) -> tuple[Need, ...]:
        """The most room that `run` takes on the model's engine and on a draft model's.

        Args:
            engine: The model's.
            tokenizer: The model's.
            call: The prompt and its limits.
        """
        policy = call.policy if self.policy is None else self.policy
        length = len(call.prompt) + call.max_new_tokens
        extra = policy.extra_sequences(tokenizer, call.prompt)
        trial = self.exit is not None and self.exit.trials
        # A trial's fork shares what comes before the cue, and ends where the run would.
        tokens = length + sum(n + call.max_new_tokens for n in extra)
        if trial:
            tokens = min(tokens + LONGEST_CUE, max(tokens, engine.room))  # alone, a run may fill the context
        drafts = () if self.drafter is None else self.drafter.needs(engine, length)
        return (Need(engine, tokens, 1 + len(extra) + trial), *drafts)

    def _span(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> Span:
        """Where thinking stands at the end of the prompt."""
        thinking, rule = self.closing, self.exit
        if thinking is None:
            return Span(tokenizer, None, None)
        span = Span(tokenizer, thinking.markers, None, thinking.opens)
        if rule is not None:
            span = Span(tokenizer, thinking.markers, rule.cues, thinking.opens, rule.form)
        span.begin(prompt)
        return span

    def _check_call(self, session: Session, policy: Policy, call: Call) -> None:
        """Raises ControllerError for a call that can't run under this controller."""
        require_policy(policy)
        if not call.prompt:
            raise ControllerError("the prompt has no tokens; give at least one")
        if call.max_new_tokens < 1:
            raise ControllerError(f"max_new_tokens is {call.max_new_tokens}; it must be at least 1")
        if self.limits.any and self.closing is None:
            raise ControllerError(
                "a limit of thinking, such as a budget, needs to know how thinking is closed; give "
                "thinking=Thinking(Markers('<think>', '</think>'), '</think>\\n\\n')"
            )
        self._check_session(session, self.limits)
        self._check_suppression(policy)
        if policy.phased and self.closing is None:
            raise ControllerError(
                f"policy {policy} has phases; say how thinking is marked: "
                "Controller(thinking=Thinking(Markers('<think>', '</think>'), '</think>\\n\\n'))"
            )

    def _describe(self, session: Session, policy: Policy, call: Call, trace: Trace) -> None:
        """Write into the trace what is run, and where that isn't what the exit rule's promise was made for."""
        trace.prompt_tokens = len(call.prompt)
        trace.controlled = self.exit is not None
        trace.shadow = self.shadow
        trace.seed = call.keys.seed
        trace.run = call.keys.run
        trace.repeat = call.repeat
        trace.rule = "" if self.exit is None else self.exit.why
        trace.budget = self.budget
        trace.stop_loops = self.stop_loops
        trace.always_answer = self.always_answer
        self._compare(policy, call, trace)
        if self.drafter is not None and not session.can.branches:
            trace.warnings.append(
                "nothing is drafted: this model's cache can't take rejected tokens back (recurrent or sliding layers)"
            )
        if self.exit is not None and self.limits.any:
            trace.warnings.append(
                "a limit of thinking, such as a budget, changes the run: the exit rule's promise was made without"
            )

    def _compare(self, policy: Policy, call: Call, trace: Trace) -> None:
        """Say where this call isn't what the exit rule's promise was made for."""
        different = [] if self.exit is None else self.exit.in_use(str(policy), call.max_new_tokens)
        if different:
            trace.warnings += [f"{what}: the exit rule's promise was made without" for what in different]
            trace.rule += f"; not promised for this call: {'; '.join(different)}"

    def _check_session(self, session: Session, limits: ThinkingLimits) -> None:
        can, takes_back = session.can, self.exit is not None and self.exit.takes_back
        forgets = "this model's cache can't forget tokens (recurrent or sliding layers), so"
        if not can.rollback and takes_back and not self.shadow:
            raise ControllerError(
                f"{forgets} early exits that take their cue back are refused; calibrate exits whose cue stays (ctl "
                "calibrate --form append) or with the cue 'every(64)' alone, run without exits, or in shadow mode"
            )
        if not can.rollback and limits.reopens:
            raise ControllerError(f"{forgets} min_thinking and continue_times are refused; run it without")
        if self.exit is not None and self.exit.trials and not (can.fork and (can.rollback or not takes_back)):
            raise ControllerError("this exit rule tries answers on a fork, and this model's cache can't be forked")

    def stream(
        self, session: Session, tokenizer: Tokenizer, call: Call, trace: Trace | None = None
    ) -> Generator[Event, None, None]:
        """Run one call on one session.

        Args:
            session: The sequence to continue.
            tokenizer: The model's.
            call: The prompt, its limits and its sampling.
            trace: Filled in as the run goes on; None = a new one.

        Yields:
            One Event for each token that can no longer be taken back.

        Raises:
            ControllerError: The call can't run under this controller.
        """
        return drive(self.loop(session, tokenizer, call, Trace() if trace is None else trace))
