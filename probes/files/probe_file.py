"""The probe file: one sealed .safetensors with the probe, its grids, its calibration table and a card.

This file says what a probe file holds. sealed.py writes and checks it; card.py is the card.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reasonctl.controller import ControllerError

from ..risk.give_up import LowerGrid
from ..risk.table import Table, check_types
from ..risk.threshold import Grid
from ..signals.probe import Probe
from ..signals.signals import Signal, Stack, make_signal
from .card import Card
from .sealed import Sealed, Tensors, check_floats, check_target

SEALED = Sealed("reasonctl", 2, "probe file", "ctl calibrate")


@dataclass(frozen=True, eq=False)
class SignalTable:
    """The calibration runs under one signal."""

    grid: Grid
    """The signal's candidate thresholds."""
    table: Table
    """The runs with the signal's scores and the cost of its trials."""


@dataclass(frozen=True, eq=False)
class ProbeFile:
    """Everything that one probe file holds. Its tables carry the stopping design of the card, whatever they had."""

    probe: Probe
    """The probe."""
    grid: Grid
    """Candidate thresholds of the signal `hidden`."""
    table: Table
    """The calibration runs under the signal `hidden`."""
    card: Card
    """What the promise was made for."""
    others: Mapping[str, SignalTable] = field(default_factory=dict)
    """The calibration runs under every other signal, by its name."""
    stack: Stack | None = None
    """The stack's weights. None: it could not be fitted."""
    lower: LowerGrid | None = None
    """Candidate curves for giving up. None: there were no gold answers."""

    def signal_table(self, signal: str, domain: str | None = None) -> SignalTable:
        """The calibration runs under a signal, all of them or those of one domain.

        Raises:
            ControllerError: The file has no such signal or domain.
        """
        found = SignalTable(self.grid, self.table) if signal == "hidden" else self.others.get(signal)
        if found is None:
            known = ", ".join(["hidden", *sorted(self.others)])
            why = "" if self.card.labels == "all" else ": the others were not collected; calibrate with --labels all"
            raise ControllerError(f"this probe file has no signal {signal!r}; it has {known}{why}")
        return found if domain is None else replace(found, table=found.table.in_domain(self.domain_index(domain)))

    def domain_index(self, domain: str) -> int:
        """The number by which the table names a domain.

        Raises:
            ControllerError: The probe wasn't calibrated on the domain.
        """
        if domain not in self.card.domains:
            known = ", ".join(map(repr, self.card.domains))
            raise ControllerError(f"domain is {domain!r}; this probe was calibrated on {known}")
        return self.card.domains.index(domain)

    def signal(self, name: str) -> Signal:
        """The signal of a name, ready to score cues.

        Raises:
            ControllerError: The file has no such signal.
        """
        self.signal_table(name)
        return make_signal(name, self.stack)

    def __post_init__(self) -> None:
        stopping = self.card.stopping
        others = {name: replace(one, table=replace(one.table, stopping=stopping)) for name, one in self.others.items()}
        object.__setattr__(self, "table", replace(self.table, stopping=stopping))
        object.__setattr__(self, "others", others)
        expected = len(self.card.layers) * self.card.width
        if self.probe.size != expected:
            raise ControllerError(
                f"the probe reads {self.probe.size} features, the card says {len(self.card.layers)} layers of width "
                f"{self.card.width}: {expected}"
            )
        records = self.card.labels == "records"
        if records != self.grid.floored or (records and (self.others or self.lower is not None)):
            raise ControllerError("the file's labels and its signals don't fit together. Make it again: ctl calibrate")
        if not (records or self.table.all_labelled):
            raise ControllerError("the table lacks answers that the file's signals need. Make it again: ctl calibrate")
        if "hidden" in self.others or ("stack" in self.others) != (self.stack is not None):
            raise ControllerError("the file's signals don't fit together. Make it again: ctl calibrate")
        for what, used, names in (
            ("cue", self.table.cue_name, self.card.cues),
            ("domain", self.table.domain, self.card.domains),
        ):
            named = int(used.max(initial=-1))
            if named >= len(names):
                raise ControllerError(f"the table names {what} {named}; the card has {len(names)} {what}s")


def save_probe(path: str | os.PathLike[str], content: ProbeFile, *, force: bool = False) -> None:
    """Write the file whole or not at all; the same content gives the same bytes.

    Args:
        path: The file.
        content: What is written.
        force: Whether an existing file may be replaced.

    Raises:
        ControllerError: The place is taken or can't be written; what was there before stays.
    """
    check_target(path, force)
    SEALED.save(path, _tensors(content), content.card.to_dict())


def load_probe(path: str | os.PathLike[str]) -> ProbeFile:
    """Read and verify a file.

    Raises:
        ControllerError: The file is missing, truncated, changed, or no probe file.
    """
    return SEALED.load(path, _content)


def is_probe(path: str | os.PathLike[str]) -> bool:
    """Whether a file can be read and has a probe's card. It need not be whole."""
    return SEALED.holds(path)


def digest_of(content: ProbeFile) -> str:
    """The sha256 that a file of this content carries: tells probes apart, and one from its own older version."""
    return SEALED.digest(_tensors(content), content.card.to_dict())


_OWN = ("scores", "exit_tokens", "full_tokens")
"""What a signal changes in the table; everything else is stored once."""


def _tensors(content: ProbeFile) -> Tensors:
    groups = {"probe": content.probe.arrays(), "grid": _grid_arrays(content.grid), "table": content.table.arrays()}
    for name, calibrated in content.others.items():
        own = {key: getattr(calibrated.table, key) for key in _OWN}
        groups[f"signal {name}"] = {**own, **_grid_arrays(calibrated.grid)}
    if content.stack is not None:
        groups["stack"] = content.stack.arrays()
    if content.lower is not None:
        groups["lower"] = {"c": np.array([content.lower.c]), "starts": content.lower.starts}
    return {f"{group}.{name}": array for group, named in groups.items() for name, array in named.items()}


def _grid_arrays(grid: Grid) -> Tensors:
    return {"thresholds": grid.thresholds, "exits": grid.exits}


def _content(tensors: Tensors, values: dict[str, Any]) -> ProbeFile:
    card = Card.from_dict(values)
    groups: dict[str, Tensors] = {"probe": {}, "grid": {}, "table": {}, "stack": {}, "lower": {}}
    others: dict[str, Tensors] = {}
    for name, array in tensors.items():
        group, _, rest = name.partition(".")
        kind, _, signal = group.partition(" ")
        if kind == "signal" and signal:
            others.setdefault(signal, {})[rest] = array
        elif group in groups:
            groups[group][rest] = array
        else:
            raise ControllerError(f"it holds a tensor {name!r:.80} that no probe has")
    for group in ("probe", "grid", "stack", "lower"):
        check_floats(groups[group])
    table = Table.from_arrays(groups["table"])
    stack = Stack.from_arrays(groups["stack"]) if groups["stack"] else None
    signals = {name: _signal_table(name, arrays, table) for name, arrays in others.items()}
    probe, grid = Probe.from_arrays(groups["probe"]), _grid("grid", groups["grid"], floored=card.labels == "records")
    return ProbeFile(probe, grid, table, card, signals, stack, _lower(groups["lower"]))


def _lower(arrays: Tensors) -> LowerGrid | None:
    if not arrays:
        return None
    if set(arrays) != {"c", "starts"} or arrays["c"].shape != (1,):
        raise ControllerError(f"its lower grid holds {sorted(arrays)}; it needs c and starts")
    return LowerGrid(float(arrays["c"][0]), arrays["starts"])


def _signal_table(name: str, arrays: Tensors, table: Table) -> SignalTable:
    rest = {key: array for key, array in arrays.items() if key not in _OWN}
    if any(key not in arrays for key in _OWN):
        raise ControllerError(f"its signal {name!r} lacks arrays. Make it again: ctl calibrate")
    own: dict[str, Any] = {key: arrays[key] for key in _OWN}
    check_types(own)
    check_floats(rest)
    return SignalTable(_grid(f"signal {name!r}", rest), replace(table, **own))


def _grid(what: str, arrays: Tensors, *, floored: bool = False) -> Grid:
    if set(arrays) != {"thresholds", "exits"}:
        raise ControllerError(f"its {what} holds {sorted(arrays)}; it needs exits and thresholds")
    return Grid(arrays["thresholds"], arrays["exits"], floored)
