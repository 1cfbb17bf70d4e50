"""No client has more than its share of the runs that a promise stands on, so that none can steer its threshold.

Runs are used together: the fitting runs, and the calibration runs up to each analysis. Of every such group a
client may have a share. One that has it waits until the next group; one that asks most often can't keep others out.
Clients are known by names. Where nobody has one there is one client, and no limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from reasonctl.controller import ControllerError
from reasonctl.probes.risk import following

CLIENT_SHARE = 0.25
"""Largest share of such runs that one client may have."""


def runs_with(number: int, fit: int, first: int) -> tuple[int, int]:
    """The numbers of the runs that are first used together with a run: from the first one, up to the second.

    Args:
        number: The run's number in its promise.
        fit: The first so many runs fit.
        first: Calibration runs at the first analysis.

    >>> runs_with(99, 100, 36), runs_with(100, 100, 36), runs_with(136, 100, 36)
    ((0, 100), (100, 136), (100, 145))
    """
    if number < fit:
        return 0, fit
    runs = first
    while fit + runs <= number:
        runs = following(runs)
    return fit, fit + runs


def most_of(share: float, runs: int) -> int:
    """Runs that one client may have of so many: its share, rounded up to a whole run."""
    return math.ceil(share * runs - 1e-9)


def has_its_share(name: str, counts: Mapping[str, int], share: float, runs: int) -> bool:
    """Whether a client may have no further run of those that are used together.

    Args:
        name: The client.
        counts: Each client's runs by its name; "" has those of nobody in particular.
        share: The largest share.
        runs: Runs that are used together.

    >>> has_its_share("a", {"a": 25}, 0.25, 100), has_its_share("b", {"a": 25}, 0.25, 100)
    (True, False)
    """
    return any({name, *counts}) and counts.get(name, 0) >= most_of(share, runs)


def one_has_too_many(counts: Mapping[str, int], share: float, runs: int) -> bool:
    """Whether a client has more than its share of so many runs.

    Args:
        counts: As above.
        share: The largest share.
        runs: Runs that are used together.

    >>> one_has_too_many({"a": 25, "b": 11}, 0.25, 100), one_has_too_many({"a": 26}, 0.25, 100)
    (False, True)
    >>> one_has_too_many({"": 100}, 0.25, 100)  # clients have no names
    False
    """
    return any(counts) and max(counts.values()) > most_of(share, runs)


def share_of_keys(keys: int, share: float) -> float:
    """The largest share of one client where so many have names.

    Args:
        keys: Clients that have names.
        share: The share that is asked for.

    Raises:
        ControllerError: All of them together would never have the runs of a promise.
    """
    if keys * share < 1:
        raise ControllerError(
            f"there are {keys} keys, and one may have {share:g} of a promise's runs, so no promise would ever come; "
            f"give --client-share {math.ceil(100 / keys) / 100:g} or more, or 1 if all keys are one person's"
        )
    return share
