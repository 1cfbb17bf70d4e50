"""What `ctl eval --json` wrote, read back whole or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, parse, read_bytes
from reasonctl.probes.risk import check_request

MOST_BYTES = 1 << 26
"""Largest file that is read."""
MOST_RUNS = 1 << 40
"""Largest count."""
LARGEST = 1e15
"""Largest mean of tokens or seconds."""


def read_evaluation(path: Path) -> dict[str, Any]:
    """The object on the file's last line.

    Raises:
        ControllerError: The file can't be read, or holds anything else.
    """
    try:
        last = read_bytes(path, "what ctl eval --json wrote", MOST_BYTES).rstrip().rpartition(b"\n")[2]
        found = Fields.of(parse(last, f"the last line of {str(path)!r}"), f"the evaluation {str(path)!r}")
        _check_asked(found)
        _check_measured(found)
        for row in found.items("baselines") if "baselines" in found else []:
            _check_rule(Fields.of(row, f"a row of 'baselines' in {found.where}"))
    except ControllerError as error:
        raise ControllerError(
            f"{error}; give the result of this version's ctl eval: ctl eval ... --json > E.json"
        ) from None
    return found.values


def _check_asked(found: Fields) -> None:
    """What was asked for, and of which model."""
    check_request(found.text("mode"), found.number("risk"), found.number_or_null("confidence"))
    found.number_or_null("give_up", 0.0, 1.0)
    found.whole("seed", -MOST_RUNS, MOST_RUNS)
    for name in ("probe", "signal", "model", "backend", "tasks"):
        found.text(name)
    if found.values.get("domain", "") is not None:
        found.text("domain")
    guarantee = found.inner("guarantee")
    guarantee.flag("holds")
    guarantee.texts("why_not")


def _check_measured(found: Fields) -> None:
    """What the runs showed; where nothing was graded, accuracy, harm and help are null."""
    found.whole("n", 0, MOST_RUNS)
    failure = found.inner("failure")
    failure.whole("count", 0, failure.whole("n", 0, MOST_RUNS))
    failure.number("upper", 0.0, 1.0)
    graded = "harm" not in found or found.values["harm"] is not None
    if graded:
        found.inner("harm").whole("count", 0, MOST_RUNS)
        found.inner("help").whole("count", 0, MOST_RUNS)
    for name in ("baseline", "controlled"):
        arm = found.inner(name)
        arm.number("tokens", 0.0, LARGEST)
        arm.number("seconds", 0.0, LARGEST)
        if graded:
            arm.number("accuracy", 0.0, 1.0)


def _check_rule(row: Fields) -> None:
    """A rule beside the probe's; a row without `harm` holds a curve, which isn't read."""
    row.text("name")
    row.number("saved", -LARGEST, LARGEST)
    if "harm" in row:
        for name in ("failed", "exit_rate"):
            row.number(name, 0.0, 1.0)
        for name in ("harm", "accuracy"):
            row.number_or_null(name, 0.0, 1.0)
