"""`ctl report`: writes the page of a probe file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.probes import Promise
from reasonctl.probes.files import digest_of, load_probe

from ..fitting.saved_runs import saved_runs
from ..pages.evaluation_file import read_evaluation
from ..pages.report import check_page, write_report
from ..runs.splits import report_path
from .console import Console
from .options import Options


def report(probe: str, options: Options, *, evaluation: str | None, out: str | None) -> None:
    """Write the page next to the probe file, or where `out` says.

    Args:
        probe: The probe file.
        options: The shared options.
        evaluation: The file that `ctl eval --json` wrote. None: nothing measured is shown.
        out: The page. None: next to the probe file.

    Raises:
        ControllerError: A file can't be read or written, or the evaluation is of another probe or promise.
    """
    show = Console(as_json=options.json)
    target = Path(out) if out is not None else report_path(Path(probe))
    check_page(target, Path(probe), options.force, *([] if evaluation is None else [Path(evaluation)]))
    content = load_probe(probe)
    measured = None if evaluation is None else read_evaluation(Path(evaluation))
    if measured is not None and measured["probe"] != digest_of(content):
        raise ControllerError(
            f"{evaluation!r} was made with another probe than {probe!r}; give that one, or evaluate again"
        )
    promise = options.promise if measured is None else evaluated_promise(options, measured)
    records = saved_runs(Path(probe), content)
    write_report(target, content, promise, records, measured, force=options.force)
    show.say(f"written: {target}")
    show.result({"out": str(target), "runs": records is not None, "evaluation": measured is not None})


def evaluated_promise(options: Options, evaluation: dict[str, Any]) -> Promise:
    """The promise that was evaluated.

    Raises:
        ControllerError: The command line asks for another one.
    """
    names = [field.name for field in fields(Promise)]
    for name in names:
        asked = getattr(options, name)
        if name in options.given and asked != evaluation[name]:
            raise ControllerError(
                f"--{name.replace('_', '-')} is {asked!r}, the evaluation was made with {evaluation[name]!r}; "
                "leave the option out, or evaluate again with it"
            )
    return Promise(**{name: evaluation[name] for name in names})
