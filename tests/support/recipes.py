"""A recipe for runs of the bundled model."""

from __future__ import annotations

from reasonctl.calibration.runs.recipe import Recipe

RECIPE = Recipe(
    model="tiny",
    backend=None,
    threads=1,
    markers=("<think>", "</think>"),
    cues=("wait", "hmm", "alternatively"),
    suffix="</think>\n",
    max_cues=50,
    layers=(1 / 3, 1.0),
    policy="temperature(0.6)",
    draft="none",
    seed=3,
    max_new_tokens=160,
    answer_tokens=24,
)
