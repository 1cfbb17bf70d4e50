"""Do promises hold on real runs? The bundled model's own, whatever signal reads them: sets re-drawn from a pool.

Slow: it collects its runs. A true promise at its very limit is called broken with probability 0.0013 a row; of the 8
rows of the 5 signals one is with 0.05 at most. Seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from reasonctl.backends import cores
from reasonctl.calibration.evaluation.redraws import check, check_all
from reasonctl.calibration.fitting.all_signals import FittedSignals, fit_signals
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.collect import collect
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import failures_at

FITTING, POOL, RUNS, DRAWS = 300, 1600, 400, 500
RISK, CONFIDENCE = 0.05, 0.9
CUES = ("wait", "hmm", "alternatively")
RECIPE = Recipe(
    model="tiny",
    backend=None,
    threads=1,
    markers=("<think>", "</think>"),
    cues=CUES,
    suffix="</think>\n",
    max_cues=200,
    layers=(1 / 3, 2 / 3, 1.0),
    policy="temperature(0.6)",
    draft="none",
    seed=11,
    max_new_tokens=1500,
    answer_tokens=64,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Iterator[FittedSignals]:
    """The signals fitted on some runs, with the rest as their tables: the pool."""
    task = load_task("tiny")
    problems = task.problems(FITTING + POOL, stream=4321)
    with closing(RunFile(tmp_path_factory.mktemp("pool") / "runs.jsonl", {})) as file:
        done = file.open(force=False)
        assert collect(
            RECIPE, problems, task.grader, file, done=done, workers=cores(), progress=lambda done, total: None
        )
        records = file.read()
    domains = sorted({record.domain for record in records})
    yield fit_signals(to_arrays(records[:FITTING]), to_arrays(records[FITTING:]), CUES, domains, "harm", seed=0)


@pytest.mark.parametrize("signal", ["hidden", "entropy", "trial", "agreement", "stack"])
def test_every_promise_of_every_signal_is_kept(fitted, signal):
    calibrated = fitted.tables[signal]
    assert calibrated.table.runs == POOL and len(np.unique(calibrated.table.problem)) == POOL
    plain = fitted.tables["hidden"].table
    rows = check_all(calibrated.table, calibrated.grid, RISK, CONFIDENCE, runs=RUNS, draws=DRAWS, plain=plain)
    for row in rows:
        form = "on average" if row.confidence is None else f"at {row.confidence}"
        print(
            f"{signal}, {row.mode} {form}: {row.verdict.violations:.3f} (bound {row.verdict.bound:.3f}); "
            f"LYNX {row.lynx.violations:.3f}; saved {row.saved:.3f}, never {row.never:.2f}"
        )
    assert len(rows) == 8 and all(row.verdict.holds for row in rows)
    assert rows[0].never < 0.05  # never to exit would keep any promise
    if signal in ("hidden", "stack"):
        assert rows[0].saved > 0.5
    if signal == "entropy":  # a weak signal: there LYNX's rule, which promises per cue, breaks a promise per run
        assert (rows[1].mode, rows[1].confidence) == ("wrong", CONFIDENCE) and not rows[1].lynx.holds


def test_a_threshold_without_a_margin_is_caught(fitted):
    """The loosest threshold whose *measured* rate on the set is at most the risk: right on average, too often above."""
    calibrated = fitted.tables["trial"]

    def hopeful(table: Table) -> float:
        failed, n = failures_at(table, "harm", calibrated.grid.thresholds)
        return float(calibrated.grid.thresholds[np.cumprod(failed <= RISK * n).sum() - 1])

    found = check(calibrated.table, hopeful, "harm", RISK, CONFIDENCE, runs=RUNS, draws=DRAWS)
    print(f"without a margin: {found.violations:.3f} of the sets above {RISK} (bound {found.bound:.3f})")
    assert not found.holds
