"""The promise on the bundled model: with the real probe, and with one that was fitted on permuted labels."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.load import load_model
from reasonctl.calibration.evaluation.baselines import compare, fixed_at, fixed_curve
from reasonctl.calibration.fitting.collecting import freeze
from reasonctl.calibration.fitting.job import CalibrationJob, calibrate_and_save
from reasonctl.calibration.fitting.tables import make_table
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.collect import collect
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.runs.splits import evaluation_stream
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.bounds import refutes
from support import recipes
from support.run_records import scored

pytestmark = pytest.mark.slow
N, EVALUATION, SEED = 800, 500, 21
RECIPE = replace(
    recipes.RECIPE, max_cues=200, layers=(1 / 3, 2 / 3, 1.0), seed=SEED, max_new_tokens=768, answer_tokens=64
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(records for fitting and calibration, evaluation as arrays), collected live."""
    task, folder = load_task("tiny"), tmp_path_factory.mktemp("runs")
    problems = task.problems(N, stream=2 * SEED)
    fresh = task.problems(EVALUATION, stream=evaluation_stream(SEED), exclude={p.id for p in problems})
    parts = []
    for name, part in (("calibration", problems), ("evaluation", fresh)):
        file = RunFile(folder / name, {})
        collect(RECIPE, part, task.grader, file, done=file.open(force=False), workers=2, progress=lambda a, b: None)
        parts.append(file.read())
    return parts[0], to_arrays(parts[1])


def measure(records, evaluation, folder: Path):
    """Savings and harm on the evaluation runs of a probe made from these records by the pipeline of `ctl calibrate`."""
    plan = CalibrationJob(RECIPE, load_task("tiny"), Promise(), N, folder / "p.safetensors", fit=N // 2, labels="all")
    frozen = freeze(plan, records[: plan.fit])
    model = load_model("tiny", threads=1)
    content = calibrate_and_save(plan, model, scored(records, frozen.probe), frozen, force=True)
    table = make_table(evaluation, content.probe.scores(evaluation.features), RECIPE.cues)
    results = compare(None, content.table, table, Promise(), grid=content.grid)
    return table, results[0], results[1]


def test_the_probe_keeps_its_promise_and_saves(runs, tmp_path):
    table, probe, index = measure(*runs, tmp_path)
    print(f"probe saves {probe.saved_share:.3f} at harm {probe.harm:.3f}; calibrated cue index {index.saved_share:.3f}")
    assert not refutes(round(probe.harm * EVALUATION), EVALUATION, 0.05)
    assert probe.saved_share > 0.45
    full = table.full_tokens.mean()
    assert probe.saved_share > fixed_at(fixed_curve(table, "harm"), probe.failed) / full + 0.1


def test_permuted_labels_keep_the_promise_and_save_nothing_a_fixed_cue_does_not(runs, tmp_path):
    """The labels that the probe is fitted on are shuffled over all cues; those that calibrate it stay true.

    False-alarm rate: 1 % for the promise, 0.15 % (3 standard errors) for the savings.
    """
    records, evaluation = runs
    fitting = range(N // 2)
    labels = [cue.right for i in fitting for cue in records[i].cues]
    random.Random(1).shuffle(labels)
    shuffled = iter(labels)
    permuted = list(records)
    for i in fitting:
        permuted[i] = replace(records[i], cues=tuple(replace(cue, right=next(shuffled)) for cue in records[i].cues))
    table, probe, _ = measure(permuted, evaluation, tmp_path)
    fixed = fixed_at(fixed_curve(table, "harm"), probe.failed)
    print(f"permuted probe saves {probe.saved:.1f} tokens at harm {probe.harm:.3f}; a fixed cue {fixed:.1f}")
    assert not refutes(round(probe.harm * EVALUATION), EVALUATION, 0.05)
    error = float(np.std(table.full_tokens - probe.tokens)) / EVALUATION**0.5
    assert probe.saved <= fixed + 3 * error
