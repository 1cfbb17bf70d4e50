"""How often audits call a kept promise broken, and how soon they see a broken one, on the bundled probe's own runs.

Runs are drawn from the calibration runs of the bundled probe. The threshold sets the share of them that fails.

    python -m examples.studies.audit_streams [streams] [runs of a stream that keeps its promise]
"""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
from scipy.stats import binomtest

from reasonctl.backends import BUNDLED_PROBE
from reasonctl.calibration.evaluation.audit_streams import AuditStream, RunPool, ledger_in_memory
from reasonctl.probes.files import load_probe

LEVEL = 0.01
BEFORE, MOST = 2000, 30_000
SIZES = (2, 3, 6)
"""How many times the promised share fails after the change."""


def pool_at(rate: float) -> RunPool:
    """The runs at the threshold whose failing share is nearest to a rate."""
    content = load_probe(BUNDLED_PROBE)
    pools = [RunPool.of(content.table, float(threshold)) for threshold in content.grid.thresholds]
    return min(pools, key=lambda pool: abs(pool.rate - rate))


def mixed(kept: RunPool, rate: float) -> RunPool:
    """A pool that fails at another rate: failing and other runs of the same pool in other proportions."""
    failing, others = np.flatnonzero(kept.failed), np.flatnonzero(~kept.failed)
    n = 10_000
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.choice(failing, round(rate * n)), rng.choice(others, n - round(rate * n))])
    return RunPool(kept.failed[chosen], kept.length[chosen], kept.exits[chosen])


def kept_promise(kept: RunPool, risk: float, streams: int, runs: int) -> dict[str, object]:
    """Streams of a pool that keeps its promise."""
    alarms = 0
    for number in range(streams):
        stream = AuditStream(ledger_in_memory(risk, number, level=LEVEL))
        alarms += stream.follow(kept.draw(runs, np.random.default_rng(number))) or stream.finish()
    p = float(binomtest(alarms, streams, LEVEL, "greater").pvalue)
    return {"risk": risk, "true rate": kept.rate, "streams": streams, "runs": runs, "alarms": alarms, "p": p}


def broken_promise(kept: RunPool, risk: float, size: int, share: float, streams: int) -> dict[str, object]:
    """Streams whose failing share changes after so many runs."""
    rows, worse = [], mixed(kept, size * risk)
    for number in range(streams):
        rng = np.random.default_rng(1000 + number)
        stream = AuditStream(ledger_in_memory(risk, number, share=share, level=LEVEL))
        if stream.follow(kept.draw(BEFORE, rng)):
            continue  # a false alarm
        harmed, audits = stream.harmed, stream.ledger.evidence.audits
        if not stream.follow(worse.draw(MOST, rng)):
            rows.append((np.inf, np.inf, harmed, stream.harmed - harmed))
            continue
        rows.append((stream.runs - BEFORE, stream.ledger.evidence.audits - audits, harmed, stream.harmed - harmed))
    runs, audited, before, between = np.median(np.array(rows, dtype=float), axis=0).tolist()
    return {
        "risk": risk,
        "rate after": size * risk,
        "share": share,
        "streams": len(rows),
        "median runs to the alarm": runs,
        "median audits": audited,
        "harmed before the change": before,
        "harmed between change and alarm": between,
        "harmed after the alarm": 0,
    }


def main() -> None:
    """Print one JSON line a cell."""
    logging.disable(logging.WARNING)
    streams = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
    kept = pool_at(0.03)
    for risk in (kept.rate, 1.25 * kept.rate):
        print(json.dumps(kept_promise(kept, risk, streams, runs)), flush=True)
    at_promise = mixed(kept, 0.05)
    print(json.dumps(kept_promise(at_promise, at_promise.rate, streams, runs)), flush=True)
    for share in (0.05, 0.1, 0.2):
        for size in SIZES:
            print(json.dumps(broken_promise(at_promise, 0.05, size, share, max(20, streams // 25))), flush=True)


if __name__ == "__main__":
    main()
