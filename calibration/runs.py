"""The file of collected runs: a header line, then one JSON line per run, in order, append-only.

A killed job leaves at most one torn line at the end, which is cut off when the file is opened again.
Fields of a run: `run`, `problem`, `question`, `gold`, `tokens` (cost), `finish`, `answer` (text after thinking),
`right`, and `cues`, each with `name`, `position` (tokens before the cue), `tokens` (cost of a run that exits here),
`trial` (tokens fed and sampled for its forced answer), `answer`, `right`, `same`, `logprobs` (of the answer's tokens,
temperature 1), `entropy` (nats, of the law after the cue), `value` (last number written so far), `hidden` (base64 of
float32, layer after layer).
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..controller import ControllerError

FORMAT = 2


def pack(values: npt.NDArray[np.float32]) -> str:
    """A float32 vector as text."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def unpack(text: str) -> npt.NDArray[np.float32]:
    """The vector that `pack` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


@dataclass
class RunFile:
    """Appends runs and reads them back; `settings` are what two jobs must share to share the file."""

    path: Path
    settings: dict[str, Any]

    def open(self, *, force: bool) -> int:
        """Create the file, or cut its torn tail; the number of runs it holds.

        Raises if it is another job's; with `force` such a file is started over.
        """
        if self.path.is_dir():
            raise ControllerError(f"{str(self.path)!r} is a folder; the collected runs need a file there")
        whole = self._cut_torn_tail() if self.path.exists() else []
        try:
            if whole:
                self._check(whole[0])
                return len(whole) - 1
        except ControllerError:
            if not force:
                raise
        self._write("wb", {"format": FORMAT, "settings": self.settings})
        return 0

    def append(self, record: dict[str, Any]) -> None:
        """Write one run and make sure that it is on the disk."""
        self._write("ab", record)

    def read(self) -> list[dict[str, Any]]:
        """All runs, in order."""
        return [json.loads(line) for line in self.path.read_bytes().splitlines()[1:]]

    def _cut_torn_tail(self) -> list[bytes]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if not data.startswith(b'{"format":'):
            raise ControllerError(
                f"{str(self.path)!r} is no file of collected runs; move it away or give another --out"
            )
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        return data[:whole].splitlines()

    def _check(self, header: bytes) -> None:
        try:
            found = json.loads(header)
            settings, version = found["settings"], found["format"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ControllerError(
                f"{str(self.path)!r} is no file of collected runs; move it away, or start over with --force"
            ) from None
        if version != FORMAT:
            raise ControllerError(
                f"{str(self.path)!r} holds runs in format {version!r}, this reasonctl writes {FORMAT}; "
                "move it away, or start over with --force"
            )
        wanted = json.loads(json.dumps(self.settings))
        different = sorted(k for k in wanted.keys() | settings.keys() if wanted.get(k) != settings.get(k))
        if different:
            raise ControllerError(
                f"{str(self.path)!r} holds runs collected with another {', '.join(different)}; "
                "give the old settings to resume, another --out, or --force to start over"
            )

    def _write(self, mode: str, record: dict[str, Any]) -> None:
        line = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        try:
            with self.path.open(mode) as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ControllerError(
                f"can't write {str(self.path)!r}: {error.strerror}; finished runs are safe, "
                "run the same command again when there is room"
            ) from None
