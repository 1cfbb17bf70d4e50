"""`ctl models`: the models on this machine, and the probes that fit them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonctl.backends import BUNDLED_PROBE, LocalModel, Shape, hub_problem, local_models
from reasonctl.controller import ControllerError
from reasonctl.controller.core import file_name
from reasonctl.probes.files import Card, is_probe, load_probe

from .console import Console
from .options import Options

TITLES = {"bundled": "bundled", "cache": "in reasonctl's cache", "hub": "in the Hugging Face hub's cache"}

MOST_FILES = 1000
"""Most .safetensors files of the folder that are looked into."""


@dataclass(frozen=True)
class _Found:
    """A probe file that is whole."""

    name: str
    """How it is shown."""
    card: Card
    """What it was made for."""


def models(options: Options, *, probes: str) -> None:
    """Print the models, and for each the probes that fit: the bundled one's, and those in the folder `probes`."""
    show = Console(as_json=options.json)
    found = _probes(show, Path(probes))
    rows = [_row(model, found) for model in local_models()]
    for where, listed in itertools.groupby(rows, lambda row: row["where"]):
        show.title(TITLES[where])
        for row in listed:
            show.say(row["model"], "bold")
            show.say(f"    {_facts(row)}")
    if problem := hub_problem():
        show.say(f"the hub's models aren't listed: {problem}", "yellow")
    show.result({"models": rows})


def _probes(show: Console, folder: Path) -> list[_Found]:
    """The probe files: the bundled one, and those of a folder. What is broken is said.

    Raises:
        ControllerError: There is no such folder.
    """
    if not folder.is_dir():
        raise ControllerError(f"--probes is {str(folder)!r}, which is no folder; give one with probe files")
    found = [_Found("the bundled one", load_probe(BUNDLED_PROBE).card)]
    for path in itertools.islice(sorted(folder.glob("*.safetensors")), MOST_FILES):
        if is_probe(path):
            try:
                found.append(_Found(file_name(path), load_probe(path).card))
            except ControllerError as error:
                show.say(f"passed over: {error}", "yellow")
    return found


def _row(model: LocalModel, probes: list[_Found]) -> dict[str, Any]:
    """What is known of a model, as JSON values."""
    problem, fitting = model.problem, []
    near = [one for one in probes if Shape(one.card.depth, one.card.width) == model.shape]
    if near and model.format != "masked":
        try:
            own = model.fingerprint()
            fitting = [one.name for one in near if one.card.fingerprint == own]
        except ControllerError as error:
            problem = str(error)
    depth, width = model.shape or (None, None)
    return {
        "model": model.name,
        "where": model.where,
        "format": model.format,
        "bytes": model.size,
        "depth": depth,
        "width": width,
        "probes": fitting,
        "problem": problem or None,
    }


def _facts(row: dict[str, Any]) -> str:
    """What a person reads of a model."""
    shape = f"{row['depth']} layers of width {row['width']}" if row["depth"] else "of unknown shape"
    probes = f"probe: {', '.join(row['probes'])}" if row["probes"] else "no probe fits"
    return row["problem"] or f"{row['format']}, {_size(row['bytes'])}, {shape}; {probes}"


def _size(size: int) -> str:
    """Bytes in the unit that people read."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
