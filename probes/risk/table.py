"""The calibration table: what every recorded run would have done, had it exited at each of its cues.

The runs are flat arrays, and this file says what a threshold does to them. The statistics are in bounds.py and
threshold.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError

from .stopping import Stopping

Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

NO_EXIT = -1
"""Cue index of a run that doesn't exit."""

_RUN = {"full_right": np.bool_, "full_tokens": np.int32, "problem": np.int64, "domain": np.int32}
_CUE = {
    "positions": np.int32,
    "scores": np.float64,
    "right": np.bool_,
    "same": np.bool_,
    "exit_tokens": np.int32,
    "cue_name": np.int32,
    "labelled": np.bool_,
}
_TYPES = {"offsets": np.int64, **_RUN, **_CUE}
_MAY_MISS = frozenset({"domain", "labelled"})
"""Arrays that a file may leave out: every run in one domain, every cue labelled."""
_STORED = (*_TYPES, "graded")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a rule does to each run; every array has shape (runs,)."""

    cue: Ints
    """Index of the exit's cue in its run, or NO_EXIT."""
    harm: Bools
    """The exit's answer is wrong, and the full run's was right."""
    help: Bools
    """The exit's answer is right, and the full run's was wrong."""
    wrong: Bools
    """The run exits, and the exit's answer is wrong."""
    disagree: Bools
    """The run exits, and the exit's answer isn't the full run's."""
    tokens: Ints
    """The run's whole cost, in tokens."""

    @property
    def exited(self) -> Bools:
        """Shape (runs,): the run exits."""
        return np.asarray(self.cue != NO_EXIT)


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Recorded runs without any exit, and at every cue the answer that an exit there would have given.

    Arrays of other types, and sequences, are converted.

    Raises:
        ControllerError: The arrays don't fit together, or hold what no run can have.

    >>> table = Table(
    ...     offsets=[0, 2, 2], positions=[5, 9], scores=[0.4, 0.8], right=[False, True], same=[False, True],
    ...     exit_tokens=[8, 12], cue_name=[0, 0], full_right=[True, False], full_tokens=[20, 30], problem=[0, 1],
    ... )
    >>> table.first_exit(0.4).tolist(), table.first_exit(0.3).tolist()
    ([1, -1], [0, -1])
    >>> table.outcomes(table.first_exit(0.3)).harm.tolist()
    [True, False]
    """

    offsets: npt.NDArray[np.int64]
    """Shape (runs + 1,): the cues of run i are offsets[i] : offsets[i + 1], in order."""
    positions: Ints
    """Shape (cues,): tokens generated before the cue."""
    scores: Floats64
    """Shape (cues,): the signal's score at the cue."""
    right: Bools
    """Shape (cues,): the answer that an exit here would have given is right."""
    same: Bools
    """Shape (cues,): that answer equals the full run's."""
    exit_tokens: Ints
    """Shape (cues,): the run's whole cost in tokens if it exited here."""
    cue_name: Ints
    """Shape (cues,): index into the card's cues."""
    full_right: Bools
    """Shape (runs,): the full run's answer is right."""
    full_tokens: Ints
    """Shape (runs,): the run's cost in tokens without an exit."""
    problem: npt.NDArray[np.int64]
    """Shape (runs,): the run's problem, which is the unit of the promise."""
    domain: Ints = None  # type: ignore[assignment]  # filled in below
    """Shape (runs,): index of the problem's domain. None: 0 for every run."""
    labelled: Bools = None  # type: ignore[assignment]  # filled in below
    """Shape (cues,): an exit was tried here. Elsewhere `right`, `same` and `exit_tokens` mean nothing. None: all."""
    graded: bool = True
    """False: there were no gold answers, so `right` and `full_right` mean nothing."""
    stopping: Stopping | None = None
    """When collecting these runs could have stopped. None: their number was fixed before the first one."""

    def __post_init__(self) -> None:
        if self.domain is None:
            object.__setattr__(self, "domain", np.zeros(len(self.problem)))
        if self.labelled is None:
            object.__setattr__(self, "labelled", np.ones(len(self.scores)))
        for name, kind in _TYPES.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        offsets = self.offsets
        if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ControllerError("the calibration table is broken: its offsets must start at 0 and never fall")
        for names, length in ((_CUE, int(offsets[-1])), (_RUN, len(offsets) - 1)):
            for name in names:
                if getattr(self, name).shape != (length,):
                    raise ControllerError(
                        f"the calibration table is broken: {name} has shape {getattr(self, name).shape}, "
                        f"the offsets ask for ({length},)"
                    )
        if not np.isfinite(self.scores).all():
            raise ControllerError("the calibration table holds scores that are not finite; score its cues again")
        for name in ("positions", "exit_tokens", "cue_name", "full_tokens", "domain"):
            if (getattr(self, name) < 0).any():
                raise ControllerError(f"the calibration table is broken: {name} holds a negative number")
        if self.stopping is not None and self.stopping.runs > self.runs:
            raise ControllerError(
                f"the calibration table holds {self.runs} runs, its stopping design names {self.stopping.runs}"
            )

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.offsets) - 1

    @property
    def cues(self) -> int:
        """Number of cues, over all runs."""
        return int(self.offsets[-1])

    @cached_property
    def run_of(self) -> Ints:
        """The run of every cue, shape (cues,)."""
        return np.repeat(np.arange(self.runs), np.diff(self.offsets))

    @cached_property
    def cue_index(self) -> Ints:
        """Index of every cue in its run, 0-based, shape (cues,)."""
        return np.asarray(np.arange(self.cues) - self.offsets[:-1][self.run_of])

    @cached_property
    def _peaks(self) -> Ints:
        """Cues that score above all earlier ones of their run: no other can be a first exit."""
        order = np.unique(self.scores, return_inverse=True)[1] + self.run_of * (self.cues + 1)
        return np.flatnonzero(np.diff(np.maximum.accumulate(order), prepend=-1))

    @cached_property
    def all_labelled(self) -> bool:
        """Whether an exit was tried at every cue."""
        return bool(self.labelled.all())

    def need_all_labels(self, what: str) -> None:
        """Raise ControllerError unless an exit was tried at every cue. what: who asks, for the message."""
        if not self.all_labelled:
            raise ControllerError(
                f"{what} needs the answer of an exit at every cue, and exits were tried at {int(self.labelled.sum())} "
                f"of {self.cues} cues: not collected; calibrate with --labels all"
            )

    def first_exit(self, threshold: float) -> Ints:
        """Shape (runs,): index of each run's first cue with score > threshold (strictly), or NO_EXIT."""
        return self._first(self._peaks[self.scores[self._peaks] > threshold])

    def first_where(self, at: Bools) -> Ints:
        """Shape (runs,): index of each run's first cue where `at`, of shape (cues,), is true, or NO_EXIT."""
        return self._first(np.flatnonzero(at))

    def first_of(self, threshold: float, low: Bools) -> tuple[Ints, Bools]:
        """Two rules at once: exit at score > threshold, give up where `low`, of shape (cues,), is true.

        Returns:
            The first cue where either fires, and whether the run gives up there; both have shape (runs,). A cue where
            both fire is an exit.
        """
        high = self.scores > threshold
        first = self.first_where(high | low)
        gave_up = first != NO_EXIT
        gave_up[gave_up] = ~high[self.offsets[:-1][gave_up] + first[gave_up]]
        return first, gave_up

    def sum_at_exits(self, thresholds: npt.ArrayLike, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Shape (len(thresholds),): the sum of `values`, of shape (cues,), over the first exits at each threshold.

        Raises:
            ControllerError: A first exit above one of them, or between them, wasn't tried.
        """
        if not self.all_labelled and np.size(thresholds):
            untried = self._peaks[~self.labelled[self._peaks]]
            if (self.scores[untried] > np.min(thresholds)).any():
                self.need_all_labels(f"a threshold of {float(np.min(thresholds)):.4g}")
        sums = []
        for cues, edges in self._ranges:
            sums.append(
                np.concatenate([[0], np.cumsum(values[cues])])[np.searchsorted(edges, thresholds, side="right")]
            )
        return np.asarray(sums[0] - sums[1])

    @cached_property
    def _ranges(self) -> tuple[tuple[Ints, Floats64], tuple[Ints, Floats64]]:
        """Where the thresholds that stop at each peak start, and where they end: (cues, edges), by rising edge.

        A peak is its run's first exit for the thresholds from the peak before it up to its own score.
        """
        ends = self.scores[self._peaks]
        starts = np.concatenate([[-np.inf], ends])[:-1]
        starts[np.diff(self.run_of[self._peaks], prepend=-1) != 0] = -np.inf
        first, last = np.argsort(starts), np.argsort(ends)
        return (self._peaks[first], starts[first]), (self._peaks[last], ends[last])

    def _first(self, hits: Ints) -> Ints:
        """Shape (runs,): each run's first cue among `hits`, as its index in the run, or NO_EXIT.

        Args:
            hits: Cues of all runs, in ascending order.
        """
        runs = self.run_of[hits]
        first = np.ones(len(hits), dtype=bool)
        first[1:] = runs[1:] != runs[:-1]
        exits = np.full(self.runs, NO_EXIT)
        exits[runs[first]] = self.cue_index[hits[first]]
        return exits

    def outcomes(self, exits: Ints) -> Outcomes:
        """What becomes of the runs if run i exits at its cue `exits[i]` (NO_EXIT: it runs on).

        Raises:
            ControllerError: One of these exits wasn't tried.
        """
        exited = np.asarray(exits) != NO_EXIT
        if self.cues == 0:
            right = same = np.zeros(self.runs, dtype=bool)
            tokens = self.full_tokens
        else:
            at = np.where(exited, self.offsets[:-1] + exits, 0)
            if not self.labelled[at[exited]].all():
                self.need_all_labels("this rule")
            right, same = self.right[at], self.same[at]
            tokens = np.where(exited, self.exit_tokens[at], self.full_tokens)
        wrong = exited & ~right
        return Outcomes(
            np.asarray(exits), wrong & self.full_right, exited & right & ~self.full_right, wrong, exited & ~same, tokens
        )

    def highest(self, at: Bools) -> Floats64:
        """Shape (runs,): each run's highest score among its cues where `at` is true, -inf if there is none."""
        highest = np.full(self.runs, -np.inf)
        np.maximum.at(highest, self.run_of[at], self.scores[at])
        return highest

    def with_scores(self, scores: npt.NDArray[Any]) -> Table:
        """The same runs under other scores, shape (cues,)."""
        return replace(self, scores=scores)

    def with_labels(self, labelled: Bools) -> Table:
        """The same runs with exits said to be tried at other cues, shape (cues,)."""
        return replace(self, labelled=labelled)

    def select(self, runs: npt.ArrayLike) -> Table:
        """The runs with these indices, in this order; they must rise where the table has a stopping design."""
        chosen = np.asarray(runs, dtype=np.int64)
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        cues = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        per_run = {name: getattr(self, name)[chosen] for name in _RUN}
        per_cue = {name: getattr(self, name)[cues] for name in _CUE}
        stopping = None if self.stopping is None else self.stopping.among(chosen)
        return Table(offsets=offsets, graded=self.graded, stopping=stopping, **per_run, **per_cue)

    def in_domain(self, domain: int) -> Table:
        """The runs of one domain. A domain without runs gives an empty table, which promises nothing."""
        return self.select(np.flatnonzero(self.domain == domain))

    def one_per_problem(self) -> Table:
        """The first run of every problem: runs of one problem are no independent evidence."""
        return self.select(np.sort(np.unique(self.problem, return_index=True)[1]))

    def analysed(self) -> Table:
        """The runs up to the last analysis of the stopping design, all of them without one: what promises count."""
        return self if self.stopping is None else self.select(np.arange(self.stopping.runs))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The table as named arrays, for the probe file; the stopping design is in the card.

        `labelled` is left out where it is true of every cue.
        """
        names = [name for name in _STORED if name != "labelled" or not self.all_labelled]
        return {name: np.asarray(getattr(self, name)) for name in names}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Table:
        """The inverse of `arrays`.

        Args:
            arrays: The arrays by name; `domain` and `labelled` may be missing.

        Raises:
            ControllerError: An array is missing, foreign or of another type, or the arrays don't fit together.
        """
        if set(arrays) | _MAY_MISS != set(_STORED):
            different = sorted(set(_STORED) ^ (set(arrays) | _MAY_MISS))
            raise ControllerError(f"the calibration table is broken: arrays differ by {different}")
        check_types(arrays)
        graded = arrays["graded"]
        if graded.dtype != np.bool_ or graded.size != 1:
            raise ControllerError("the calibration table is broken: graded is no single true or false")
        values: dict[str, Any] = {**arrays, "graded": bool(graded.item())}
        return cls(**values)


def check_types(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check that a table's arrays have their types; a conversion would round numbers that aren't whole.

    Raises:
        ControllerError: An array has another type.
    """
    for name, kind in _TYPES.items():
        if name in arrays and arrays[name].dtype != kind:
            raise ControllerError(
                f"the calibration table is broken: {name} holds {arrays[name].dtype}, it must hold {np.dtype(kind)}"
            )
