"""An exit rule that comes from the runs that it watches: it is in shadow until a promise stands, and after an alarm.

Its own runs fit and calibrate. Exits are tried on them while nobody uses the model (`idle`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import (
    AdmittedRun,
    Audited,
    AuditedAnswers,
    AuditLedger,
    Boundary,
    ControllerError,
    Cues,
    Decision,
    ExitRule,
    IdleRun,
    Markers,
    Promised,
    RuleWrapper,
    Trace,
    parse_policy,
    same_policy,
)
from reasonctl.controller.audits import stem_of
from reasonctl.probes import ProbeExit
from reasonctl.probes.signals import layer_of

from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..runs.trials import Trials, often
from ..tasks.graders import Grader
from .labelling import labelling, packed
from .promises import (
    calibration_runs,
    first_of,
    job_of,
    next_analysis,
    plan_from,
    plan_of,
    rule_of,
    share_of,
    stands,
)
from .settings import LearnedSettings
from .traffic import Stage, Traffic


@dataclass
class Learned(ExitRule):
    """The rule; `from reasonctl import learn` makes one."""

    traffic: Traffic
    """Its runs."""
    settings: LearnedSettings
    """What is fixed."""
    grader: Grader
    """Says which answers are the same."""
    keep: bool = False
    """Keep what runs wrote after they are labelled."""
    most_seconds: float = float("inf")
    """A run that waits longer for its labels is left out."""
    model: Model | None = None
    """The model that it is attached to."""
    live: Audited | None = None
    """The promise that stands, under audits. None: the rule is in shadow."""
    _analysed: int = field(default=0, repr=False)
    """Calibration runs at the last analysis of this process."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.cues, self.suffix, self.answer_ends = Cues(settings.cues), settings.suffix, settings.answer_ends
        self.markers = None if settings.markers is None else Markers(*settings.markers)
        self.trials = True
        self.max_cues = 200

    def layers(self, depth: int) -> tuple[int, ...]:
        """The blocks that the probe will read."""
        return tuple(dict.fromkeys(layer_of(fraction, depth) for fraction in self.settings.layers))

    def decide(self, at: Boundary) -> Any:
        """A run is decided by the rule that `for_run` gives."""
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, float("nan"), float("inf"))
        yield

    @property
    def why(self) -> str:
        """What is promised, or how far the next promise is."""
        if self.live is not None:
            return self.live.why
        stage = self.traffic.stage()
        after = f" (an alarm ended promise {stage.promise - 1})" if stage.promise > 1 else ""
        return f"learning: promise {stage.promise}{after} has {stage.admitted} runs, {stage.fit} fit; exits aren't made"

    def at(self, *, risk: float) -> ExitRule:
        """At another risk its runs don't count; in shadow it promises nothing at any risk."""
        if self.live is None:
            return self if risk == self.settings.risk else Uncounted(self)
        return self if risk == self.settings.risk else self.live.at(risk=risk)

    @property
    def promised(self) -> Promised | None:
        """The promise that stands."""
        return None if self.live is None else self.live.promised

    def expected_saving(self, position: int) -> float | None:
        """As the calibration runs say, once there are some."""
        return None if self.live is None else self.live.expected_saving(position)

    def verdict(self, *, right: bool, exited: bool) -> None:
        """Count what a user says, once a promise stands."""
        if self.live is not None:
            self.live.verdict(right=right, exited=exited)

    def in_use(self, policy: str, max_new_tokens: int) -> list[str]:
        """How a call differs from those that the store is about: its first one fixes them."""
        call = self.traffic.settings("call")
        if call is None:
            return []
        found = []
        if max_new_tokens != call["max_new_tokens"]:
            found.append(f"max_new_tokens is {max_new_tokens}, the store's runs have {call['max_new_tokens']}")
        if not same_policy(policy, str(call["policy"])):
            found.append(f"the policy is {policy}, the store's runs have {call['policy']}")
        return found

    def check(self, model: Model) -> list[str]:
        """The store is about one model. Raises ControllerError for another one."""
        own = {"fingerprint": model.fingerprint(), **model.settings}
        kept = self.traffic.fix("model", own)
        if kept["fingerprint"] != own["fingerprint"]:
            raise ControllerError("the store learns from another model's runs; give another file")
        self.model = model
        self._go_on()
        changed = sorted(name for name in {*own, *kept} if own.get(name) != kept.get(name))
        return [f"{name} is {own.get(name)!r}, the store's runs were made with {kept.get(name)!r}" for name in changed]

    def for_run(self, run: AdmittedRun) -> ExitRule:
        """The rule of one run: that of the promise that stands, or one that never exits and keeps the run."""
        self.traffic.saw()
        if self.live is not None and self.live.ledger.alarm:
            self.live, self._analysed = None, 0
            self.traffic.begin_again(self.traffic.stage(), self.settings.fit)
        return ShadowRun(self, run) if self.live is None else self.live.for_run(run)

    # While nobody uses the model

    def idle(self) -> IdleRun | None:
        """The next run whose labels are wanted. Before that, what the labelled runs allow is decided."""
        call = self.traffic.settings("call")
        if self.model is None or self.live is not None or call is None:
            return None
        self.traffic.forget_old(self.most_seconds)
        while self._decide():
            pass
        stage = self.traffic.stage()
        if stage.promised is not None:
            self._go_on()
            return None
        run = self.traffic.to_label(stage, before=stage.fit if stage.plan is None else None)
        if run is None:
            return None
        which = Trials("few", often=often(stage.fit))
        if stage.plan is not None:
            frozen = plan_of(stage.plan)
            which = Trials("records", frozen.probe, -float("inf") if frozen.floor is None else frozen.floor)

        def done(record: RunRecord, tokens: int) -> None:
            self.traffic.label(stage.promise, run.number, packed(record), tokens, keep=self.keep)

        def failed() -> None:
            self.traffic.leave(stage.promise, run.number)

        return labelling(self._recipe(), self.model, run, which, self.grader, done, failed)

    def _decide(self) -> bool:
        """Let fitting runs decide, or make the next analysis; False where nothing can be decided now."""
        stage = self.traffic.stage()
        if stage.promised is not None:
            return False
        job = job_of(self._recipe(), self.grader, self.settings.risk, self.settings.confidence, stage)
        if stage.plan is None:
            fitting = self.traffic.records(stage, 0, stage.fit)
            if fitting is None:
                return False
            frozen = plan_from(job, fitting)
            if frozen is None:
                self.traffic.fit_more(stage)
            else:
                self.traffic.decide(stage, packed_plan(frozen.to_json()))
            return True
        wanted = next_analysis(job, self._analysed)
        records = self.traffic.records(stage, stage.fit, stage.fit + wanted)
        if records is None:
            return False
        self._analysed = wanted
        if self.traffic.one_steers(stage, stage.fit, stage.fit + wanted):
            return True  # these runs are analysed by nobody: the next analysis has more of the others
        if stands(job, plan_of(stage.plan), calibration_runs(records, stage.fit, self.settings.cues[0])):
            self.traffic.promise(stage, wanted)
        return True

    def _go_on(self) -> None:
        """Put the promise that stands to use, if there is one."""
        stage = self.traffic.stage()
        if stage.promised is None or stage.plan is None or self.model is None:
            return
        records = self.traffic.records(stage, stage.fit, stage.fit + stage.promised)
        if records is None:
            raise ControllerError("the store lacks runs that its promise stands on; begin a new one")
        runs = calibration_runs(records, stage.fit, self.settings.cues[0])
        job = job_of(self._recipe(), self.grader, self.settings.risk, self.settings.confidence, stage)
        rule = rule_of(job, self.model, plan_of(stage.plan), runs)
        rule.check(self.model)
        named = NamedPromise(rule, f"learned {stage.promise}")
        level = share_of(self.settings.level, stage.promise)
        store, share = self.traffic.store, self.settings.share
        ledger = AuditLedger.of(store, named.promised.name, named.promised, share=share, level=level)
        self.live = Audited(named, ledger, AuditedAnswers(self.grader.same))

    def _recipe(self) -> Recipe:
        call = self.traffic.settings("call")
        assert call is not None and self.model is not None
        return self.settings.recipe(self.model.name, str(call["policy"]), int(call["max_new_tokens"]))


class NamedPromise(RuleWrapper):
    """A rule whose promise has a name of its own, so that a new version of a library makes no new promise of it."""

    def __init__(self, rule: ProbeExit, name: str) -> None:
        super().__init__(rule)
        self._name = name

    @property
    def promised(self) -> Promised:
        """The rule's promise by that name."""
        promised = self.inner.promised
        assert promised is not None
        return replace(promised, name=self._name)

    def at(self, *, risk: float) -> ExitRule:
        """The inner rule at another risk: another promise."""
        return self if self.promised.risk == risk else self.inner.at(risk=risk)

    def for_run(self, run: AdmittedRun) -> ExitRule:
        """The same in every run."""
        return self


class Uncounted(RuleWrapper):
    """A learning rule at another risk: its runs are in shadow and teach nothing."""

    def for_run(self, run: AdmittedRun) -> ExitRule:
        """As the learning rule does with a private run."""
        return self.inner.for_run(replace(run, promised=False))


class ShadowRun(RuleWrapper):
    """One run of the traffic that isn't exited. What it wrote is kept until it is labelled."""

    def __init__(self, rule: Learned, run: AdmittedRun) -> None:
        super().__init__(rule)
        self.reads, self.max_cues = False, 0  # it asks nothing, so the run costs what it would without a rule
        self._rule = rule
        self._run = run
        self._stage: Stage | None = None
        self._number: int | None = None

    def begin(self, trace: Trace) -> None:
        """Take the run's number, and with it its role."""
        trace.shadow = True
        trace.note = "the rule still learns"
        run, traffic, settings = self._run, self._rule.traffic, self._rule.settings
        if run.promised and not run.private and not traffic.full and self._fits(run):
            markers = self._rule.markers
            stem = stem_of(run.prompt, run.tokenizer, None if markers is None else markers.open)
            self._stage = traffic.stage()
            first = first_of(settings.risk, settings.confidence, self._stage.promise)
            self._number = traffic.admit(self._stage, run.prompt, stem, run.client, first)

    def _fits(self, run: AdmittedRun) -> bool:
        """Whether the run is sampled as the store's runs are; the first one fixes that."""
        traffic = self._rule.traffic
        if traffic.settings("call") is None:
            try:
                parse_policy(run.policy)
            except ControllerError:
                return False  # a policy that can't be written down can't be used on trials
            traffic.fix("call", {"policy": run.policy, "max_new_tokens": run.max_new_tokens})
        return not self._rule.in_use(run.policy, run.max_new_tokens)

    def finish(self, trace: Trace) -> None:
        """Keep what the run wrote, where it ended by itself."""
        if self._number is None or self._stage is None:
            return
        tokens = without_end(trace.tokens, self._run.eos)
        whole = trace.finish_reason == "stop" or len(tokens) == self._run.max_new_tokens
        if trace.finish_reason is None or trace.why_not or "forced" in trace.sources or not whole or not tokens:
            self._rule.traffic.leave(self._stage.promise, self._number)
        else:
            self._rule.traffic.end(self._stage.promise, self._number, self._run.prompt, tokens)

    def abandon(self, trace: Trace) -> None:
        """A run that broke is left."""
        if self._number is not None and self._stage is not None:
            self._rule.traffic.leave(self._stage.promise, self._number)


def without_end(tokens: Sequence[int], eos: frozenset[int]) -> list[int]:
    """The tokens without the one that ends the run."""
    return list(tokens[:-1] if tokens and tokens[-1] in eos else tokens)


def packed_plan(plan: dict[str, Any]) -> str:
    """A plan as JSON."""
    return json.dumps(plan, separators=(",", ":"), allow_nan=False)
