"""An exit rule some of whose runs are audited: their exits are decided and not made, and the two answers compared.

After an alarm all exits are decided and not made, at every risk of the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from ..core.decode import Decode, Step
from ..core.errors import ControllerError
from ..core.tokenizer import Tokenizer
from ..core.trace import Decision, Trace
from ..thinking.answers import after_thinking, stated_answer
from ..thinking.exit_rule import AdmittedRun, Boundary, ExitRule, Promised, Trial
from ..thinking.rule_wrapper import RuleWrapper
from .ledger import AuditLedger, Place

SEEN_WITHOUT_ANSWERS = "disagree"
"""The failure that a comparison of two answers shows."""
WATCHED = (SEEN_WITHOUT_ANSWERS, "harm", "wrong")
"""Failures whose share of all runs is promised."""
_MARKER_TOKENS = 32
"""Most tokens at a prompt's end that open its thinking."""


def same_text(first: str, second: str) -> bool:
    """Whether two answers state the same, by their letters; two without an answer don't."""
    a, b = (stated_answer(text).strip().casefold() for text in (first, second))
    return bool(a) and a == b


@dataclass(frozen=True)
class AuditedAnswers:
    """How the two answers of an audited run are compared: as those of the calibration runs were."""

    same: Callable[[str, str], bool] = same_text
    """Whether two texts state the same answer."""
    right: Callable[[str, str], bool] | None = None
    """Whether an answer is right, given the prompt's text and the answer. None: nobody knows right answers."""

    def check(self, mode: str) -> None:
        """Raise ControllerError unless failures of this mode can be seen."""
        if mode not in WATCHED:
            raise ControllerError(
                f"audits can't watch mode {mode!r}, whose risk is no share of all runs; use 'disagree'"
            )
        if mode != SEEN_WITHOUT_ANSWERS and self.right is None:
            raise ControllerError(
                f"a risk of mode {mode!r} can't be watched, as nothing here knows right answers; ask for mode "
                "'disagree' (load_exit(..., mode='disagree'), --mode disagree), or give a grader"
            )

    def failed(self, mode: str, question: str, trial: Trial, tried: str, final: str) -> bool:
        """Whether an exit whose answer is `tried` fails where the full run's is `final`."""
        if mode == SEEN_WITHOUT_ANSWERS:
            return not (trial.complete and self.same(tried, final))
        assert self.right is not None
        wrong = not (trial.complete and self.right(question, tried))
        return wrong and (mode == "wrong" or self.right(question, final))


class Audited(RuleWrapper):
    """A rule with audits; `from reasonctl import audited` makes one."""

    def __init__(
        self, rule: ExitRule, ledger: AuditLedger, answers: AuditedAnswers | None = None, *, counts: bool = True
    ) -> None:
        """Audit a rule.

        Args:
            rule: The rule. It must promise something of each run.
            ledger: The runs of its promise.
            answers: How answers are compared.
            counts: Its runs are in the stream. False: they are at another risk, and only obey the alarm.

        Raises:
            ControllerError: The rule promises nothing that audits can watch.
        """
        super().__init__(rule)
        self.ledger = ledger
        self.answers = answers or AuditedAnswers()
        self.counts = counts
        if counts:
            self.answers.check(promised_of(rule).mode)
            self.trials = rule.trials or rule.reads

    def at(self, *, risk: float) -> ExitRule:
        """At another risk its runs aren't audited, and obey the same alarm."""
        other = self.inner.at(risk=risk)
        same = other.promised is not None and other.promised.name == self.ledger.name
        return Audited(other, self.ledger, self.answers, counts=same)

    @property
    def why(self) -> str:
        """What it promises, and that it is audited."""
        return f"{self.inner.why}; {self.ledger.share:g} of its runs are audited"

    def for_run(self, run: AdmittedRun) -> ExitRule:
        """The rule of one run."""
        return AuditedRun(self, self.inner.for_run(run), run)

    def verdict(self, *, right: bool, exited: bool) -> None:
        """Count what a user says."""
        self.ledger.verdict(right=right, exited=exited)
        super().verdict(right=right, exited=exited)


class AuditedRun(RuleWrapper):
    """One run of an audited rule."""

    def __init__(self, rule: Audited, inner: ExitRule, run: AdmittedRun) -> None:
        super().__init__(inner)
        self._rule = rule
        self._run = run
        self._place: Place | None = None
        """None: the run isn't in the stream."""
        self._shadow = False
        """The alarm was raised before it began."""
        self._trial: Trial | None = None
        """What the exit that was due would have given."""

    @property
    def _audited(self) -> bool:
        return self._place is not None and self._place.audited

    def begin(self, trace: Trace) -> None:
        """Take the run's place; its coin is tossed here, before its first forward."""
        ledger, run = self._rule.ledger, self._run
        super().begin(trace)
        self._shadow = ledger.alarm
        if ledger.users_warn:
            trace.warnings.append(ledger.summary().said)
        if self._shadow:
            trace.shadow = True
            trace.warnings.append(f"{ledger.summary().why}: exits are decided and not made")
        elif self._rule.counts and run.promised and self.inner.reads:
            markers = self.inner.markers
            stem = stem_of(run.prompt, run.tokenizer, None if markers is None else markers.open)
            self._place = ledger.admit(run.prompt, stem)

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """As the inner rule decides; an exit that is due is held back in an audit, and after an alarm."""
        decision = yield from self.inner.decide(at)
        if not decision.exit or not (self._shadow or self._audited):
            return decision
        if self._shadow:
            return replace(decision, held="alarm")
        self._trial = yield from at.answer(promised_of(self.inner).answer_tokens)
        return replace(decision, held="audit")

    def finish(self, trace: Trace) -> None:
        """Say whether an audited run failed."""
        super().finish(trace)
        self._ended(trace, lambda: self._failed(trace))

    def abandon(self, trace: Trace) -> None:
        """An audited run that broke counts as a failure: nobody knows what it would have said."""
        super().abandon(trace)
        self._ended(trace, lambda: True)

    def _ended(self, trace: Trace, failing: Callable[[], bool]) -> None:
        ledger, failed = self._rule.ledger, True
        try:
            if self._place is not None and self._place.audited:
                failed = failing()
        finally:
            if self._place is not None and self._place.audited:
                ledger.end(self._place, failed=failed)
            exit_made = trace.exit
            saved = 0.0 if exit_made is None else self.inner.expected_saving(exit_made.position) or 0.0
            cost = self._cost(trace)
            if exit_made is not None or cost:
                ledger.count(exits=exit_made is not None, saved=saved, tokens=cost)
        trace.audit = {
            **ledger.summary().to_dict(),
            "drawn": self._audited,
            "failed": failed if self._audited else None,
            "cost": cost,
        }

    def _cost(self, trace: Trace) -> int:
        """Tokens that the audit's trial took; those of the inner rule's own trials aren't among them."""
        if self._trial is None:
            return 0
        return self._trial.cost if self.inner.trials else trace.trial_tokens

    def _failed(self, trace: Trace) -> bool:
        """Whether the deployed exit of an audited run would have been a failure of the promise."""
        if trace.finish_reason is None:
            return True  # left before its end, be it before an exit was due: else long runs would drop out
        if self._trial is None:
            return False
        run, markers = self._run, self.inner.markers
        final = run.tokenizer.decode([token for token in trace.tokens if token not in run.eos])
        question = run.tokenizer.decode(list(run.prompt))
        answers = (after_thinking(text, markers) for text in (self._trial.text, final))
        return self._rule.answers.failed(promised_of(self.inner).mode, question, self._trial, *answers)


def promised_of(rule: ExitRule) -> Promised:
    """What a rule promises of each run. Raises ControllerError where that is nothing."""
    promised = rule.promised if isinstance(rule, ExitRule) else None  # a path, where load_exit was forgotten
    if promised is None:
        raise ControllerError(
            f"audits watch a promise of each run, and this {type(rule).__name__} makes none; use load_exit with a "
            "confidence and mode 'disagree', 'harm' or 'wrong'"
        )
    return promised


def stem_of(prompt: Sequence[int], tokenizer: Tokenizer, opening: str | None) -> int:
    """How many of a prompt's tokens the next turn of its conversation begins with.

    All but a marker that opens thinking.
    Templates leave earlier thoughts out, and their marker with them.
    """
    if opening is None or not tokenizer.decode(list(prompt[-_MARKER_TOKENS:])).rstrip().endswith(opening.strip()):
        return len(prompt)
    cut = len(prompt)
    while cut > 1 and opening.strip() not in tokenizer.decode(list(prompt[cut:])):
        cut -= 1
    return cut
