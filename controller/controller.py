"""The Controller: what a user configures once and attaches to a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .core.decode import Engine, Need, Session
from .core.errors import ControllerError
from .core.tokenizer import Tokenizer
from .core.trace import Event, Trace
from .decoding.call import Call
from .decoding.drivers import drive
from .decoding.loop import decode_loop
from .decoding.run import Decoding, RunSettings
from .decoding.samples import SampledRun, run_samples, sample_calls
from .decoding.transcript import Start
from .drafting.drafter import Target
from .sampling.draw import RunContext
from .sampling.policy import Policy, require_policy
from .sampling.recorded import Recorded
from .selection.choices import AnswerClasses
from .selection.codes import Codes, check_codes, policies_of
from .selection.early_stop import StopRule
from .selection.samples import Samples, Votes
from .settings import ControllerSettings
from .thinking.answers import after_thinking, stated_answer
from .thinking.cues import LONGEST_CUE
from .thinking.exit_form import ExitForm
from .thinking.exit_rule import AdmittedRun
from .thinking.limits import ThinkingLimits
from .thinking.span import Span


@dataclass
class Controller(ControllerSettings):
    """Exit rule, sampling policy, drafter and limits of thinking under one decoding loop; each may be absent.

    The other parts are the fields of `ControllerSettings`.
    """

    codes: Codes = "independent"
    """How samples of one prompt depend on each other: those of `samples`, or of transformers' `num_return_sequences`.

    "arithmetic" spreads them evenly over the model's distribution (`selection/codes.py`); each alone is drawn from it
    exactly, as an independent one is.
    """

    def __post_init__(self, effort: str | None) -> None:
        super().__post_init__(effort)
        check_codes(self.codes)

    @property
    def inert(self) -> bool:
        """Nothing is decided, sampled, spread or drafted: runs are the library's own, and at most recorded."""
        return super().inert and self.codes == "independent"

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
        prompt, policy = list(call.prompt), call.policy if self.policy is None else self.policy
        context = self._checked(session, tokenizer, policy, call)
        limits, different = self._describe(session, policy, call, trace)
        span = self._span(tokenizer, prompt, policy)
        target = Target(session, tokenizer, call.keys, policy, trace.warnings, context, lambda: span.phase)
        drafter = None if self.drafter is None else self.drafter.start(target)
        settings = RunSettings(
            policy=Recorded(policy) if self.record else policy,
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
            admitted=None if self.exit is None else self._admitted(tokenizer, policy, call, different),
        )
        return decode_loop(settings, session, span, Start(prompt, prompt[session.length :]))

    def _admitted(self, tokenizer: Tokenizer, policy: Policy, call: Call, different: list[str]) -> AdmittedRun:
        """What the exit rule may know of a run; different: how it differs from those that the promise was made for."""
        promised = not (different or call.repeat or call.cut or call.stop or self.shadow)
        use = (str(policy), call.max_new_tokens, call.private, call.client)
        return AdmittedRun(tuple(call.prompt), tokenizer, call.eos, promised, *use)

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
        at_once: int | None = None,
        stop: StopRule | None = None,
        answer: Callable[[str], str] = stated_answer,
        same: Callable[[str, str], bool] = str.__eq__,
    ) -> Samples:
        """Sample one prompt n times, in shared forwards; the prompt is prefilled once.

        Args:
            engine: The model's.
            tokenizer: The model's.
            call: The prompt, its limits and its sampling; its keys are the first sample's.
            n: Number of samples.
            at_once: Most samples that run at the same time; None: as many as a forward of the engine takes.
            stop: When the vote is over, such as LosslessStop() or load_stop("my.votes.json"); None: after n samples.
            answer: What the text after thinking states; "" for no answer.
            same: Whether two answers are the same, such as a grader's equality.

        Returns:
            An iterator over each sample's trace, in their order, as it ends. Closing it stops those that are left.

        Raises:
            ControllerError: n is impossible or not what `stop` was calibrated for, or the call can't run.
        """
        calls, policy = sample_calls(call, n), call.policy if self.policy is None else self.policy
        traces, runs = [Trace() for _ in calls], []
        if stop is not None:
            used = {"policy": str(policy), "codes": self.codes, "max_new_tokens": call.max_new_tokens}
            traces[0].warnings += stop.differences(n, **used)
        for one, own, trace in zip(calls, self._coded(calls, policy), traces, strict=True):
            loop = partial(own.loop, tokenizer=tokenizer, call=one, trace=trace)
            runs.append(SampledRun(loop, own.needs(engine, tokenizer, one)))
        votes = Votes(partial(self._stated, tokenizer, call, answer), AnswerClasses(same), stop)
        return Samples(traces, run_samples(engine, call.prompt, runs, at_once), votes)

    def _coded(self, calls: Sequence[Call], policy: Policy) -> list[Controller]:
        """The controller of each sample, under its code."""
        return [replace(self, policy=own) for own in policies_of(self.codes, policy, [one.keys for one in calls])]

    def _stated(self, tokenizer: Tokenizer, call: Call, answer: Callable[[str], str], trace: Trace) -> str:
        """What a sample's text after thinking states."""
        text = tokenizer.decode([token for token in trace.tokens if token not in call.eos])
        return answer(after_thinking(text, None if self.closing is None else self.closing.markers))

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
        context = RunContext(len(call.prompt), call.eos, tokenizer, session.engine, call.unread)
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

    def _describe(self, session: Session, policy: Policy, call: Call, trace: Trace) -> tuple[ThinkingLimits, list[str]]:
        """The run's limits, and how it differs from the runs that the exit rule's promise was made for.

        The trace says what is run."""
        limits = self.limits.within(call.max_new_tokens)
        trace.prompt_tokens = len(call.prompt)
        trace.controlled = self.exit is not None
        trace.shadow = self.shadow
        trace.seed = call.keys.seed
        trace.run = call.keys.run
        trace.repeat = call.repeat
        trace.rule = "" if self.exit is None else self.exit.why
        trace.budget = None if limits.budget is None else int(limits.budget)
        trace.budget_per, trace.seconds, trace.warn_before = limits.budget_per, limits.seconds, limits.warn_before
        trace.spent_before = 0 if call.turn is None else call.turn.thinking_tokens
        trace.stop_loops, trace.always_answer = limits.stop_loops, limits.always_answer
        different = self._compare(policy, call, limits, trace)
        if call.wanted > call.max_new_tokens:
            trace.warnings.append(
                f"at most {call.max_new_tokens} new tokens and not {call.wanted}: the context has no room for more; "
                "shorten the prompt, or load the model with a larger context"
            )
        if self.drafter is not None and not session.can.branches:
            takes = "takes one token at a time" if session.can.checkpoints else "can't take rejected tokens back"
            trace.warnings.append(f"nothing is drafted: this model's cache {takes}")
        return limits, different

    def _compare(self, policy: Policy, call: Call, limits: ThinkingLimits, trace: Trace) -> list[str]:
        """Say where this call isn't what the exit rule's promise was made for."""
        if self.exit is None:
            return []
        different = self.exit.in_use(str(policy), call.max_new_tokens) + limits.not_promised(self.exit.always_answer)
        if trace.spent_before:
            different.append("the call goes on with a turn in which an earlier call thought")
        if different:
            trace.not_promised(*different)
            trace.rule += f"; not promised for this call: {'; '.join(different)}"
        return different

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
