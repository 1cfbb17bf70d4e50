"""Do users call runs with an exit wrong more often than others? A warning; no promise and no alarm depends on it.

Users choose of which runs they speak, so their verdicts say nothing of all runs. What can be asked is whether the
verdicts on exited runs are worse than those on the others: Fisher's exact test, one-sided, given how many verdicts each
kind of run has and how many of all say "wrong". It is made at 20 verdicts, 40, 80 and so on; the k-th test has
LEVEL / 2^k of the error. So if a verdict doesn't depend on whether the run was exited, the warning is ever raised with
probability LEVEL at most.
"""

from __future__ import annotations

LEVEL = 0.01
"""Largest probability of a false warning, ever."""
FIRST = 20
"""Verdicts at the first test."""


def turn_of(verdicts: int) -> int:
    """The number of the test that is made at so many verdicts; 0: none is.

    >>> [turn_of(n) for n in (19, 20, 21, 40, 80)]
    [0, 1, 0, 2, 3]
    """
    doublings, rest = divmod(verdicts, FIRST)
    return doublings.bit_length() if rest == 0 and doublings and doublings & (doublings - 1) == 0 else 0


def exits_fare_worse(exited_right: int, exited_wrong: int, full_right: int, full_wrong: int) -> bool:
    """Whether the test that is made now, if there is one, finds exited runs called wrong more often.

    Args:
        exited_right: Runs with an exit that users called right.
        exited_wrong: Runs with an exit that they called wrong.
        full_right: Other runs that they called right.
        full_wrong: Other runs that they called wrong.

    >>> exits_fare_worse(3, 7, 10, 0), exits_fare_worse(8, 2, 9, 1)
    (True, False)
    """
    exited, wrong = exited_right + exited_wrong, exited_wrong + full_wrong
    verdicts = exited + full_right + full_wrong
    test = turn_of(verdicts)
    if not test:
        return False
    from scipy.stats import hypergeom

    return float(hypergeom.sf(exited_wrong - 1, verdicts, wrong, exited)) <= LEVEL * 2.0**-test
