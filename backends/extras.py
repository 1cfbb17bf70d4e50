"""Optional libraries: one that is missing is said in one line, with the extra that brings it."""

from __future__ import annotations

from importlib.util import find_spec

from reasonctl.controller import ControllerError


def require(extra: str, *libraries: str) -> None:
    """Find libraries without importing them.

    Args:
        extra: the extra of this project that brings them.
        libraries: names as they are imported.

    Raises:
        ControllerError: one of them isn't installed.
    """
    missing = [library for library in libraries if not _installed(library)]
    if missing:
        raise ControllerError(f"{' and '.join(missing)} not installed; install with: pip install 'reasonctl[{extra}]'")


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:
        return False
