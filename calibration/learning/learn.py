"""Makes a learning rule from a store, or for a new one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reasonctl.backends.extras import LIBRARIES, require
from reasonctl.controller import ControllerError

from ..tasks.graders import MATH, Grader
from .clients import CLIENT_SHARE
from .learned import Learned
from .settings import LearnedSettings
from .traffic import MOST_BYTES, MOST_SECONDS, Traffic, open_store


@dataclass(frozen=True)
class StoreLimits:
    """What a store may keep, and for how long."""

    keep: bool = False
    """Keep what runs wrote after they are labelled; else it is deleted."""
    most_bytes: int = MOST_BYTES
    """Largest size of the file."""
    most_seconds: float = MOST_SECONDS
    """A run that waits longer for its labels is left out."""


def learn(
    path: str | Path,
    *,
    risk: float = 0.05,
    settings: LearnedSettings | None = None,
    grader: Grader = MATH,
    limits: StoreLimits | None = None,
    client_share: float = CLIENT_SHARE,
) -> Learned:
    """An exit rule that comes from the runs that it watches; it exits once a promise stands.

    Until then, and after an alarm, it is in shadow. Call `handle.learn_now()` while the model is free; `ctl serve
    --learn` does that by itself.

    Args:
        path: The store, which is made where there is none. What is asked for is fixed for its life.
        risk: Largest share of runs whose exit says something else than the full run.
        settings: What else is fixed; its risk gives way to `risk`. None: the usual.
        grader: Says which answers are the same.
        limits: What the store may keep. None: the usual.
        client_share: Largest share of a promise's runs that one client may have, where a server knows its clients
            apart; in (0, 1]. 1: they are all the same, so that one of them may choose the runs that a promise
            stands on.

    Raises:
        ControllerError: A value is out of its range, the store was begun with others, or the file can't be used.
    """
    require("calibrate", *LIBRARIES["calibrate"])
    asked, limits = replace(settings or LearnedSettings(), risk=risk), limits or StoreLimits()
    asked.check()
    if not 0 < client_share <= 1:
        raise ControllerError(f"the share of one client is {client_share!r:.40}; it must be above 0 and at most 1")
    store = open_store(path, most_bytes=limits.most_bytes)
    try:
        traffic = Traffic(store, fit=asked.fit, client_share=client_share)
        _check_fixed(path, asked, traffic)
        return Learned(traffic, asked, grader, limits.keep, limits.most_seconds)
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
