"""The choice of cues: by what the fitting runs would save, never by the runs that calibrate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reasonctl.backends.load import load_model
from reasonctl.calibration.calibrate import Plan, fit_and_save, split
from reasonctl.calibration.cue_sets import EVERYTHING, choose_cues, with_cues
from reasonctl.calibration.recipe import Recipe
from reasonctl.calibration.runs import pack
from reasonctl.calibration.tasks import load_task
from reasonctl.controller import ControllerError


def record(run: int, rng: np.random.Generator, telling: str) -> dict:
    """12 cues, words and paragraphs in turn; right from a random cue on; only `telling` cues' states show it."""
    settled = int(rng.integers(0, 10))
    cues = []
    for i in range(12):
        name = "paragraph" if i % 2 else "wait"
        state = rng.normal(size=4)
        if (name == "paragraph") == (telling == "paragraph"):
            state[0] = 4.0 if i >= settled else -4.0
        cues.append({
            "name": name, "position": 20 * i + 20, "tokens": 20 * i + 30, "trial": 9, "answer": "The answer is 5.",
            "logprobs": [-0.1], "entropy": 1.0, "value": "5", "right": i >= settled, "same": i >= settled,
            "hidden": pack(state.astype(np.float32)),
        })  # fmt: skip
    return {
        "run": run, "problem": run, "domain": "", "question": str(run), "gold": "5", "tokens": 300, "finish": "stop",
        "answer": "The answer is 5.", "right": True, "cues": cues,
    }  # fmt: skip


def records(telling: str, n: int = 160, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [record(i, rng, telling) for i in range(n)]


@pytest.mark.parametrize(
    ("telling", "wanted"), [("word", ("wait", "hmm", "alternatively")), ("paragraph", ("paragraph",))]
)
def test_the_cues_whose_states_tell_are_chosen(telling, wanted):
    chosen, tried = choose_cues(records(telling), "harm", 0.1, 0.9, seed=0)
    assert chosen == wanted
    assert len(tried) == 5 and max(one.saved or 0 for one in tried) > 0.3


def test_calibration_runs_have_no_say(tmp_path: Path):
    """The calibrating half is swapped for one where only the other cues tell: the choice stays, the promise pays."""
    runs = records("word")
    _, calibrating = split(len(runs), 0)
    other = records("paragraph", seed=1)
    swapped = [other[i] if i in set(calibrating) else one for i, one in enumerate(runs)]
    recipe = Recipe(
        model="tiny", backend=None, threads=1, markers=None, cues=EVERYTHING, suffix="</think>\n", max_cues=50,
        layers=(1.0,), policy="greedy", draft="none", seed=0, max_new_tokens=400, answer_tokens=24,
    )  # fmt: skip
    model = replace(load_model("tiny", threads=1), width=4)
    plan = Plan(recipe, load_task("tiny"), "harm", len(runs), tmp_path / "a.safetensors", 0.1, 0.9, choose_cues=True)
    honest = fit_and_save(plan, model, runs, force=False)
    fooled = fit_and_save(replace(plan, out=tmp_path / "b.safetensors"), model, swapped, force=False)
    assert honest.card.cues == fooled.card.cues == ("wait", "hmm", "alternatively")
    assert honest.table.cues == 80 * 6


def test_only_collected_cues_can_be_looked_at():
    runs = records("word", n=3)
    assert all(cue["name"] == "wait" for one in with_cues(runs, ["wait"]) for cue in one["cues"])
    with pytest.raises(ControllerError, match="collected at the cues paragraph, wait; none of hmm"):
        with_cues(runs, ["hmm"])


def test_nothing_to_fit_is_one_line():
    runs = [{**one, "cues": []} for one in records("word", n=8)]
    with pytest.raises(ControllerError):
        choose_cues(runs, "harm", 0.1, 0.9, seed=0)
