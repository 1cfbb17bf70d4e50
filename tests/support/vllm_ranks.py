"""A processor that writes down what each process of an engine decides, and scores planted at the threshold.

vLLM loads `RankedProcessor` by its name in processes of its own, so that it is told what to do by the environment.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm.distributed.parallel_state import get_tp_group

from reasonctl.backends.vllm.following import Following
from reasonctl.backends.vllm.processor import ExitProcessor
from reasonctl.backends.vllm.requests import Requests
from reasonctl.probes import ProbeExit
from reasonctl.probes.signals.probe import Probe

FOLDER = "REASONCTL_TEST_RANKS"
"""Names the folder of the decisions, a file for each process."""
PLANTED = "REASONCTL_TEST_PLANTED"
"""Set where scores are planted: "shared" as the product does it, "alone" as a wrong one would."""

Decided = tuple[int, float, bool]
"""Of one decision the position, the score, and whether thinking ended."""


@dataclass(frozen=True, eq=False)
class PlantedProbe(Probe):
    """Its scores are at the threshold, or next to it, as a probe's own score says by its size."""

    limit: float = 0.5
    """The threshold."""
    mirrored: bool = False
    """Each score is on the other side: a process that has rounded otherwise."""

    def score(self, features: npt.NDArray[Any]) -> float:
        """One of four values within 1e-12 of the threshold."""
        own = super().score(features)
        values = (self.limit, np.nextafter(self.limit, 1), np.nextafter(self.limit, 0), self.limit + 1e-12)
        value = float(values[math.floor(4 * math.log(own / (1 - own))) % len(values)])
        if self.mirrored:
            return float(np.nextafter(self.limit, 0 if value > self.limit else 1))
        return value

    def scores(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Of every row."""
        return np.array([self.score(row) for row in features])


def plant(rule: ProbeExit, mirrored: bool = False) -> None:
    """Plant a rule's scores."""
    own, limit = rule.content.probe, rule.threshold.value
    rule.content = replace(rule.content, probe=PlantedProbe(own.weights, own.biases, limit, mirrored))


class WrittenRequests(Requests):
    """Requests whose decisions are written down when they end."""

    def finish(self, names: Iterable[str]) -> dict[str, Following]:
        """As `Requests.finish`."""
        ended = super().finish(names)
        found = [(d.position, d.score, d.exit) for request in ended.values() for d in request.decisions]
        with (Path(os.environ[FOLDER]) / f"{get_tp_group().rank_in_group}").open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in found)
        return ended


class RankedProcessor(ExitProcessor):
    """The product's, with such requests."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        super().__init__(vllm_config, *rest)
        if self.requests is None:
            return
        planted = os.environ.get(PLANTED)
        if planted is not None:
            assert isinstance(self.requests.exits.rule, ProbeExit)
            plant(self.requests.exits.rule, mirrored=get_tp_group().rank_in_group > 0)
        share = (lambda scores: scores) if planted == "alone" else self.requests.share
        self.requests = WrittenRequests(self.requests.exits, share)


def decided_by_rank(folder: Path) -> list[list[Decided]]:
    """What each process has decided since this was asked last, sorted."""
    found = []
    for file in sorted(folder.iterdir()):
        found.append(sorted((int(at), float(score), bool(leave)) for at, score, leave in map(json.loads, file.open())))
        file.unlink()
    return found
