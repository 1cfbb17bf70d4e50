"""Collects the same greedy runs of `tiny` in vLLM and in our own loop, and fits a probe on each.

python -m support.vllm_collecting 200 40: so many in vLLM, and of these so many in our own loop. The last line of stdout
is the comparison. It runs in vLLM's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import numpy as np
import torch

from reasonctl.calibration.fitting.all_signals import freeze_signals
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.collect import graded
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.runs.worker import AskedRun, collect_runs
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.probes import Promise


def recipe_for(backend: str) -> Recipe:
    """Greedy runs of the bundled model, with its own closing. After every 16th token an exit is often wrong."""
    return Recipe(
        model="tiny",
        backend=backend,  # type: ignore[arg-type]
        threads=None,
        markers=("<think>", "</think>"),
        cues=("wait", "hmm", "alternatively", "every(16)"),
        suffix="</think>\n",
        max_cues=200,
        layers=(1 / 3, 2 / 3, 1.0),
        policy="greedy",
        draft="none",
        seed=0,
        max_new_tokens=768,
        answer_tokens=64,
        batch=1 if backend == "transformers" else 64,
    )


def collected(backend: str, questions: list[str]) -> tuple[list[RunRecord], float]:
    """The records of a backend, and the CPU time that they took without its start."""
    recipe = recipe_for(backend)
    collect_runs(recipe, [AskedRun(0, questions[0])])  # starts the engine
    begin = time.process_time()
    made = collect_runs(recipe, [AskedRun(i, question) for i, question in enumerate(questions)])
    return made, time.process_time() - begin


def same_cues(one: RunRecord, two: RunRecord) -> bool:
    """Whether two records hold the same cues with the same trials, but for their numbers."""
    fields = ("name", "names", "position", "row", "offset", "tokens", "trial", "answer", "value", "complete")
    mine, theirs = [*one.cues, *one.others], [*two.cues, *two.others]
    return len(mine) == len(theirs) and all(
        getattr(a, name) == getattr(b, name) for a, b in zip(mine, theirs, strict=True) for name in fields
    )


def main(n: int, both: int) -> None:
    """Print how the records, and the probes that are fitted on them, differ; `both`: runs that are made twice."""
    torch.set_num_threads(1)
    task = load_task("tiny")
    problems = task.problems(n, stream=4321)
    questions = [problem.question for problem in problems]
    vllms, vllm_seconds = collected("vllm", questions)
    ours, our_seconds = collected("transformers", questions[:both])
    pairs = list(zip(ours, vllms, strict=False))
    vllms, problems = vllms[:both], problems[:both]
    cues = [(a, b) for one, two in pairs for a, b in zip(one.cues, two.cues, strict=False)]
    found = {
        "runs": both,
        "same_texts": sum(
            (a.text, a.answer, a.tokens, a.finish) == (b.text, b.answer, b.tokens, b.finish) for a, b in pairs
        ),
        "same_cues": sum(same_cues(a, b) for a, b in pairs),
        "cues": len(cues),
        "state_apart": max(float(np.abs(a.state - b.state).max()) for a, b in cues),
        "state_size": max(float(np.abs(a.state).max()) for a, _ in cues),
        "entropy_apart": max(abs(a.entropy - b.entropy) for a, b in cues),
        "logprob_apart": max(abs(x - y) for a, b in cues for x, y in zip(a.logprobs, b.logprobs, strict=False)),
        "logprob_counts": sum(len(a.logprobs) == len(b.logprobs) for a, b in cues),
        "seconds": [vllm_seconds, our_seconds],
        "per_second": [n / vllm_seconds, both / our_seconds],
    }
    print(json.dumps(found), flush=True)
    probes = []
    for records in (ours, vllms):
        arrays = to_arrays([graded(one, problem, task.grader) for one, problem in zip(records, problems, strict=True)])
        probes.append(freeze_signals(arrays, recipe_for("vllm").cues, Promise(), "all", seed=0).probe)
    states = np.array([a.state for a, _ in cues], dtype=np.float64)
    found["scores_apart"] = float(np.abs(probes[0].scores(states) - probes[1].scores(states)).max())
    sys.stdout.flush()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[-1]))
