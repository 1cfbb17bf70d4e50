"""The Controller: what a user configures once and attaches to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .decode import Session
from .drafters import Drafter, Target
from .drivers import drive
from .errors import ControllerError
from .exits import ExitRule
from .loop import Request, Run, decode_loop
from .policy import Policy
from .randomness import Keys
from .thinking import Tokenizer
from .trace import Event, Trace


@dataclass(frozen=True)
class Call:
    """One generate call: the prompt's tokens and what ends the run.

    max_new_tokens: most tokens after the prompt. policy: the call's own sampling arguments.
    stop: asked after every token with all tokens so far.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    eos: frozenset[int]
    keys: Keys
    policy: Policy
    stop: Callable[[Sequence[int]], bool] | None = None


@dataclass
class Controller:
    """Exit rule, sampling policy and drafter under one decoding loop; each may be absent.

    A policy of the controller's own wins over the sampling arguments of the call.
    """

    exit: ExitRule | None = None
    policy: Policy | None = None
    drafter: Drafter | None = None

    def __post_init__(self) -> None:
        rule = self.exit
        if rule is None:
            return
        if not rule.suffix.strip():
            raise ControllerError("the exit suffix is empty; give the text that closes thinking, e.g. '</think>\\n\\n'")
        if rule.markers is not None and rule.suffix.count(rule.markers.close) != 1:
            raise ControllerError(
                f"the exit suffix {rule.suffix!r} must hold the closing marker {rule.markers.close!r} exactly once"
            )

    def loop(self, session: Session, tokenizer: Tokenizer, call: Call, trace: Trace) -> Request:
        """The run as a generator of Decodes and Events; tokens already in the session's cache are not fed again."""
        prompt = list(call.prompt)
        if not prompt:
            raise ControllerError("the prompt has no tokens; give at least one")
        if call.max_new_tokens < 1:
            raise ControllerError(f"max_new_tokens is {call.max_new_tokens}; it must be at least 1")
        if self.exit is not None and not session.can.rollback:
            raise ControllerError(
                "this model's cache can't forget a cue (recurrent or sliding layers), so early exits are refused; "
                "run it without an exit rule"
            )
        if self.exit is not None and self.exit.trials and not session.can.fork:
            raise ControllerError("this exit rule tries answers on a fork, and this model's cache can't be forked")
        trace.prompt_tokens, trace.controlled = len(prompt), self.exit is not None
        trace.seed, trace.run = call.keys.seed, call.keys.run
        policy = self.policy or call.policy
        target = Target(session, tokenizer, call.keys, policy)
        run = Run(
            policy=policy,
            tokenizer=tokenizer,
            keys=call.keys,
            limit=len(prompt) + call.max_new_tokens,
            eos=call.eos,
            trace=trace,
            drafter=None if self.drafter is None else self.drafter.start(target),
            rule=self.exit,
            stop=call.stop,
        )
        if self.exit is not None:
            run.span.begin(prompt)
        return decode_loop(run, session, prompt, prompt[session.length :])

    def stream(self, session: Session, tokenizer: Tokenizer, call: Call, trace: Trace | None = None) -> Iterator[Event]:
        """Run one call on one session; tokens come out when they can no longer be taken back."""
        return drive(self.loop(session, tokenizer, call, Trace() if trace is None else trace))
