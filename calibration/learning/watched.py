"""Audits around a rule, with answers compared as calibration compares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reasonctl.backends.extras import require
from reasonctl.controller import Audited, AuditedAnswers, AuditLedger, ExitRule
from reasonctl.controller.audits import LEVEL, SCHEMA, SHARE, VERSION, Store, promised_of
from reasonctl.probes import ProbeExit

from ..tasks.graders import MATH, NUMBER, Grader


def audited(
    rule: ExitRule,
    *,
    share: float = SHARE,
    file: str | Path | None = None,
    level: float = LEVEL,
    same: Callable[[str, str], bool] | None = None,
    right: Callable[[str, str], bool] | None = None,
    seed: int | None = None,
) -> Audited:
    """The rule with audits: a share of its runs isn't exited, and what their exits would have said is compared.

    If the audited runs fail more often than was promised, an alarm puts the rule in shadow. As long as the promise
    holds, the chance that this ever happens is `level` at most (docs/audits.md).

    Args:
        rule: A rule that promises something of each run, such as load_exit(..., mode="disagree").
        share: The share of runs that are audited; in (0, 1]. It is fixed for the promise's life.
        file: Keeps what is known over the end of the process. None: it is known to this process only.
        level: Largest probability of a false alarm, ever.
        same: Whether two answers say the same. None: as in the rule's calibration.
        right: Whether an answer is right, given the prompt's text and the answer; modes "harm" and "wrong" need it.
        seed: Of the coins, for a test that repeats them. None: nobody can know them.

    Raises:
        ControllerError: The rule promises nothing that can be watched, a value is out of its range, or the file can't
            be used.
    """
    answers, promised = AuditedAnswers(same or grader_of(rule).same, right), promised_of(rule)
    answers.check(promised.mode)
    store = Store(file, SCHEMA, version=VERSION)
    return Audited(rule, AuditLedger.of(store, promised.name, promised, share=share, level=level, seed=seed), answers)


def grader_of(rule: ExitRule) -> Grader:
    """The grader by which a rule's calibration held two answers for the same.

    All tasks compare answers in one way, but for the bundled one, whose answers are numbers.

    Raises:
        ControllerError: Comparing formulas needs a library that isn't installed.
    """
    if isinstance(rule, ProbeExit) and rule.card.tasks == "tiny":
        return NUMBER
    require("calibrate", "math_verify")
    return MATH
