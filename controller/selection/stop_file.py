"""A vote's stopping rule that was calibrated on recorded votes, and its file: JSON that `ctl calibrate-votes` writes.

What it promises is about problems: the early vote differs from the full vote in at most a share `risk` of them, with a
confidence. It says nothing of a single sample, and nothing of the answer's being right.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast, get_args

from ..core.errors import ControllerError
from ..core.json_text import Fields, parse, read_bytes
from .codes import Codes
from .early_stop import ShareStop, StopRule

FORMAT = 1
"""Version of the file's format."""
NOTE = "no per-run promise covers a vote; the unit is the problem"
"""What the file's header says."""
_MOST = 1 << 53
_WHAT = "the file that ctl calibrate-votes wrote"


@dataclass(frozen=True)
class CalibratedStop(StopRule):
    """Stops once the leader's share of the samples is above a calibrated threshold, or once it can't be overtaken."""

    threshold: float
    """Share above which a vote stops; 1 or more: only once its leader can't be overtaken."""
    least: int
    """Fewest samples."""
    n: int
    """Samples of the full vote; it holds for no other number."""
    risk: float
    """Accepted share of problems whose early vote differs from the full vote."""
    confidence: float
    """Probability over calibrations that the share is kept."""
    problems: int
    """Problems that it was calibrated on."""
    failures: int
    """Of these, those whose early vote differs."""
    samples: float
    """Mean number of samples that it drew on them."""
    model: str
    """Fingerprint of the model."""
    tasks: str
    """Where the problems came from."""
    grader: str
    """What said which answers are the same."""
    policy: str
    """How tokens were sampled."""
    codes: Codes
    """How the samples depended on each other."""
    max_new_tokens: int
    """Most tokens of a sample."""
    probe: str
    """Digest and promise of the probe whose exits were inside the samples; "" for none."""

    def stops(self, classes: Sequence[int | None], n: int) -> bool:
        return ShareStop(self.threshold, self.least).stops(classes, n)

    def differences(self, n: int, **used: object) -> list[str]:
        if n != self.n:
            raise ControllerError(
                f"this stop was calibrated for votes of {self.n} samples, and this vote has {n}; draw {self.n}, or "
                "calibrate anew with ctl calibrate-votes"
            )
        own = asdict(self)
        return [
            f"{name} is {value!s:.80}, and was {own[name]!s:.80} when the vote's stop was calibrated: it "
            "promises nothing here"
            for name, value in used.items()
            if value != own[name]
        ]

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {"format": FORMAT, "note": NOTE, **asdict(self)}


def stop_text(stop: CalibratedStop) -> str:
    """The text of a stop's file; the same stop gives the same text."""
    return json.dumps(stop.to_json(), indent=2, allow_nan=False) + "\n"


def load_stop(path: str | os.PathLike[str]) -> CalibratedStop:
    """Read a calibrated stop, for `Controller.samples(stop=...)`.

    Args:
        path: what `ctl calibrate-votes` wrote.

    Raises:
        ControllerError: it is no such file, or holds impossible values.
    """
    where = repr(str(path))
    found = Fields.of(parse(read_bytes(str(path), _WHAT, 1 << 20), where), where)
    names = [field.name for field in fields(CalibratedStop)]
    if found.values.get("format") != FORMAT:
        raise ControllerError(f"{where} isn't a stop of format {FORMAT}; give {_WHAT}")
    found.only(["format", "note", *names])
    if found.text("codes") not in get_args(Codes):
        found.refuse("codes", f"one of {', '.join(get_args(Codes))}")
    values: dict[str, Any] = {
        "threshold": found.number("threshold", 0.0, 1.0),
        "risk": found.number("risk", 0.0, 1.0),
        "confidence": found.number("confidence", 0.0, 1.0),
        "samples": found.number("samples", 1.0, math.inf),
        "codes": cast(Codes, found.text("codes")),
    }
    values |= {name: found.whole(name, 1, _MOST) for name in ("least", "n", "problems", "max_new_tokens")}
    values["failures"] = found.whole("failures", 0, _MOST)
    values |= {name: found.text(name) for name in ("model", "tasks", "grader", "policy", "probe")}
    return CalibratedStop(**values)
