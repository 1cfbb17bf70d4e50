"""A small probe file and its card."""

from __future__ import annotations

import numpy as np

from reasonctl.probes.files.card import Card, template_hash
from reasonctl.probes.files.probe_file import ProbeFile
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid
from reasonctl.probes.signals.probe import Probe

DEPTH, WIDTH, RUNS = 4, 3, 60


def card(**changes: object) -> Card:
    """A card with these changes."""
    values = {
        "fingerprint": "ab" * 32,
        "depth": DEPTH,
        "width": WIDTH,
        "template": template_hash("{{ x }}"),
        "layers": (0.5, 1.0),
        "cues": ("wait", "paragraph"),
        "markers": ("<think>", "</think>"),
        "suffix": "</think>\n\n",
        "max_cues": 8,
        "sampler": {"policy": "sampling", "temperature": 0.6},
        "max_new_tokens": 64,
        "tasks": "tiny",
        "seeds": {"tasks": 0},
        "runs": {"fitting": 50, "calibration": RUNS},
        "grader": "math-verify 0.8",
        "mode": "harm",
        "settings": {"quantisation": "Q8_0"},
        "versions": {"numpy": "2.4"},
        "report": {"auc": 0.9},
    }
    return Card(**{**values, **changes})


def content(runs: int = RUNS, **changes: object) -> ProbeFile:
    """A probe file's content, with these changes of its card."""
    rng = np.random.default_rng(0)
    k = 3
    table = Table(
        offsets=np.arange(runs + 1) * k,
        positions=np.tile([4, 8, 12], runs),
        scores=rng.random(runs * k),
        right=np.ones(runs * k),
        same=np.ones(runs * k),
        exit_tokens=np.tile([9, 13, 17], runs),
        cue_name=np.zeros(runs * k),
        full_right=np.ones(runs),
        full_tokens=np.full(runs, 30),
        problem=np.arange(runs),
    )
    probe = Probe((rng.normal(size=(2 * WIDTH, 5)), rng.normal(size=(5, 1))), (rng.normal(size=5), np.zeros(1)))
    return ProbeFile(probe, Grid.of(table, 20), table, card(**changes))
