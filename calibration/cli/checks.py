"""What `ctl calibrate` refuses before any work: promises that its runs could not keep."""

from __future__ import annotations

from reasonctl.controller import ControllerError
from reasonctl.probes.risk import first_analysis

from ..runs.trials import Labels
from ..tasks.problem import Problem
from .options import Options


def check_labels(options: Options, labels: Labels) -> None:
    """Raise ControllerError if the promise needs trials at cues where none would be run."""
    if labels == "records":
        for name, needs in (
            ("--mode event", options.mode == "event"),
            (f"--signal {options.signal}", options.signal != "hidden"),
            ("--give-up", options.give_up is not None),
        ):
            if needs:
                raise ControllerError(
                    f"{name} reads the answer of an exit at every cue, and by default exits are tried only at cues "
                    "that a threshold can choose; add --labels all"
                )


def check_give_up(options: Options) -> None:
    """Raise ControllerError if the rule is to give up where no promise covers that."""
    if options.give_up is not None and (options.mode != "harm" or options.signal != "hidden"):
        raise ControllerError(
            f"--give-up is for --mode harm and --signal hidden, not --mode {options.mode} and --signal "
            f"{options.signal}; leave it off"
        )


def check_until(options: Options) -> int:
    """Calibration runs at the first analysis of a job that stops when its promise stands.

    Raises:
        ControllerError: The promise can't hold wherever collecting stops.
    """
    if options.confidence is None or options.mode == "event":
        asked = "--mode event" if options.mode == "event" else "--confidence marginal"
        raise ControllerError(
            f"{asked} needs a fixed number of runs, and --until promised makes as many as it takes; leave one of them "
            "off"
        )
    return first_analysis(options.risk, options.confidence)


def check_domain(options: Options, problems: list[Problem]) -> None:
    """Raise ControllerError if no problem is of the domain that the promise is asked for."""
    known = sorted({problem.domain for problem in problems})
    if options.domain is not None and options.domain not in known:
        raise ControllerError(f"--domain is {options.domain!r}; the problems are of {', '.join(map(repr, known))}")
