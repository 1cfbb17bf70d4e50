"""`ctl status`: what is known of a promise in use, from its store; the process that owns it may be running."""

from __future__ import annotations

from pathlib import Path

from reasonctl.controller import ControllerError
from reasonctl.controller.audits import SCHEMA, VERSION, Store, version_of
from reasonctl.probes.files import check_target, write_whole

from ..learning import SCHEMA as LEARNING
from ..learning import VERSION as LEARNS
from ..learning.status import StoreStatus, status_of
from ..pages.status import render_status
from .console import Console
from .options import Options


def status(path: str, options: Options, *, out: str | None) -> None:
    """Print what a store holds. out: a page to write as well.

    Raises:
        ControllerError: It is none, or can't be read; or the page can't be written.
    """
    show = Console(as_json=options.json)
    if out is None:
        options.refuse("ctl status without --out", "force", because="nothing is written")
    else:
        check_target(out, options.force)
    found = read_status(path)
    for i, line in enumerate(found.lines()):
        show.say(line, "bold" if i == 0 else None)
    if out is not None:
        write_whole(out, render_status(Path(path).name, found).encode())
        show.say(f"written: {out}")
    show.result(found.to_dict())


def read_status(path: str) -> StoreStatus:
    """What a store holds. Raises ControllerError where it is none."""
    kinds = {VERSION: SCHEMA, LEARNS: LEARNING}
    version = version_of(path)
    if version not in kinds:
        raise ControllerError(f"{path!r} is no store; give the file of ctl serve --audits or --learn")
    store = Store(path, kinds[version], version=version, read_only=True)
    try:
        return status_of(store, learns=version == LEARNS)
    finally:
        store.close()
