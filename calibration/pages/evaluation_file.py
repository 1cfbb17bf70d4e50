"""What `ctl eval --json` wrote, read back whole or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.probes.risk.threshold import check_request

_NUMBERS = ("n", "failure.count", "failure.n", "failure.upper") + tuple(
    f"{arm}.{name}" for arm in ("baseline", "controlled") for name in ("tokens", "seconds")
)
_NUMBERS_OR_NULL = ("baseline.accuracy", "controlled.accuracy")
_ANYTHING = ("guarantee.holds", "guarantee.why_not", "harm", "probe", "signal", "domain", "give_up")


def read_evaluation(path: Path) -> dict[str, Any]:
    """The object on the file's last line.

    Raises:
        ControllerError: The file can't be read, or holds anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8").rstrip().rpartition("\n")[2])
        check_request(found["mode"], float(found["risk"]), found["confidence"])
        for name in _NUMBERS:
            float(_at(found, name))
        for name in _NUMBERS_OR_NULL:
            float(_at(found, name) or 0)
        for name in _ANYTHING:
            _at(found, name)
    except OSError as error:
        raise ControllerError(f"can't read {str(path)!r}: {error.strerror}; give what ctl eval --json wrote") from None
    except (ValueError, KeyError, TypeError):
        raise ControllerError(
            f"{str(path)!r} is no result of this version's ctl eval; make it: ctl eval ... --json > E.json"
        ) from None
    return dict(found)


def _at(found: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name; KeyError or TypeError where there is none."""
    value: Any = found
    for part in name.split("."):
        value = value[part]
    return value
