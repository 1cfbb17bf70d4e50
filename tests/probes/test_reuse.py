"""One probe file under both backends: same problems, same keys, the same decisions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reasonctl.backends.load import BUNDLED_PROBE, load_model
from reasonctl.calibration.parallel.run_jobs import run_jobs
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.splits import evaluation_stream
from reasonctl.calibration.runs.worker import one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes import ProbeExit, load_exit, load_probe

PROBE = BUNDLED_PROBE
BACKENDS = ("llama.cpp", "transformers")


def recipe(backend: str) -> Recipe:
    card = load_exit(PROBE).card
    return Recipe(
        model="tiny",
        backend=backend,
        threads=1,
        markers=card.markers,
        cues=card.cues,
        suffix=card.suffix,
        max_cues=card.max_cues,
        layers=card.layers,
        policy="temperature(0.6)",
        draft="none",
        seed=9,
        max_new_tokens=card.max_new_tokens,
        answer_tokens=64,
    )


def rule() -> ProbeExit:
    """The stored probe at a stricter threshold than it needs: at the calibrated one nearly every run exits."""
    content = load_probe(PROBE)
    strict = content.grid.thresholds[content.grid.exits >= 0.75][0]
    made = load_exit(PROBE, risk=0.05)
    assert strict > made.threshold.value
    return ProbeExit(content, made.promise, replace(made.threshold, value=float(strict)))


def decided(backend: str, index: int, question: str) -> tuple[list[int], int | None, int]:
    """(tokens, index of the exit's cue, tokens before it or -1) of one controlled run."""
    shared = recipe(backend)
    trace, _ = one_run(shared, shared.load(), index, question, rule())
    left = trace.exit
    return trace.tokens, None if left is None else left.index, -1 if left is None else left.position


def compare(n: int, workers: int) -> dict[str, float]:
    problems = load_task("tiny").problems(n, stream=evaluation_stream(9))
    got = {
        backend: list(run_jobs(decided, [(backend, i, p.question) for i, p in enumerate(problems)], workers=workers))
        for backend in BACKENDS
    }
    agreeing = same = exits = 0
    cues = set()
    for (tokens, cue, position), (other, other_cue, other_position) in zip(*got.values(), strict=True):
        exits += cue is not None
        cues.add(cue)
        # Kernels differ by rounding: a draw near an edge of the law may split two runs before the decision.
        until = min(p for p in (position, other_position, len(tokens), len(other)) if p >= 0)
        if tokens[:until] == other[:until]:
            agreeing += 1
            same += cue == other_cue
    return {"runs": n, "agreeing": agreeing, "same": same, "exit_rate": exits / n, "cues": len(cues - {None})}


def check(result: dict[str, float]) -> None:
    print(json.dumps(result))
    assert 0.2 <= result["exit_rate"] <= 0.95
    assert result["cues"] >= 3
    assert result["same"] >= 0.97 * result["agreeing"]
    assert result["agreeing"] >= 0.9 * result["runs"]


def test_one_probe_serves_both_backends():
    check(compare(24, workers=1))


@pytest.mark.slow
def test_one_probe_serves_both_backends_on_many_runs():
    check(compare(300, workers=2))


def test_both_formats_are_one_model():
    models = [load_model("tiny", backend=backend, threads=1) for backend in BACKENDS]
    assert models[0].fingerprint() == models[1].fingerprint()
    assert models[0].template == models[1].template
    question = "48 a-9 b+6 c-3"
    assert models[0].prompt(question) == models[1].prompt(question)
    for text in ("Wait ok a-3 77", " \u00e9\u6f22\u5b57\r\n\t", "<think>x</think>\n"):
        assert models[0].tokenizer.encode(text) == models[1].tokenizer.encode(text)
