"""`ctl status`: what is known of a promise in use, from its store; the process that owns it may be running."""

from __future__ import annotations

from reasonctl.controller import AuditSummary, ControllerError
from reasonctl.controller.audits import SCHEMA, VERSION, Store, summaries, version_of

from .console import Console
from .options import Options


def status(path: str, options: Options) -> None:
    """Print what a store holds.

    Raises:
        ControllerError: It is none, or can't be read.
    """
    show = Console(as_json=options.json)
    if version_of(path) != VERSION:
        raise ControllerError(f"{path!r} is no store of audits; give the FILE of ctl serve --audits")
    store = Store(path, SCHEMA, version=VERSION, read_only=True)
    found = summaries(store)
    store.close()
    for one in found:
        show_audits(show, one)
    show.result({"promises": [one.to_dict() for one in found]})


def show_audits(show: Console, one: AuditSummary) -> None:
    """Print what is known of one promise."""
    show.say(one.why, "bold red" if one.alarm else "bold")
    show.say(f"{one.admitted} runs, {one.waiting} audits under way; {one.exits} exits")
    show.say(f"{one.net_saved:.0f} tokens saved, as the calibration runs say, less {one.tokens} that audits cost")
    said = one.exited_right + one.exited_wrong + one.full_right + one.full_wrong
    if said:
        show.say(
            f"users called {one.exited_wrong} of {one.exited_right + one.exited_wrong} exited runs wrong, and "
            f"{one.full_wrong} of {one.full_right + one.full_wrong} others; their choice of runs proves nothing"
        )
