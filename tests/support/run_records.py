"""Collected runs, made up: whatever a test doesn't name has some value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reasonctl.calibration.runs.records import CueRecord, RunRecord, pack
from reasonctl.probes.signals.probe import Probe


def cue(**changes: object) -> CueRecord:
    """A cue; `state` may be given in place of `hidden`, and a `name` is its only one unless `names` are given."""
    values = {
        "name": "wait",
        "position": 20,
        "offset": 0,
        "tokens": 30,
        "trial": 9,
        "answer": "The answer is 5.",
        "logprobs": (-0.1,),
        "entropy": 1.0,
        "value": "5",
        "hidden": pack(np.zeros(2, np.float32)),
        **changes,
    }
    if "state" in values:
        values["hidden"] = pack(np.asarray(values.pop("state"), np.float32))
    return CueRecord(**{"names": (values["name"],), "row": values["position"], **values})


def run(**changes: object) -> RunRecord:
    """A right run of which every problem is another one."""
    values = {
        "run": 0,
        "question": "",
        "gold": "5",
        "tokens": 300,
        "finish": "stop",
        "text": "",
        "answer": "The answer is 5.",
        "right": True,
        **changes,
    }
    return RunRecord(**{"problem": values["run"], **values})


def scored(records: list[RunRecord], probe: Probe) -> list[RunRecord]:
    """The runs with the probe's score at each of their cues, as calibration runs have it."""

    def at(cues: tuple[CueRecord, ...]) -> tuple[CueRecord, ...]:
        return tuple(replace(met, score=probe.score(met.state)) for met in cues)

    return [replace(one, cues=at(one.cues), others=at(one.others)) for one in records]
