"""Makes a learning rule from a store, or for a new one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasonctl.backends.extras import LIBRARIES, require
from reasonctl.controller import Closing, ControllerError, Markers
from reasonctl.controller.audits import LEVEL, SHARE
from reasonctl.controller.thinking import default_cues
from reasonctl.probes import Promise

from ..runs.splits import FITTING_RUNS
from ..tasks.graders import MATH, Grader
from .learned import Learned, LearnedSettings
from .traffic import MOST_BYTES, MOST_SECONDS, Traffic, open_store

USUAL = Markers("<think>", "</think>")
"""How most models mark their thinking."""


def learn(
    path: str | Path,
    *,
    risk: float = 0.05,
    confidence: float = 0.9,
    share: float = SHARE,
    level: float = LEVEL,
    fit: int = FITTING_RUNS,
    markers: Markers | None = USUAL,
    closing: Closing | None = None,
    cues: tuple[str, ...] | None = None,
    answer_tokens: int = 64,
    grader: Grader = MATH,
    keep: bool = False,
    most_bytes: int = MOST_BYTES,
    most_seconds: float = MOST_SECONDS,
) -> Learned:
    """An exit rule that comes from the runs that it watches; it exits once a promise stands.

    Until then, and after an alarm, it is in shadow. Call `handle.learn_now()` while the model is free; `ctl serve
    --learn` does that by itself.

    Args:
        path: The store, which is made where there is none. What is asked for is fixed for its life.
        risk: Largest share of runs whose exit says something else than the full run.
        confidence: Probability that all promises of the store hold; the k-th one spends (1 - confidence) / 2^k.
        share: The share of runs that are audited once a promise stands.
        level: Largest probability that any alarm of the store is false; the k-th promise spends level / 2^k.
        fit: The first so many runs of a promise fit.
        markers: The texts that open and close thinking. None: the whole completion is thinking.
        closing: What an exit feeds, and what ends its answer. None: the closing marker and an empty line.
        cues: What counts as a cue. None: the usual words.
        answer_tokens: Most tokens of a tried answer.
        grader: Says which answers are the same.
        keep: Keep what runs wrote after they are labelled; else it is deleted.
        most_bytes: Largest size of the store.
        most_seconds: A run that waits longer for its labels is left out.

    Raises:
        ControllerError: A value is out of its range, the store was begun with others, or the file can't be used.
    """
    require("calibrate", *LIBRARIES["calibrate"])
    Promise("disagree", risk, confidence)
    if type(fit) is not int or fit < 4:
        raise ControllerError(f"fit is {fit!r:.40}; a probe needs 4 runs or more, say 100")
    asked = closing or Closing("\n\n" if markers is None else f"{markers.close}\n\n")
    settings = LearnedSettings(
        risk,
        confidence,
        share,
        level,
        fit,
        None if markers is None else (markers.open, markers.close),
        cues or default_cues(markers),
        asked.suffix,
        asked.answer_ends,
        answer_tokens,
    )
    store = open_store(path, most_bytes=most_bytes)
    try:
        traffic = Traffic(store, fit=fit)
        _check_fixed(path, settings, traffic)
        return Learned(traffic, settings, grader, keep, most_seconds)
    except BaseException:
        store.close()
        raise


def _check_fixed(path: str | Path, settings: LearnedSettings, traffic: Traffic) -> None:
    """Raise ControllerError where the store was begun with other settings."""
    mine: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}
    kept = traffic.fix("asked", mine)
    if different := sorted(name for name in {*mine, *kept} if mine.get(name) != kept.get(name)):
        name = different[0]
        raise ControllerError(
            f"{path} was begun with {name} {kept.get(name)!r:.80}, and {name} is {mine.get(name)!r:.80}; what is asked "
            "for is fixed for a store's life: give the same, or a new file"
        )
