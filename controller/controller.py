"""The Controller: what a user configures once and attaches to a model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import Any

from .core.decode import Engine, Need, Session
from .core.errors import ControllerError
from .core.text_form import shown
from .core.tokenizer import Tokenizer
from .core.trace import BudgetPer, Event, Trace
from .decoding.call import Call
from .decoding.drivers import drive
from .decoding.loop import decode_loop
from .decoding.run import Decoding, RunSettings
from .decoding.samples import SampledRun, Samples, run_samples, sample_keys
from .decoding.transcript import Start
from .drafting.drafter import Drafter, Target
from .sampling.draw import RunContext
from .sampling.policy import Policy, require_policy
from .selection.codes import Codes, policies_of
from .thinking.cues import LONGEST_CUE
from .thinking.effort import Efforts, effort_named
from .thinking.exit_form import ExitForm, parse_form
from .thinking.exit_rule import ExitRule
from .thinking.limits import ThinkingLimits
from .thinking.markers import Thinking
from .thinking.span import Span


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
    shadow: bool = False
    """The exit rule decides and is recorded, and never acts."""

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

    @property
    def limits(self) -> ThinkingLimits:
        """The limits of thinking; raises ControllerError for impossible ones."""
        calibrated = self.exit is not None and self.exit.always_answer
        return ThinkingLimits(
            budget=self.budget,
            budget_per=self.budget_per,
            seconds=self.thinking_seconds,
            wrap_up=self.wrap_up,
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
        effort: str | None = None,
        thinking_budget: int | float | None = None,
        thinking_seconds: float | None = None,
        min_thinking: int | None = None,
        continue_times: int | None = None,
    ) -> Controller:
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
        context = self._checked(session, tokenizer, policy, call)
        limits = self._describe(session, policy, call, trace)
        span = self._span(tokenizer, prompt, policy)
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
            clock=target.clock if drafter else None,
            rule=self.exit,
            stop=call.stop,
            thinking=self.closing,
            limits=limits,
            shadow=self.shadow,
            answer_now=call.answer_now,
            now=call.now,
            turn=call.turn,
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

    def samples(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        call: Call,
        n: int,
        *,
        codes: Codes = "independent",
        at_once: int | None = None,
    ) -> Samples:
        """Sample one prompt n times, in shared forwards; the prompt is prefilled once.

        Args:
            engine: The model's.
            tokenizer: The model's.
            call: The prompt, its limits and its sampling. Its keys are the first sample's; the others have the runs
                after it.
            n: Number of samples.
            codes: "arithmetic" spreads the samples evenly over the model's distribution (`selection/codes.py`); each
                alone is drawn from it exactly, as an independent one is.
            at_once: Most samples that run at the same time; None: as many as a forward of the engine takes.

        Returns:
            An iterator over the trace of each sample, in their order, as it ends. Closing it stops those that are left.

        Raises:
            ControllerError: n or codes is impossible, or the call can't run under this controller.
        """
        keys = sample_keys(call.keys, n)
        policy = call.policy if self.policy is None else self.policy
        policies = policies_of(codes, policy, keys)
        traces = [Trace() for _ in keys]
        runs = []
        for i, trace in enumerate(traces):
            controller = replace(self, policy=policies[i])
            one = replace(call, keys=keys[i], repeat=call.repeat or i > 0)
            loop = partial(controller.loop, tokenizer=tokenizer, call=one, trace=trace)
            runs.append(SampledRun(loop, controller.needs(engine, tokenizer, one)))
        return Samples(traces, run_samples(engine, call.prompt, runs, at_once))

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

    def _span(self, tokenizer: Tokenizer, prompt: Sequence[int], policy: Policy) -> Span:
        """Where thinking stands at the end of the prompt."""
        thinking, rule = self.closing, self.exit
        if thinking is None:
            return Span(tokenizer, None, None)
        cues = None if rule is None else rule.cues
        form: ExitForm = "replace" if rule is None else rule.form
        span = Span(tokenizer, thinking.markers, cues, thinking.opens, form, reopens=not policy.one_answer)
        span.begin(prompt)
        return span

    def _checked(self, session: Session, tokenizer: Tokenizer, policy: Policy, call: Call) -> RunContext:
        """What the policy knows of the run. Raises ControllerError for a call that can't run under this controller."""
        self._check_call(session, policy, call)
        context = RunContext(len(call.prompt), call.eos, tokenizer, session.engine)
        policy.check_run(context)
        return context

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
        if call.turn is not None and self.budget_per == "span":
            raise ControllerError("a turn shares one budget over its calls, and budget_per is 'span'; leave one out")
        self._check_session(session, self.limits)
        self._check_suppression(policy)
        if policy.phased and self.closing is None:
            raise ControllerError(
                f"policy {policy} has phases; say how thinking is marked: "
                "Controller(thinking=Thinking(Markers('<think>', '</think>'), '</think>\\n\\n'))"
            )

    def _describe(self, session: Session, policy: Policy, call: Call, trace: Trace) -> ThinkingLimits:
        """The run's limits. The trace says what is run, and where the exit rule's promise was made for another run."""
        limits = self.limits.within(call.max_new_tokens)
        trace.prompt_tokens = len(call.prompt)
        trace.controlled = self.exit is not None
        trace.shadow = self.shadow
        trace.seed = call.keys.seed
        trace.run = call.keys.run
        trace.repeat = call.repeat
        trace.rule = "" if self.exit is None else self.exit.why
        trace.budget = None if limits.budget is None else int(limits.budget)
        trace.budget_per, trace.seconds = limits.budget_per, limits.seconds
        trace.spent_before = 0 if call.turn is None else call.turn.thinking_tokens
        trace.stop_loops, trace.always_answer = limits.stop_loops, limits.always_answer
        self._compare(policy, call, trace)
        if self.drafter is not None and not session.can.branches:
            takes = "takes one token at a time" if session.can.checkpoints else "can't take rejected tokens back"
            trace.warnings.append(f"nothing is drafted: this model's cache {takes}")
        if self.exit is not None and not limits.promised(self.exit.always_answer):
            trace.warnings.append(
                "a limit of thinking, such as a budget, changes the run: the exit rule's promise was made otherwise"
            )
        return limits

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
