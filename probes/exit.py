"""Exit rules: the calibrated probe, and the fixed rules that it is compared with.

This file decides at a cue, and says what the guarantee covers. The statistics are in risk/, the checks of a file in
files/.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Generator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np

from reasonctl.controller import (
    Boundary,
    ControllerError,
    Cues,
    Decision,
    Decode,
    ExitRule,
    Markers,
    Promised,
    Step,
    Trace,
    same_policy,
)
from reasonctl.controller.thinking import FORM_MEANS, after_thinking, stated_answer

from .files.card import Card, LoadedModel, Scalar, check_model, difference, setting_pairs
from .files.hub import find_probe
from .files.probe_file import ProbeFile, digest_of, load_probe
from .fixed_exits import decision_at
from .promise import Promise
from .risk.drift import DriftMonitor
from .risk.exit_savings import ExitSavings
from .risk.give_up import GiveUp, choose_lower
from .risk.in_order import InOrder
from .risk.table import NO_EXIT, Table
from .risk.threshold import MEANS, Mode, Threshold
from .signals.observation import Observation
from .signals.probe import features_at, layer_of


class ProbeExit(ExitRule):
    """Exit at the first cue where a signal scores above the calibrated threshold."""

    def __init__(
        self,
        content: ProbeFile,
        promise: Promise,
        threshold: Threshold,
        *,
        lower: GiveUp | None = None,
        table: Table | None = None,
    ) -> None:
        """Make a rule of what was computed already; `load_exit` and `make_exit` compute it.

        Args:
            content: The probe file.
            promise: What the rule keeps to.
            threshold: The threshold that the calibration runs allow for the promise.
            lower: When the rule gives up on a run. None: never.
            table: The calibration runs that the threshold comes from. None: all of the signal's.
        """
        self.content = content
        card = self.card = content.card
        self.promise = promise
        self.threshold = threshold
        self.lower = lower
        self.signal_name = promise.signal
        self.signal = content.signal(promise.signal)
        self.reads = threshold.value < math.inf or lower is not None  # one that never exits reads and tries nothing
        self.trials = self.signal.trials and self.reads
        self.markers = Markers(*card.markers) if card.markers is not None else None
        self.cues = Cues(card.cues)
        self.suffix, self.answer_ends, self.form = card.suffix, card.answer_ends, card.form
        self.max_cues, self.efforts = card.max_cues, card.named_efforts
        self.always_answer, self.later_spans = card.always_answer, card.later_spans
        self._layers = tuple(layer_of(fraction, card.depth) for fraction in card.layers)
        self._answer_tokens = answer_tokens(card)
        self._warnings: list[str] | None = None
        self._table = content.signal_table(promise.signal).table if table is None else table
        self.monitor = _monitor(self._table)
        """Tests whether runs in use are like the calibration runs. None: there are none to compare with."""
        self.order = InOrder()
        """The runs that the monitor hasn't taken in."""

    def at(self, *, risk: float | None = None, confidence: float | None | Literal["same"] = "same") -> ProbeExit:
        """The same rule at another risk or confidence; nothing is fitted again.

        Args:
            risk: Largest probability of a failure, per run. None: as it is.
            confidence: Probability that the risk holds; None holds it on average. "same": as it is.

        Raises:
            ControllerError: The promise can't be asked for.
        """
        promise = self.promise
        if risk is not None:
            promise = replace(promise, risk=risk)
        if confidence != "same":
            promise = replace(promise, confidence=confidence)
        made = make_exit(self.content, promise)
        made._warnings = self._warnings
        made.monitor = self.monitor
        made.order = self.order
        return made

    @property
    def why(self) -> str:
        """One line: where it exits, of which form, and what that promises; or why it never exits."""
        why = self.threshold.why if self.lower is None else f"{self.threshold.why}; {self.lower.why}"
        form = self.card.form
        return why if form == "replace" else f"{why}; for exits of the form {form}: {FORM_MEANS[form]}"

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks that the signal reads; raises ControllerError on a model of another depth."""
        if depth != self.card.depth:
            raise ControllerError(
                f"probe was fitted on a {self.card.depth}-layer model of width {self.card.width}; this model has "
                f"{depth} layers. Make a probe for it: ctl calibrate"
            )
        return self._layers if self.signal.reads_hidden else ()

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Observe the cue, try an answer if the signal wants one, and exit if the score is above the threshold."""
        if not self.reads:
            return decision_at(at, math.nan, math.inf)
        observations: list[Observation] = at.memory
        signal = self.signal
        p_settled = self.content.probe.score(features_at(at.hidden, self._layers)) if signal.reads_hidden else math.nan
        entropy = at.entropy() if signal.reads_distribution else math.nan
        observations.append(Observation(at.cue.index, at.cue.first - at.prompt, p_settled, entropy))
        if self.trials and signal.wants_trial(observations):
            trial = yield from at.answer(self._answer_tokens)
            answer = stated_answer(after_thinking(trial.text, self.markers))
            observations[-1] = replace(observations[-1], answer=answer, logprobs=trial.logprobs)
        return self.decided(decision_at(at, signal.score(observations), self.threshold.value))

    def decided(self, decision: Decision) -> Decision:
        """A decision that the threshold alone made, as this rule makes it: it may give up besides."""
        if self.lower is not None and not decision.exit and self.lower.curve.below(decision.score, decision.position):
            return replace(decision, exit=True, gave_up=True)
        return decision

    def expected_saving(self, position: int) -> float | None:
        """The mean over the calibration runs' own exits, at this threshold, that are about as late as this one.

        Over many runs it adds up to what an evaluation measures, as the exits of both have one distribution.
        """
        return None if self._savings is None else self._savings.at(position)

    @cached_property
    def _savings(self) -> ExitSavings | None:
        table = self._table
        first = table.first_exit(self.threshold.value)
        runs = np.flatnonzero(first != NO_EXIT)
        cues = table.offsets[:-1][runs] + first[runs]
        runs, cues = runs[table.labelled[cues]], cues[table.labelled[cues]]
        if not len(runs):
            return None
        return ExitSavings.of(table.positions[cues], table.full_tokens[runs] - table.exit_tokens[cues])

    def begin(self, trace: Trace) -> None:
        """Give the run its place: the drift monitor takes runs in in the order in which they began."""
        self.order.begin(trace)

    def finish(self, trace: Trace) -> None:
        """Let the drift monitor take in a run that is over, once it has taken in all that began before it."""
        self.order.end(trace, lambda: self._take_in(trace))

    def abandon(self, trace: Trace) -> None:
        """A run that failed is left out, and the later ones no longer wait for it."""
        self.order.end(trace, lambda: None)

    def _take_in(self, trace: Trace) -> None:
        """Let the drift monitor take in a run, and write what the monitor knows into its trace.

        Three kinds of runs are left out. A rule that never exits scores nothing. Further samples of one
        prompt depend on the first. A run that was left before its first cue shows no score.
        """
        monitor = self.monitor
        left = trace.finish_reason is None and trace.closed_by is None
        if monitor is None or not self.reads:
            return
        if not trace.repeat and (trace.decisions or not left):
            monitor.update([decision.score for decision in trace.decisions])
        trace.drift = {
            "runs": monitor.runs,
            "evidence": monitor.evidence,
            "alarm": monitor.alarm,
            "level": monitor.level,
        }
        if monitor.alarm:
            trace.warnings.append(f"{monitor.why}; the promise may not hold here: calibrate on runs like these")

    def in_use(self, policy: str, max_new_tokens: int) -> list[str]:
        """How one call differs from the calibration's, as far as a call shows it; empty where the promise stands."""
        return self._changed() + differences(self.card, {**self.card.sampler, "policy": policy}, max_new_tokens)

    def _changed(self) -> list[str]:
        """How the rule's own exits differ from the card's, where somebody has set them otherwise."""
        card = self.card
        pairs: tuple[tuple[str, Any, Any], ...] = (
            ("form", self.form, card.form),
            ("suffix", self.suffix, card.suffix),
            ("answer_ends", self.answer_ends, card.answer_ends),
            ("always_answer", self.always_answer, card.always_answer),
            ("later_spans", self.later_spans, card.later_spans),
        )
        return [difference(*pair) for pair in pairs if pair[1] != pair[2]]

    @property
    def promised(self) -> Promised | None:
        """What audits can watch; None for a promise on average over calibrations, or of a part of the runs.

        Both exits of a rule that gives up together harm at most the sum of their risks."""
        if self.promise.confidence is None or self.promise.mode in ("selective", "event"):
            return None
        asked = json.dumps(asdict(self.promise), sort_keys=True)
        name = f"{self._digest} {hashlib.sha256(asked.encode()).hexdigest()[:16]}"
        return Promised(self.promise.mode, self.promise.bound, self._answer_tokens, name)

    @cached_property
    def _digest(self) -> str:
        """Tells the file from others."""
        return digest_of(self.content)

    def check(self, model: LoadedModel) -> list[str]:
        """Warnings where the model differs slightly from the card's; ControllerError for another model."""
        self._warnings = check_model(self.card, model)
        return self._warnings

    def guarantee(
        self,
        *,
        sampler: Mapping[str, Scalar],
        max_new_tokens: int,
        tasks: str,
        grader: str | None = None,
        trace: Trace | None = None,
    ) -> dict[str, Any]:
        """What this use is promised, as plain values for JSON.

        Args:
            sampler: How tokens are sampled in this use; the entries of a card's `sampler`.
            max_new_tokens: Most tokens of a run after its prompt.
            tasks: Where the problems come from.
            grader: What grades the answers. None: nothing grades them in this use.
            trace: A run of this use. What it shows besides counts too, such as a budget or a close on request.

        Returns:
            {"holds", "mode", "risk", "confidence", "form", "why_not"}, and "give_up" for a rule that gives up.
            "why_not" lists every difference between the card and this use. The promise holds if the list is empty.
        """
        card, limit = self.card, self.threshold
        why_not = self._why_not(sampler, max_new_tokens, tasks, grader, trace)
        return {
            "holds": not why_not,
            "mode": limit.mode,
            "risk": limit.risk,
            "confidence": limit.confidence,
            "form": card.form,
            "why_not": why_not,
            **({} if self.lower is None else {"give_up": self.lower.risk}),
        }

    def _why_not(
        self, sampler: Mapping[str, Scalar], max_new_tokens: int, tasks: str, grader: str | None, trace: Trace | None
    ) -> list[str]:
        """Every difference between the card and a use, one line each."""
        card, limit = self.card, self.threshold
        pairs: list[tuple[str, Any, Any]] = [("tasks", tasks, card.tasks)]
        if grader is not None and limit.mode != "disagree":
            pairs.append(("grader", grader, card.grader))
        why_not = [difference(*pair) for pair in pairs if pair[1] != pair[2]]
        why_not += self._changed() + differences(card, sampler, max_new_tokens)
        if self._warnings is None:
            why_not.append("the model in use was not compared with the card")
        else:
            why_not += self._warnings
        if limit.mode == "event":
            why_not.append("mode 'event' is per cue: nothing is promised for a run")
        if trace is not None:
            why_not += [reason for reason in trace.why_not if reason not in why_not]
        return why_not


def _monitor(table: Table) -> DriftMonitor | None:
    sampled = table.runs if table.stopping is None else table.stopping.first
    return DriftMonitor.of(table) if sampled else None


def load_exit(
    path: str | os.PathLike[str],
    *,
    risk: float = 0.05,
    confidence: float | None = 0.9,
    mode: Mode = "harm",
    signal: str = "hidden",
    domain: str | None = None,
    give_up: float | None = None,
) -> ProbeExit:
    """The exit rule of a probe file, at the threshold that its calibration runs allow.

    A risk that the runs can't promise is no error: the rule never exits, and its `why` says how many runs are missing.

    Args:
        path: A probe file, made by `ctl calibrate`; a packed folder, or `OWNER/NAME` on the hub.
        risk: Largest probability of a failure, per run.
        confidence: Probability, over the calibration runs drawn, that the risk holds. None: it holds on average.
        mode: Which failure the risk bounds.
        signal: What is compared with the threshold: one of SIGNALS, or the name of a plugin.
        domain: Promise for problems of this domain only, from its own runs.
        give_up: Also leave runs that score too low for their length, at this risk. None: never.

    Raises:
        ControllerError: The promise can't be asked for, or the file isn't whole.
    """
    promise = Promise(mode, risk, confidence, signal, domain, give_up)
    return make_exit(load_probe(find_probe(path)), promise)


def make_exit(content: ProbeFile, promise: Promise) -> ProbeExit:
    """The exit rule of a probe file that is loaded already. Raises ControllerError as `load_exit` does."""
    calibrated = content.signal_table(promise.signal, promise.domain)
    threshold = promise.threshold(calibrated.table, calibrated.grid)
    lower = _lower(content, calibrated.table, promise)
    return ProbeExit(content, promise, threshold, lower=lower, table=calibrated.table)


def _lower(content: ProbeFile, table: Table, promise: Promise) -> GiveUp | None:
    if promise.give_up is None:
        return None
    table.need_all_labels("giving up")
    if promise.signal != "hidden" or content.lower is None:
        raise ControllerError(
            f"giving up needs the signal 'hidden' of a file with gold answers; the signal is {promise.signal!r}"
        )
    if promise.mode != "harm":
        # P(harm) of the pair is bounded by both risks: a give-up that harms is on a run that would have been right.
        raise ControllerError(
            f"give_up and mode {promise.mode!r} don't go together: a give-up is an exit too, and a usually wrong "
            f"one, so that nothing bounds {MEANS[promise.mode]} of the pair; use mode 'harm', or leave give_up off"
        )
    return choose_lower(table, content.lower, promise.give_up, promise.confidence)


def differences(card: Card, sampler: Mapping[str, Scalar], max_new_tokens: int) -> list[str]:
    """How a use's sampling and limit differ from the card's, for which the promise was made."""
    pairs: list[tuple[str, Any, Any]] = [("max_new_tokens", max_new_tokens, card.max_new_tokens)]
    pairs += [(f"sampler {name}", used, was) for name, used, was in setting_pairs(sampler, card.sampler)]
    return [
        difference(name, used, was)
        for name, used, was in pairs
        if used != was and not (name == "sampler policy" and same_policy(str(used), str(was)))
    ]


def answer_tokens(card: Card) -> int:
    """Most tokens of a trial answer; the same in calibration and in use."""
    return int(cast(int, card.sampler.get("answer_tokens", 64)))
