"""`ctl view`: writes the page of some runs."""

from __future__ import annotations

from pathlib import Path

from reasonctl.controller import ControllerError
from reasonctl.controller.core import read_runs
from reasonctl.probes.files import check_target, write_whole

from ..pages.run_page import run_page
from .console import Console
from .options import Options


def view(runs: str, options: Options, *, out: str | None) -> None:
    """Write the page next to the file of runs, or where `out` says."""
    show = Console(as_json=options.json)
    target = Path(runs).with_suffix(".html") if out is None else Path(out)
    if target.resolve() == Path(runs).resolve():
        raise ControllerError(f"the page would replace the runs; give another --out than {str(target)!r}")
    check_target(target, options.force)
    found = read_runs(runs)
    page = run_page(found, Path(runs).name).encode()
    write_whole(target, page)
    show.say(f"written: {target}: {len(found):,} run{'' if len(found) == 1 else 's'}, {len(page):,} bytes")
    show.result({"out": str(target), "runs": len(found), "bytes": len(page)})
