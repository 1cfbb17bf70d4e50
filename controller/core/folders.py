"""Where reasonctl keeps files of its own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The cache: measured costs in `costs/`, and GGUF models that a user puts into `models/`.

    The variable REASONCTL_CACHE names another one.
    """
    root = os.environ.get("REASONCTL_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "reasonctl"
    )
    return Path(root)
