"""The command behind `ctl report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import digest_of, load_probe
from reasonctl.probes.risk.threshold import check_request

from ..fitting.saved_runs import saved_runs
from ..pages.report import check_page, write_report
from ..runs.splits import report_path
from .console import Console
from .options import Options, promise_of


def run(probe: str, options: Options, *, evaluation: str | None, out: str | None) -> None:
    """`ctl report`: write the page beside the probe file, or where `out` says."""
    show = Console(as_json=options.json)
    target = Path(out) if out is not None else report_path(Path(probe))
    check_page(target, Path(probe), options.force, *([] if evaluation is None else [Path(evaluation)]))
    content = load_probe(probe)
    measured = None if evaluation is None else read_evaluation(Path(evaluation))
    if measured is not None and measured["probe"] != digest_of(content):
        raise ControllerError(
            f"{evaluation!r} was made with another probe than {probe!r}; give that one, or evaluate again"
        )
    request, records = promise_of(options, measured), saved_runs(Path(probe), content)
    write_report(target, content, request, records, measured, force=options.force)
    show.say(f"written: {target}")
    show.result({"out": str(target), "runs": records is not None, "evaluation": measured is not None})


def read_evaluation(path: Path) -> dict[str, Any]:
    """What `ctl eval --json` printed; ControllerError if it is anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8").rstrip().rpartition("\n")[2])
        check_request(found["mode"], float(found["risk"]), found["confidence"])
        for arm in ("baseline", "controlled"):
            float(found[arm]["accuracy"] or 0), float(found[arm]["tokens"]), float(found[arm]["seconds"])
        int(found["n"]), int(found["failure"]["count"]), int(found["failure"]["n"]), found["guarantee"]["holds"]
        found["harm"], found["probe"], found["signal"], found["domain"], found["give_up"]
    except OSError as error:
        raise ControllerError(f"can't read {str(path)!r}: {error.strerror}; give what ctl eval --json wrote") from None
    except (ValueError, KeyError, TypeError):
        raise ControllerError(
            f"{str(path)!r} is no result of this version's ctl eval; make it: ctl eval ... --json > E.json"
        ) from None
    return dict(found)
