"""The probe file: one .safetensors with the probe, its grids, its calibration table and a card. No pickle.

Owns what makes a file whole; what the card says is card.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack

from ..controller import ControllerError
from .card import Card
from .giveup import LowerGrid
from .probe import Probe
from .risk import Grid
from .signals import Signal, Stack, make_signal
from .table import Table

FORMAT = 2
_KEY = "reasonctl"
_CHUNK = 1 << 20

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Judged:
    """The calibration runs under one signal: its grid, and the table with its scores and the cost of its trials."""

    grid: Grid
    table: Table


@dataclass(frozen=True, eq=False)
class ProbeFile:
    """Everything that one probe file holds.

    grid, table: of the signal `hidden`; others: of the other signals. lower: candidate curves for giving up.
    """

    probe: Probe
    grid: Grid
    table: Table
    card: Card
    others: Mapping[str, Judged] = field(default_factory=dict)
    stack: Stack | None = None
    lower: LowerGrid | None = None

    def judged(self, signal: str) -> Judged:
        """Grid and table of a signal; ControllerError if the file has none for it."""
        if signal == "hidden":
            return Judged(self.grid, self.table)
        if signal not in self.others:
            known = ", ".join(["hidden", *sorted(self.others)])
            raise ControllerError(f"this probe file has no signal {signal!r}; it has {known}")
        return self.others[signal]

    def signal(self, name: str) -> Signal:
        """A signal of this file by name."""
        self.judged(name)
        return make_signal(name, self.stack)

    def __post_init__(self) -> None:
        expected = len(self.card.layers) * self.card.width
        if self.probe.size != expected:
            raise ControllerError(
                f"the probe reads {self.probe.size} features, the card says {len(self.card.layers)} layers of width "
                f"{self.card.width}: {expected}"
            )
        if "hidden" in self.others or ("stack" in self.others) != (self.stack is not None):
            raise ControllerError("the file's signals don't fit together. Make it again: ctl calibrate")
        named = int(self.table.cue_name.max(initial=-1))
        if named >= len(self.card.cues):
            raise ControllerError(f"the table names cue {named}; the card has {len(self.card.cues)} cues")


def check_target(path: str | os.PathLike[str], force: bool) -> None:
    """Raise ControllerError if a probe file can't be put at `path`; ask before the work, not after it."""
    target = Path(path)
    if target.is_dir():
        raise ControllerError(f"{target} is a folder; give a file name such as {target / 'my.probe.safetensors'}")
    if target.exists() and not force:
        raise ControllerError(f"{target} exists already; overwrite it with --force (force=True) or give another name")
    if not target.parent.is_dir():
        raise ControllerError(f"{target.parent} is no folder; make it first")


def save_probe(path: str | os.PathLike[str], content: ProbeFile, *, force: bool = False) -> None:
    """Write the file whole or not at all; the same content gives the same bytes.

    Raises ControllerError where the place is taken or can't be written; what was there before stays.
    """
    check_target(path, force)
    tensors = _tensors(content)
    card = asdict(content.card)
    header = _canonical({"card": card, "format": FORMAT, "sha256": _digest(tensors, card)})
    _write(Path(os.path.realpath(path)), pack(tensors, metadata={_KEY: header}))


def load_probe(path: str | os.PathLike[str]) -> ProbeFile:
    """Read and verify a file; raises ControllerError where it is missing, foreign, truncated or changed."""
    if Path(path).is_dir():
        raise ControllerError(f"{path} is a folder; give the .safetensors file in it")
    try:
        with safe_open(os.fspath(path), framework="np") as opened:
            header = (opened.metadata() or {}).get(_KEY)
            if header is None:
                raise ControllerError(f"{path} is no probe file: it has no reasonctl card. Make one: ctl calibrate")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"truncated or no safetensors file ({error})"
        raise ControllerError(f"{path} can't be read as a probe file: {reason}".splitlines()[0]) from None
    try:
        return _verified(tensors, header)
    except ControllerError as error:
        raise ControllerError(f"{path}: {error}") from None


_OWN = ("scores", "exit_tokens", "full_tokens")
"""What a signal changes in the table; everything else is stored once."""


def _tensors(content: ProbeFile) -> Tensors:
    groups = {"probe": content.probe.arrays(), "grid": _grid_arrays(content.grid), "table": content.table.arrays()}
    for name, judged in content.others.items():
        own = {key: getattr(judged.table, key) for key in _OWN}
        groups[f"signal {name}"] = {**own, **_grid_arrays(judged.grid)}
    if content.stack is not None:
        groups["stack"] = content.stack.arrays()
    if content.lower is not None:
        groups["lower"] = {"c": np.array([content.lower.c]), "starts": content.lower.starts}
    pairs = ((f"{group}.{name}", array) for group, named in groups.items() for name, array in named.items())
    return {name: np.ascontiguousarray(array) for name, array in pairs}


def _grid_arrays(grid: Grid) -> Tensors:
    return {"thresholds": grid.thresholds, "exits": grid.exits}


def _verified(tensors: Tensors, header: str) -> ProbeFile:
    try:
        parsed = json.loads(header)
        version, digest, card = parsed["format"], parsed["sha256"], parsed["card"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ControllerError("its card is broken; the file was changed. Make it again: ctl calibrate") from None
    if version != FORMAT:
        raise ControllerError(f"it has format {version!r}, this reasonctl reads {FORMAT}; upgrade, or calibrate again")
    if digest != _digest(tensors, card):
        raise ControllerError("hash mismatch: tensors or card were changed since. Make it again: ctl calibrate")
    if not isinstance(card, dict):
        raise ControllerError("its card is no JSON object. Make it again: ctl calibrate")
    return _content(tensors, Card.from_dict(card))


def _content(tensors: Tensors, card: Card) -> ProbeFile:
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
            raise ControllerError(f"it holds a tensor {name!r} that no probe has")
    table = Table.from_arrays(groups["table"])
    stack = Stack.from_arrays(groups["stack"]) if groups["stack"] else None
    judged = {name: _judged(name, arrays, table) for name, arrays in others.items()}
    probe, grid = Probe.from_arrays(groups["probe"]), _grid("grid", groups["grid"])
    return ProbeFile(probe, grid, table, card, judged, stack, _lower(groups["lower"]))


def _lower(arrays: Tensors) -> LowerGrid | None:
    if not arrays:
        return None
    if set(arrays) != {"c", "starts"} or arrays["c"].shape != (1,):
        raise ControllerError(f"its lower grid holds {sorted(arrays)}; it needs c and starts")
    return LowerGrid(float(arrays["c"][0]), arrays["starts"])


def _judged(name: str, arrays: Tensors, table: Table) -> Judged:
    rest = {key: array for key, array in arrays.items() if key not in _OWN}
    if any(key not in arrays for key in _OWN):
        raise ControllerError(f"its signal {name!r} lacks arrays. Make it again: ctl calibrate")
    own: dict[str, Any] = {key: arrays[key] for key in _OWN}
    return Judged(_grid(f"signal {name!r}", rest), replace(table, **own))


def _grid(what: str, arrays: Tensors) -> Grid:
    if set(arrays) != {"thresholds", "exits"}:
        raise ControllerError(f"its {what} holds {sorted(arrays)}; it needs exits and thresholds")
    return Grid(**arrays)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(tensors: Tensors, card: Any) -> str:
    """sha256 over format, card, and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(f"{FORMAT}\n{json.dumps(card, sort_keys=True, separators=(',', ':'))}\n".encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write(target: Path, data: bytes) -> None:
    """Into a new file beside the target, then renamed over it; on any failure the new file goes away."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view[:_CHUNK]) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or error
        raise ControllerError(f"{target} can't be written ({reason}); free space or give another place") from None
    finally:
        temporary.unlink(missing_ok=True)
