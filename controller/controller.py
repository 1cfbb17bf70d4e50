"""The Controller: what a user configures once and attaches to a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .core.decode import Clock, Session
from .core.errors import ControllerError
from .core.randomness import Keys
from .core.tokenizer import Tokenizer
from .core.trace import Event, Trace
from .decoding.drivers import drive
from .decoding.loop import decode_loop
from .decoding.run import Decoding, RunSettings
from .decoding.transcript import Start
from .drafting.drafter import Drafter, Drafting, Target
from .sampling.policy import Policy, require_policy
from .sampling.row import RunContext
from .thinking.exit_rule import ExitRule
from .thinking.limits import ThinkingLimits
from .thinking.markers import Thinking
from .thinking.span import Span


@dataclass(frozen=True)
class Call:
    """One generate call: the prompt's tokens and what ends the run.

    max_new_tokens: most tokens after the prompt. policy: the call's own sampling arguments.
    stop: asked after every token with all tokens so far, and the index from which on none of them was fed.
    repeat: another sample of a prompt that was run in this call.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    eos: frozenset[int]
    keys: Keys
    policy: Policy
    stop: Callable[[Sequence[int], int], bool] | None = None
    repeat: bool = False


@dataclass
class Controller:
    """Exit rule, sampling policy, drafter and limits of thinking under one decoding loop; each may be absent.

    A policy of the controller's own wins over the sampling arguments of the call.

    thinking: where the model thinks and what closes it; None = the exit rule's, else what `attach` finds in the chat
    template. budget: most thinking tokens; then `wrap_up` and the closing suffix are fed to the model (a character
    that is split over tokens is finished first). min_thinking: no end of thinking before so many tokens; a close of
    the model's own is taken back and `continue_text` is fed in its place. continue_times: so many later closes are
    continued as well; with an exit rule each only where the rule, asked at the continue text's cue, doesn't exit.
    shadow: the exit rule decides and is recorded, and never acts.
    """

    exit: ExitRule | None = None
    policy: Policy | None = None
    drafter: Drafter | None = None
    thinking: Thinking | None = None
    budget: int | None = None
    wrap_up: str = ""
    min_thinking: int = 0
    continue_times: int = 0
    continue_text: str = "Wait"
    shadow: bool = False

    def __post_init__(self) -> None:
        limits, rule = self.limits, self.exit
        if self.policy is not None:
            require_policy(self.policy)
        if self.closing is not None:
            limits.check(self.closing)
        if rule is None:
            if self.shadow:
                raise ControllerError("shadow mode watches an exit rule, and there is none; give one")
            return
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

    @property
    def limits(self) -> ThinkingLimits:
        """The limits of thinking; raises ControllerError for impossible ones."""
        return ThinkingLimits(
            budget=self.budget,
            wrap_up=self.wrap_up,
            min_thinking=self.min_thinking,
            continue_times=self.continue_times,
            continue_text=self.continue_text,
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
        """The same controller with what the model's template says about thinking, where it is not told otherwise.

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
        """The same controller with one call's own wishes; None keeps what is set here. Raises ControllerError."""
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
        """The run as a generator of Decodes and Events; tokens already in the session's cache are not fed again."""
        prompt = list(call.prompt)
        policy = call.policy if self.policy is None else self.policy
        require_policy(policy)
        self._check_call(session, policy, call)
        context = RunContext(len(prompt), call.eos, tokenizer, session.engine)
        policy.check_run(context)
        self._describe(policy, call, trace)
        span = self._span(tokenizer, prompt)
        clock: Clock | None = None
        drafter: Drafting | None = None
        if self.drafter is not None:
            target = Target(session, tokenizer, call.keys, policy, trace.warnings, context, lambda: span.phase)
            drafter = self.drafter.start(target)
            clock = target.clock
        settings = RunSettings(
            policy=policy,
            tokenizer=tokenizer,
            keys=call.keys,
            limit=len(prompt) + call.max_new_tokens,
            eos=call.eos,
            trace=trace,
            drafter=drafter,
            clock=clock,
            rule=self.exit,
            stop=call.stop,
            thinking=self.closing,
            limits=self.limits,
            shadow=self.shadow,
            context=context,
        )
        return decode_loop(settings, session, span, Start(prompt, prompt[session.length :]))

    def _span(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> Span:
        """Where thinking stands at the end of the prompt."""
        thinking, cues = self.closing, self.exit.cues if self.exit else None
        if thinking is None:
            return Span(tokenizer, None, cues)
        span = Span(tokenizer, thinking.markers, cues, thinking.opens)
        span.begin(prompt)
        return span

    def _check_call(self, session: Session, policy: Policy, call: Call) -> None:
        """Raises ControllerError for a call that can't run under this controller."""
        if not call.prompt:
            raise ControllerError("the prompt has no tokens; give at least one")
        if call.max_new_tokens < 1:
            raise ControllerError(f"max_new_tokens is {call.max_new_tokens}; it must be at least 1")
        if self.limits.any and self.closing is None:
            raise ControllerError(
                "a budget, min_thinking or continue_times needs to know how thinking is closed; give "
                "thinking=Thinking(Markers('<think>', '</think>'), '</think>\\n\\n')"
            )
        self._check_session(session, self.limits)
        self._check_suppression(policy)
        if policy.phased and self.closing is None:
            raise ControllerError(
                f"policy {policy} has phases; say how thinking is marked: "
                "Controller(thinking=Thinking(Markers('<think>', '</think>'), '</think>\\n\\n'))"
            )

    def _describe(self, policy: Policy, call: Call, trace: Trace) -> None:
        """Write into the trace what is run, and where that isn't what the exit rule's promise was made for."""
        trace.prompt_tokens = len(call.prompt)
        trace.controlled = self.exit is not None
        trace.shadow = self.shadow
        trace.seed = call.keys.seed
        trace.run = call.keys.run
        trace.repeat = call.repeat
        trace.rule = "" if self.exit is None else self.exit.why
        trace.budget = self.budget
        self._compare(policy, call, trace)
        if self.exit is not None and self.limits.any:
            trace.warnings.append(
                "a budget, min_thinking or continue_times changes the run: the exit rule's promise was made without"
            )

    def _compare(self, policy: Policy, call: Call, trace: Trace) -> None:
        """Say where this call isn't what the exit rule's promise was made for."""
        different = [] if self.exit is None else self.exit.in_use(str(policy), call.max_new_tokens)
        if different:
            trace.warnings += [f"{what}: the exit rule's promise was made without" for what in different]
            trace.rule += f"; not promised for this call: {'; '.join(different)}"

    def _check_session(self, session: Session, limits: ThinkingLimits) -> None:
        can, exits = session.can, self.exit is not None and not self.shadow
        if not can.rollback and (exits or limits.reopens):
            what = "early exits are" if exits else "min_thinking and continue_times are"
            raise ControllerError(
                f"this model's cache can't forget tokens (recurrent or sliding layers), so {what} refused; "
                "run it without, or in shadow mode"
            )
        if self.exit is not None and self.exit.trials and not (can.fork and can.rollback):
            raise ControllerError("this exit rule tries answers on a fork, and this model's cache can't be forked")

    def stream(
        self, session: Session, tokenizer: Tokenizer, call: Call, trace: Trace | None = None
    ) -> Generator[Event, None, None]:
        """Run one call on one session; tokens come out when they can no longer be taken back."""
        return drive(self.loop(session, tokenizer, call, Trace() if trace is None else trace))
