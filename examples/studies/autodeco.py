"""AutoDeco's heads against the best fixed temperature and top-p of a 5 x 5 grid, on `tiny`.

    ctl calibrate tiny --tasks tiny --heads --out tiny.heads.safetensors -n 400
    python examples/studies/autodeco.py tiny.heads.safetensors [MORE.heads.safetensors]
                                        [--tune 30] [--test 300] [--batch 1]

Likelihood: of right runs that were sampled from the model's own distribution, on problems that no training saw; mean
nats a token under the truncated distribution. A token outside of the kept set has no likelihood there, so each
distribution is mixed with the model's own: (1 - e) * probs + e * own, e = 0.001, the same for all arms; the share of
such tokens is printed. The grid's best pair is chosen on a tuning split, by likelihood and by accuracy, each for its
own comparison. Accuracy: runs with the same keys in both arms. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reasonctl.backends import cores
from reasonctl.calibration.evaluation.pairs import paired_difference
from reasonctl.calibration.fitting.heads_job import OWN_DISTRIBUTION, right_runs
from reasonctl.calibration.parallel.run_jobs import run_jobs
from reasonctl.calibration.runs.collect import asked_runs, graded
from reasonctl.calibration.runs.making import windows_of
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.runs.teacher_forced import teacher_forced
from reasonctl.calibration.runs.worker import collect_runs
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes import load_heads
from reasonctl.probes.files import COOLEST

TEMPERATURES, TOP_PS = (0.3, 0.5, 0.7, 0.85, 1.0), (0.8, 0.9, 0.95, 0.98, 1.0)
GRID = [(t, p) for t in TEMPERATURES for p in TOP_PS]
MIXED = 1e-3
TUNING, TEST = 7001, 7002
"""Streams of problems; calibration with seed s uses 2s and 2s + 1."""


RECIPE = Recipe(
    model="tiny",
    backend=None,
    threads=1,
    markers=("<think>", "</think>"),
    cues=("wait",),
    suffix="</think>\n",
    max_cues=0,
    layers=(1.0,),
    policy=OWN_DISTRIBUTION,
    draft="none",
    seed=3,
    max_new_tokens=400,
    answer_tokens=8,
)


def runs(text: str, problems: Sequence[Any], grader: Any, batch: int) -> list[RunRecord]:
    """Graded runs under this policy, so many at a time in each process."""
    recipe = replace(RECIPE, policy=text, batch=batch)
    jobs = [(recipe, window) for window in windows_of(asked_runs(problems), batch)]
    records = [record for window in run_jobs(collect_runs, jobs, workers=cores()) for record in window]
    return [graded(record, problem, grader) for record, problem in zip(records, problems, strict=True)]


def right(records: Sequence[RunRecord]) -> np.ndarray:
    """(n,) bool."""
    return np.array([record.right for record in records])


def likelihood(logits: np.ndarray, labels: np.ndarray, temperature: Any, top_p: Any) -> tuple[np.ndarray, np.ndarray]:
    """The labels under the mixed distribution.

    Args:
        logits: Shape (n, vocabulary).
        labels: The tokens that were written, shape (n,).
        temperature: A number, or one for each row.
        top_p: A number, or one for each row.

    Returns:
        Log-probabilities of the labels, and whether they lie outside of the kept sets; each of shape (n,).
    """
    rows = np.arange(len(labels))
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    own = np.exp(shifted)
    own /= own.sum(1, keepdims=True)
    p = np.exp(shifted / np.maximum(np.broadcast_to(temperature, len(labels)), COOLEST)[:, None])
    p /= p.sum(1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")
    ordered = np.take_along_axis(p, order, axis=1)
    # The token that crosses top-p is kept; rounding at top-p 1 drops nothing.
    before = ordered.cumsum(1) - ordered
    cut = np.broadcast_to(top_p, len(labels))[:, None]
    kept = np.where((before < cut) | (cut >= 1.0), ordered, 0.0)
    probs = np.zeros_like(p)
    np.put_along_axis(probs, order, kept / kept.sum(1, keepdims=True), axis=1)
    at = probs[rows, labels]
    return np.log((1 - MIXED) * at + MIXED * own[rows, labels]), at == 0.0


def per_run(rows: Sequence[Any], arm: Any) -> tuple[np.ndarray, float]:
    """(runs, 2): sum of log-likelihoods and tokens of each run; and the share of tokens outside of the kept sets."""
    found = [likelihood(r.logits, r.labels, *arm(r)) for r in rows]
    outside = np.concatenate([o for _, o in found]).mean()
    return np.array([[values.sum(), len(values)] for values, _ in found]), float(outside)


def mean(sums: np.ndarray) -> float:
    return float(sums[:, 0].sum() / sums[:, 1].sum())


def interval(a: np.ndarray, b: np.ndarray) -> list[float]:
    """95 % bootstrap interval, over runs, of the difference in nats a token."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(a), len(a)) for _ in range(2000))
    found = [mean(a[i]) - mean(b[i]) for i in draws]
    return [round(float(x), 5) for x in np.quantile(found, [0.025, 0.975])]


def fixed(pair: tuple[float, float]) -> Any:
    return lambda rows: pair


def learned(path: str) -> Any:
    heads = load_heads(path).heads
    return lambda rows: np.array([heads.at(h, z) for h, z in zip(rows.hidden, rows.logits, strict=True)]).T


def chain(pair: tuple[float, float]) -> str:
    return f"temperature({pair[0]:g}) | top_p({pair[1]:g})"


def likelihoods(files: list[str], rows: Sequence[Any], fresh: Sequence[Any]) -> dict[str, Any]:
    """Every arm on fresh right runs; the grid's pair is chosen on `rows`."""
    best = max(GRID, key=lambda pair: mean(per_run(rows, fixed(pair))[0]))
    arms = {"own": fixed((1.0, 1.0)), "fixed": fixed(best), **{path: learned(path) for path in files}}
    found = {name: per_run(fresh, arm) for name, arm in arms.items()}
    result: dict[str, Any] = {"best": best, "tokens": int(found["own"][0][:, 1].sum())}
    for name, (sums, outside) in found.items():
        gain = {
            "over_fixed": round(mean(sums) - mean(found["fixed"][0]), 5),
            "interval": interval(sums, found["fixed"][0]),
        }
        result[name] = {"nats": round(mean(sums), 5), "outside": round(outside, 5), **gain}
        print(f"{name:40} {result[name]}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--tune", type=int, default=30)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--batch", type=int, default=1, help="runs that share forwards")
    given = parser.parse_args()
    task, batch = load_task("tiny"), given.batch
    tuning, test = task.problems(given.tune, stream=TUNING), task.problems(given.test, stream=TEST)
    own, model = [runs(OWN_DISTRIBUTION, problems, task.grader, batch) for problems in (tuning, test)], RECIPE.load()
    rows = [[teacher_forced(model, run) for run in right_runs(model, records)] for records in own]
    likelihood_of = likelihoods(given.heads, *rows)

    tuned = {pair: float(right(runs(chain(pair), tuning, task.grader, batch)).mean()) for pair in GRID}
    best = max(GRID, key=lambda pair: tuned[pair])
    print(f"right of {given.tune} tuning problems: " + ", ".join(f"{k}: {v:.2f}" for k, v in tuned.items()), flush=True)
    accuracy: dict[str, Any] = {"best": best, "own": float(right(own[1]).mean())}
    reference = right(runs(chain(best), test, task.grader, batch))
    accuracy["fixed"] = float(reference.mean())
    for path in given.heads:
        records = runs(f"autodeco({json.dumps(path)})", test, task.grader, batch)
        good, tokens = right(records), float(np.mean([record.tokens for record in records]))
        gained, lost = int((good & ~reference).sum()), int((~good & reference).sum())
        difference = paired_difference(gained, lost, given.test)
        accuracy[path] = {"right": float(good.mean()), "tokens": tokens, **difference}
        print(f"{path:40} {accuracy[path]}", flush=True)
    print(
        json.dumps(
            {
                "tune": given.tune,
                "test": given.test,
                "mixed": MIXED,
                "likelihood": likelihood_of,
                "accuracy": accuracy,
            }
        )
    )


if __name__ == "__main__":
    main()
