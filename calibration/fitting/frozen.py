"""What the fitting runs decide, frozen before the first calibration run: cues, probe, grids and the floor.

The plan is one line of the file of runs. A job that goes on reads it back and computes none of it again, so that no
calibration run, and no second job, can have a part in it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError, Cues, ExitForm
from reasonctl.controller.core import Fields
from reasonctl.controller.thinking import parse_form
from reasonctl.probes import LowerGrid, Probe, Promise
from reasonctl.probes.files import Scalar
from reasonctl.probes.risk import MODES, Grid, Mode
from reasonctl.probes.signals import Stack

from ..runs.records import MOST

Arrays = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Frozen:
    """Everything that could be chosen by looking at runs, as the fitting runs alone chose it."""

    cues: tuple[str, ...]
    """The cues at which the rule is asked."""
    mode: Mode
    """The failure that the probe learned to foresee."""
    risk: float
    """The risk that the floor was chosen for."""
    probe: Probe
    """The probe."""
    grids: Mapping[str, Grid]
    """Every signal's candidate thresholds, `hidden` first; the others where an exit is tried at every cue."""
    stack: Stack | None
    """The stack. None: it could not be fitted, or no trial will feed it."""
    lower: LowerGrid | None
    """Curves for giving up. None: there are no gold answers, or exits are tried at records only."""
    report: Mapping[str, Scalar]
    """The figures of the probe's fit, for the card."""
    form: ExitForm = "replace"
    """What becomes of the cue on the exits that are tried."""

    @property
    def floor(self) -> float | None:
        """The loosest threshold that calibration runs can tell of. None: any, as exits are tried at every cue."""
        grid = self.grids["hidden"]
        return grid.loosest if grid.floored else None

    def check(self, cues: Sequence[str] | None, promise: Promise, form: ExitForm) -> None:
        """Raise ControllerError unless the plan is for these cues (None: it chose them), this mode and this form."""
        if (cues is not None and tuple(cues) != self.cues) or promise.mode != self.mode or form != self.form:
            raise ControllerError(
                f"these runs were planned for the cues {', '.join(self.cues)}, mode {self.mode} and exits of the form "
                f"{self.form}, from their fitting runs, and another plan needs other runs; give these, or another --out"
            )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; the same plan gives the same bytes."""
        arrays = {f"probe.{name}": array for name, array in self.probe.arrays().items()}
        for name, grid in self.grids.items():
            arrays |= {f"grid {name}.thresholds": grid.thresholds, f"grid {name}.exits": grid.exits}
        if self.stack is not None:
            arrays |= {f"stack.{name}": array for name, array in self.stack.arrays().items()}
        if self.lower is not None:
            arrays |= {"lower.c": np.array([self.lower.c]), "lower.starts": self.lower.starts}
        chosen = {} if self.form == "replace" else {"form": self.form}  # plans from before there was a choice lack it
        return {
            **chosen,
            "cues": list(self.cues),
            "mode": self.mode,
            "risk": self.risk,
            "floor": self.floor,
            "report": dict(self.report),
            "arrays": {name: _packed(array) for name, array in arrays.items()},
        }

    @classmethod
    def from_json(cls, found: Fields) -> Frozen:
        """The inverse of `to_json`; ControllerError for anything but a plan."""
        try:
            return cls._from_json(found)
        except ControllerError as error:
            raise ControllerError(
                f"{error!s:.300}; the plan was changed: move the runs away, and collect again"
            ) from None

    @classmethod
    def _from_json(cls, found: Fields) -> Frozen:
        found.only(["cues", "mode", "risk", "floor", "report", "arrays", *(["form"] if "form" in found else [])])
        packed, report = found.inner("arrays"), found.inner("report")
        groups: dict[str, Arrays] = {}
        for name in packed.values:
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = _unpacked(packed.inner(name))
        mode = found.text("mode")
        if mode not in MODES:
            found.refuse("mode", f"one of {', '.join(MODES)}")
        stack, lower = groups.pop("stack", None), groups.pop("lower", None)
        probe = Probe.from_arrays(groups.pop("probe", {}))
        floor = found.number_or_null("floor")
        grids = {name.removeprefix("grid "): _grid(name, arrays, floor is not None) for name, arrays in groups.items()}
        if "hidden" not in grids or floor not in (None, grids["hidden"].loosest):
            raise ControllerError(f"{found.where} has no grid down to its floor")
        report.number("auc")
        Cues(found.texts("cues"))
        return cls(
            tuple(found.texts("cues")),
            mode,
            found.number("risk", 0.0, 1.0),
            probe,
            dict(sorted(grids.items(), key=lambda one: one[0] != "hidden")),
            None if stack is None else Stack.from_arrays(stack),
            None if lower is None else _lower(lower),
            _scalars(report),
            parse_form(found.text("form")) if "form" in found else "replace",
        )


def _packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    values = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(values.shape), "float64": base64.b64encode(values.tobytes()).decode("ascii")}


def _unpacked(found: Fields) -> npt.NDArray[np.float64]:
    found.only(["shape", "float64"])
    shape = found.items("shape", 2)
    try:
        values = np.frombuffer(base64.b64decode(found.text("float64"), validate=True), dtype="<f8")
    except ValueError:  # no base64, or bytes that are no whole numbers
        raise ControllerError(f"'float64' in {found.where} is no base64 of float64 numbers") from None
    whole = all(type(size) is int and 0 <= size <= MOST for size in shape)
    if not whole or prod(shape) != len(values) or not np.isfinite(values).all():
        raise ControllerError(f"{found.where} doesn't have its shape, or holds NaN or infinite values")
    return values.reshape(shape)


def _grid(name: str, arrays: Arrays, floored: bool) -> Grid:
    if not name.startswith("grid ") or set(arrays) != {"thresholds", "exits"}:
        raise ControllerError(f"the plan holds {name!r:.60} of {sorted(arrays)!s:.80}, which no plan has")
    return Grid(arrays["thresholds"], arrays["exits"], floored)


def _lower(arrays: Arrays) -> LowerGrid:
    if set(arrays) != {"c", "starts"} or arrays["c"].shape != (1,):
        raise ControllerError(f"the plan's lower grid holds {sorted(arrays)!s:.80}; it needs c and starts")
    return LowerGrid(float(arrays["c"][0]), arrays["starts"])


def _scalars(report: Fields) -> dict[str, Scalar]:
    for name, value in report.values.items():
        if isinstance(value, list | dict):
            report.refuse(name, "a number or a text")
    return dict(report.values)
