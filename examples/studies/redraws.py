"""Do a probe's promises hold? Re-draws of calibration sets from recorded runs, whose own rate is the truth.

    python examples/studies/redraws.py PROBE.safetensors [RUNS.jsonl] [--risk 0.05] [--confidence 0.9] [--signal hidden]
                               [--runs 400] [--draws 500] [--seed 0]

The pool is the probe file's own table, or RUNS.jsonl: the runs saved next to a probe file (those that fitted the probe
are left out), or runs of the same model and task that were collected for another seed. Every set has --runs runs,
drawn with replacement. "harm, 0.9": share of sets whose threshold has a true risk above the promised one. "harm, mean":
the mean true risk of the marginal form. A row is BROKEN where its figure is above the bound: nominal + 3 standard
errors. LYNX: its per-cue threshold on the same draws, held to the same row's promise; in `event`, whose promise is
per cue, P(a run exits wrongly) under it. Then, of ours: mean tokens saved, net of trials, and share of sets that never
exit.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.evaluation.redraws import check_all
from reasonctl.calibration.fitting.tables import apply_to_table, make_table
from reasonctl.calibration.pages.wording import percent
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.probes.files import ProbeFile, load_probe
from reasonctl.probes.risk import Table


def pool_of(content: ProbeFile, path: Path | None, signal: str) -> Table:
    """Runs that had no part in fitting the probe, under this signal's scores."""
    if path is None:
        return content.signal_table(signal).table.one_per_problem()
    runs = to_arrays(RunFile(path, {}).read())
    table = make_table(runs, content.probe.scores(runs.features), content.card.cues)
    if signal != "hidden":
        table = apply_to_table(content.signal(signal), runs, table)
    own = np.isin(table.problem, content.table.problem)
    # The file next to the probe holds all of its calibration runs; another seed's may share a problem by chance.
    is_own = len(np.unique(table.problem[own])) == len(np.unique(content.table.problem))
    return (table.select(np.flatnonzero(own)) if is_own else table).one_per_problem()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probe", type=Path)
    parser.add_argument("recorded", type=Path, nargs="?")
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--signal", default="hidden")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    content, show = load_probe(options.probe), Console(as_json=True)
    pool, plain = (pool_of(content, options.recorded, name) for name in (options.signal, "hidden"))
    rows = check_all(
        pool,
        content.signal_table(options.signal).grid,
        options.risk,
        options.confidence,
        runs=options.runs,
        draws=options.draws,
        seed=options.seed,
        plain=plain,
    )
    show.title(f"{options.draws} sets of {options.runs} runs from a pool of {pool.runs}, risk {options.risk:g}")
    shown, results = [], []
    for row in rows:
        form = "mean" if row.confidence is None else f"{row.confidence:g}"
        ours = row.verdict
        shown.append(
            [
                f"{row.mode}, {form}",
                percent(ours.violations),
                percent(ours.nominal),
                percent(ours.bound),
                "kept" if ours.holds else "BROKEN",
                percent(row.lynx.violations),
                percent(row.saved),
                percent(row.never),
            ]
        )
        results.append(
            {
                "mode": row.mode,
                "confidence": row.confidence,
                "violations": ours.violations,
                "nominal": ours.nominal,
                "bound": ours.bound,
                "kept": ours.holds,
                "lynx": row.lynx.violations,
                "exit_rate": row.exit_rate,
                "saved": row.saved,
                "never": row.never,
            }
        )
    show.table(shown, "promise", "measured", "nominal", "bound", "", "LYNX", "saved", "never")
    show.result(
        {"pool": pool.runs, "runs": options.runs, "draws": options.draws, "risk": options.risk, "rows": results}
    )


if __name__ == "__main__":
    main()
