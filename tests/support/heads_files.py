"""Made-up AutoDeco heads for tests: of any width, far from constant, in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reasonctl.probes.files.heads_file import STATISTICS, Heads, HeadsCard, HeadsFile, save_heads
from reasonctl.probes.signals.probe import Probe


def made_up(width: int, *, seed: int = 0, scale: float = 1.5) -> Heads:
    """Heads of random weights."""
    rng = np.random.default_rng(seed)

    def head(n: int, middle: float) -> Probe:
        weights = rng.normal(size=(n, 8)) * scale / np.sqrt(n), rng.normal(size=(8, 1))
        return Probe(weights, (rng.normal(size=8), np.array([middle])))

    return Heads(head(width, 0.0), head(width + 1 + STATISTICS, 1.0))


def card(**changes: object) -> HeadsCard:
    """A card with these changes."""
    values = {
        "fingerprint": "ab" * 32,
        "depth": 3,
        "width": 3,
        "template": "",
        "sampler": {"policy": "temperature(1)"},
        "tasks": "tiny",
        "grader": "number",
        "seeds": {"seed": 0},
        "runs": {"right": 9},
        "training": {"epochs": 2},
    }
    return HeadsCard(**{**values, **changes})


def heads_file(path: Path, *, seed: int = 0, **changes: object) -> Path:
    """Heads under a card, saved."""
    made = card(**changes)
    save_heads(path, HeadsFile(made_up(made.width, seed=seed), made))
    return path


def for_model(path: Path, model, **changes: object) -> Path:
    """Heads that fit a `backends.Model`."""
    fitting = {"fingerprint": model.fingerprint(), "depth": model.depth, "width": model.width, **changes}
    return heads_file(path, **fitting)
