"""What is seen at cues while runs are collected: the engine's first process writes it, and who collects reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .requests import Features, Requests, Row

Entropies = npt.NDArray[np.float64]

FILE = "cues.bin"
"""The file in the folder of records."""


def layout(size: int) -> np.dtype[np.void]:
    """One record: the run, the token of the row counted after the prompt, the entropy in nats, the blocks' outputs."""
    return np.dtype([("run", "<u8"), ("row", "<u8"), ("entropy", "<f8"), ("state", "<f4", (size,))])


@dataclass
class Recorder(Requests):
    """Requests of an engine that records: nothing is scored, and nothing is forced."""

    folder: str = ""
    """Where the records go. Empty: another process writes them."""
    entropies: Entropies = field(default_factory=lambda: np.zeros(0))
    """Of the rows that were asked for last; set by who gives their features."""

    def step(self, rows: Sequence[Row], features: Features) -> list[tuple[int, int]]:
        """Take in the step's tokens, and write down the rows at which a cue ends, or may end."""
        asked = [row for row in self._take(rows) if row.request.options.record is not None]
        if asked:
            states = features([row.row for row in asked])
            made = np.zeros(len(asked), dtype=layout(states.shape[1]))
            made["run"] = [row.request.options.record for row in asked]
            made["row"] = [row.request.seen - 1 for row in asked]
            made["entropy"], made["state"] = self.entropies, states
            if self.folder:
                with (Path(self.folder) / FILE).open("ab") as file:
                    file.write(made.tobytes())
        return []


class Seen(NamedTuple):
    """What was recorded at one row."""

    entropy: float
    """Of the next token, in nats, at temperature 1."""
    state: npt.NDArray[np.float32]
    """The blocks' outputs, one after the other."""


class Records:
    """Reads the records of a folder, as they grow."""

    def __init__(self, folder: Path, size: int) -> None:
        self._file, self._layout, self._read = folder / FILE, layout(size), 0

    def fresh(self) -> dict[tuple[int, int], Seen]:
        """What was written since this was asked last, by run and row."""
        if not self._file.exists():
            return {}
        with self._file.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        made = np.frombuffer(data, dtype=self._layout)
        return {(int(one["run"]), int(one["row"])): Seen(float(one["entropy"]), one["state"]) for one in made}
