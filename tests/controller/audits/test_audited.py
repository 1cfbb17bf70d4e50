"""The audited rule in the loop: what an audited run writes, what is compared, what is in the stream, and the alarm."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from reasonctl.calibration.evaluation.audit_streams import ledger_in_memory as ledger
from reasonctl.controller import (
    Audited,
    AuditedAnswers,
    Boundary,
    Call,
    Controller,
    ControllerError,
    Greedy,
    Keys,
    Promised,
    Trace,
    Trial,
)
from reasonctl.controller.audits import summaries
from reasonctl.controller.audits.audited import stem_of
from reasonctl.controller.thinking import after_thinking
from support.scheduled import Breaking, call, reasoner
from support.scripted import Scripted
from support.toy_thinking import OPEN, PROMPT, TOKENIZER

RISK, MOST = 0.05, 60


class Promising(Scripted):
    """A scripted rule that exits at its first cue, and promises something."""

    mode: str = "disagree"
    risk: float = RISK

    def __init__(self, mode: str = "disagree", risk: float = RISK, at: int = 0) -> None:
        super().__init__(lambda boundary: boundary.cue.index == at)
        self.mode, self.risk = mode, risk

    @property
    def promised(self) -> Promised:
        return Promised(self.mode, self.risk, 20, f"{self.mode} {self.risk}")

    def at(self, *, risk: float):
        return Promising(self.mode, risk)

    def in_use(self, policy: str, max_new_tokens: int) -> list[str]:
        return [] if max_new_tokens == MOST else [f"max_new_tokens is {max_new_tokens}"]

    def expected_saving(self, position: int) -> float:
        return 100.0


def audits(share: float = 1.0, rule: Promising | None = None, same=lambda a, b: a == b, right=None) -> Audited:
    rule = rule or Promising()
    kept = ledger(rule.risk, 3, share=share)
    kept.name = rule.promised.name
    return Audited(rule, kept, AuditedAnswers(same, right))


def run(rule, number: int, most: int = MOST, tokens: int | None = None, **more) -> Trace:
    """One run on the toy reasoner; it is left after so many tokens."""
    trace, controller = Trace(), more.pop("controller", None) or Controller(exit=rule)
    # A prompt of its own: the toy's probabilities follow from the last two tokens alone.
    asked = replace(call(number, most), prompt=[*([number % 7] * 8), *divmod(number, 11), *PROMPT], **more)
    session = reasoner().session()
    events = controller.stream(session, TOKENIZER, asked, trace)
    for count, _ in enumerate(events, start=1):
        if count == tokens:
            break
    events.close()
    return trace


def with_exit() -> list[int]:
    """Numbers of runs that exit."""
    return [number for number in range(40) if run(Promising(), number).exit is not None]


EXITING = with_exit()


def test_an_audited_run_is_the_full_run_and_its_trial_is_what_the_exit_says():
    assert len(EXITING) >= 10
    for number in EXITING[:8]:
        full, exited = run(Scripted(lambda at: False), number), run(Promising(), number)
        seen: list[tuple[str, str]] = []
        rule = audits(same=lambda tried, final, seen=seen: bool(seen.append((tried, final))))
        trace = run(rule, number)
        assert trace.tokens == full.tokens and exited.tokens != full.tokens
        assert trace.exit is None and trace.would_exit.held == "audit" and trace.why.startswith("audited: the exit at")
        texts = [TOKENIZER.decode([t for t in one.tokens if t]) for one in (exited, full)]
        said, final = (after_thinking(text, rule.markers) for text in texts)
        (compared,) = seen or [(None, None)]
        if seen:  # else the tried answer was truncated
            assert compared == (said, final)
        assert trace.audit["drawn"] and trace.audit["failed"] and trace.audit["cost"] == trace.trial_tokens > 0
        assert [decision.held for decision in trace.decisions].count("audit") == 1  # asked no more after it


def test_an_audit_that_isnt_drawn_is_the_exited_run():
    for number in EXITING[:4]:
        rule = audits(share=1e-9)
        trace = run(rule, number)
        assert trace.tokens == run(Promising(), number).tokens and trace.trials == 0
        assert (trace.audit["drawn"], trace.audit["failed"], trace.audit["exits"]) == (False, None, 1)
        assert trace.audit["net_saved"] == 100.0


def test_the_same_answers_are_no_failure_and_a_truncated_one_is():
    seen: list[str] = []
    rule = audits(rule=Promising(risk=0.9), same=lambda a, b: seen.append(a) is None)
    whole = 0
    for number in EXITING:
        compared = len(seen)
        failed = run(rule, number).audit["failed"]
        assert failed == (len(seen) == compared)  # what was truncated isn't even compared
        whole += not failed
    assert 0 < whole < len(EXITING) == rule.ledger.evidence.audits
    tried = AuditedAnswers(lambda a, b: True)
    assert not tried.failed("disagree", "", Trial((), (), "", 0, True), "1", "1")
    assert tried.failed("disagree", "", Trial((), (), "", 0, complete=False), "1", "1")


def test_a_run_without_an_exit_that_is_due_is_no_failure_even_at_its_limit():
    rule = audits(rule=Promising(at=1000), same=lambda a, b: False)
    trace = run(rule, 1)
    assert trace.audit["failed"] is False and rule.ledger.evidence.failures == 0


def test_an_audit_that_is_left_fails_before_and_after_an_exit_was_due():
    """Cancelled, cut by a limit of time or left: the loop sees the same, its generator is closed."""
    rule = audits(rule=Promising(at=1000), same=lambda a, b: True)
    assert run(rule, EXITING[0], tokens=3).audit["failed"] is True
    rule = audits(same=lambda a, b: True)
    trace = run(rule, EXITING[0], tokens=max(run(rule, EXITING[0]).would_exit.position + 8, 12))
    rule = audits(same=lambda a, b: True)
    trace = run(rule, EXITING[0], tokens=len(run(Scripted(lambda at: False), EXITING[0]).tokens) - 1)
    assert trace.would_exit is not None and trace.finish_reason is None and trace.audit["failed"] is True


def test_an_audit_that_breaks_fails():
    rule = audits(same=lambda a, b: True)
    with pytest.raises(ZeroDivisionError):
        run(rule, 1, controller=Controller(exit=rule, policy=Breaking(20)))
    assert rule.ledger.evidence.failures == rule.ledger.evidence.audits == 1
    rule = audits(same=lambda a, b: 1 / 0)  # a grader that breaks: the run fails, and the audit with it
    number = next(n for n in EXITING if run(audits(same=lambda a, b: True), n).audit["failed"] is False)
    with pytest.raises(ZeroDivisionError):
        run(rule, number)
    assert rule.ledger.evidence.failures == 1


def out_of_stream(name: str, rule: Audited) -> Trace:
    """A run that is none of the stream's."""
    makes = {
        "another risk": lambda: run(rule, 5, controller=Controller(exit=rule).under(risk=0.2)),
        "another limit": lambda: run(rule, 5, most=MOST - 1),
        "a budget": lambda: run(rule, 5, controller=Controller(exit=rule, budget=9)),
        "a further sample": lambda: run(rule, 5, repeat=True),
        "a stop condition": lambda: run(rule, 5, stop=lambda tokens, first: False),
        "a stop string": lambda: run(rule, 5, cut=True),
        "shadow": lambda: run(rule, 5, controller=Controller(exit=rule, shadow=True)),
    }
    return makes[name]()


@pytest.mark.parametrize(
    "name",
    ["another risk", "another limit", "a budget", "a further sample", "a stop condition", "a stop string", "shadow"],
)
def test_what_the_promise_doesnt_cover_is_not_in_the_stream(name):
    rule = audits()
    trace = out_of_stream(name, rule)
    assert not trace.audit["drawn"] and rule.ledger.summary().admitted == 0
    assert run(rule, 5).audit["drawn"] and rule.ledger.summary().admitted == 1
    assert not run(rule, 5).audit["drawn"]  # the same prompt again
    same_risk = Controller(exit=rule).under(risk=0.2).under(risk=RISK)
    assert run(rule, 6, controller=same_risk).audit["drawn"]


def test_an_alarm_puts_the_rule_in_shadow_at_every_risk_and_says_so(caplog):
    rule = audits(same=lambda a, b: False)
    with caplog.at_level(logging.WARNING, "reasonctl.audits"):
        for number in EXITING:
            run(rule, number)
    assert rule.ledger.alarm and [record.message.count("ALARM") for record in caplog.records] == [1]
    for controller in (Controller(exit=rule), Controller(exit=rule).under(risk=0.2)):
        trace = run(rule, EXITING[0], controller=controller)
        assert trace.exit is None and trace.shadow and trace.would_exit.held == "alarm" and trace.trials == 0
        assert trace.why.startswith("shadow: would have exited") and "ALARM" in trace.warnings[-1]
        assert trace.audit["alarm"] and not trace.audit["drawn"]


def test_the_coin_is_tossed_before_the_first_forward():
    """When the rule is first asked the coin has fallen; and what the rule then says changes no coin."""
    tossed: list[int] = []

    class Looking(Promising):
        def decide(self, at: Boundary):
            tossed.append(kept.ledger.summary().admitted)
            return super().decide(at)

    kept = audits(share=0.5, rule=Looking(risk=0.9))
    coins = [run(kept, number).audit["drawn"] for number in range(30)]
    others = audits(share=0.5, rule=Promising(risk=0.9, at=3))
    assert coins == [run(others, number).audit["drawn"] for number in range(30)] and 0 < sum(coins) < 30
    assert min(tossed) >= 1


@pytest.mark.parametrize("mode", ["harm", "wrong"])
def test_right_answers_are_needed_for_some_modes(mode):
    with pytest.raises(ControllerError, match=f"mode '{mode}' can't be watched.* --mode disagree"):
        audits(rule=Promising(mode))
    whole = Trial((), (), "", 0, True)
    answers = AuditedAnswers(right=lambda question, answer: answer == question)
    assert answers.failed(mode, "7", whole, "8", "7") and not answers.failed(mode, "7", whole, "7", "8")
    assert answers.failed(mode, "7", whole, "8", "9") == (mode == "wrong")
    assert answers.failed(mode, "7", replace(whole, complete=False), "7", "7")


def test_what_promises_nothing_of_each_run_is_refused():
    with pytest.raises(ControllerError, match="makes none; use load_exit"):
        Audited(Scripted(lambda at: True), ledger(RISK, 1))
    with pytest.raises(ControllerError, match="mode 'selective'"):
        Audited(Promising("selective"), ledger(RISK, 1))


def test_verdicts_may_warn_and_enter_neither_promise_nor_alarm(caplog):
    rule = audits()
    with caplog.at_level(logging.WARNING, "reasonctl.audits"):
        for _ in range(500):
            rule.verdict(right=False, exited=True)
        assert not caplog.records and not rule.ledger.users_warn  # all are called wrong, and none is compared with it
        for _ in range(140):
            rule.verdict(right=True, exited=False)
    found = rule.ledger.summary()
    assert (found.exited_wrong, found.full_right, found.evidence, found.alarm) == (500, 140, 1.0, False)
    assert found.users_warn and [record.message.count("WARNING, users") for record in caplog.records] == [1]
    trace = run(rule, EXITING[0])
    assert trace.warnings == [found.said] and trace.audit["users_warn"] and not trace.shadow
    rule.ledger.__init__(rule.ledger.store, 1)
    assert rule.ledger.users_warn and summaries(rule.ledger.store)[0].said == found.said  # it stays


def test_a_prompts_stem_ends_before_the_marker_that_opens_thinking():
    assert stem_of([1, 2, OPEN], TOKENIZER, "<think>") == 2
    assert stem_of([1, 2, 1], TOKENIZER, "<think>") == 3 and stem_of([1, 2], TOKENIZER, None) == 2


def test_a_greedy_call_is_audited_too():
    rule = audits()
    asked = Call([1, 2, 1, 2, 1, 2, 1, 2, *PROMPT], MOST, frozenset([0]), Keys(seed=5), Greedy())
    trace = Trace()
    for _ in Controller(exit=rule).stream(reasoner().session(), TOKENIZER, asked, trace):
        pass
    assert trace.audit["drawn"]
