"""Runs at a temperature, in vLLM and in our own loop on transformers: two samples that should have one law.

python -m support.vllm_law '{"n": 300}'; the last line of stdout has a p-value for each thing that is compared. It runs
in vLLM's environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import chi2_contingency

from reasonctl.backends import Model, load_model, tiny_folder
from reasonctl.calibration.runs.making import PreparedRun, run_window
from reasonctl.controller import Call, Controller, Keys, parse_policy
from reasonctl.probes import ProbeExit, load_exit
from support.vllm_jobs import MOST, Job, arm, client_of, engine_of, model_folder, probe_in, problems_of, right

BATCH = 16
"""Runs that share forwards in our own loop."""
FEWEST = 10
"""Categories with fewer runs in both samples together are one."""


def ours(model: Model, rule: ProbeExit | None, prompts: list[list[int]], temperature: float) -> list[list[int]]:
    """The tokens of our runs."""
    policy = parse_policy(f"temperature({temperature})")
    calls = [Call(prompt, MOST, model.eos, Keys(seed=1, run=i), policy) for i, prompt in enumerate(prompts)]
    window = [PreparedRun(Controller(exit=rule), call) for call in calls]
    return [made.trace.tokens for made in run_window(model, window, BATCH)]


def p_value(one: Sequence[Hashable], two: Sequence[Hashable]) -> float:
    """Of a chi-square test of homogeneity of two samples of categories; rare categories are one."""
    counts = [Counter(one), Counter(two)]
    both = counts[0] + counts[1]
    kept = [name for name, count in both.items() if count >= FEWEST]
    table = [[count[name] for name in kept] for count in counts]
    rare = [sum(count.values()) - sum(row) for count, row in zip(counts, table, strict=True)]
    if sum(rare):
        table = [[*row, left] for row, left in zip(table, rare, strict=True)]
    return 1.0 if len(table[0]) < 2 else float(chi2_contingency(table, correction=False).pvalue)


def features_of(model: Model, tokens: list[int], answer: str) -> dict[str, Hashable]:
    """What is compared of a run."""
    text = model.tokenizer.decode(tokens)
    thought = text.partition("</think>")[0]
    lines = thought.strip().splitlines()
    return {
        "lines": len(lines),
        "length": len(tokens) // 12,
        "second line begins with": lines[1].split()[0] if len(lines) > 1 else "",
        "right": right(model, tokens, answer),
    }


def compared(ours: list[dict[str, Hashable]], theirs: list[dict[str, Hashable]]) -> dict[str, Any]:
    """A p-value for each feature, and the rates of right answers."""
    found: dict[str, Any] = {name: p_value([o[name] for o in ours], [t[name] for t in theirs]) for name in ours[0]}
    return {"p": found, "right": [sum(bool(one["right"]) for one in arm) for arm in (ours, theirs)]}


def main(job: Job) -> dict[str, Any]:
    """Both arms of both samples."""
    work = Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    probe = probe_in(job.form, work)
    rule = load_exit(probe, risk=0.05)
    llm = engine_of(job, model_folder(work / "model"), probe)
    model = load_model(str(tiny_folder()), backend="transformers", batch=BATCH)
    rule.check(model)
    problems = problems_of(job)
    prompts = [model.prompt(problem.question) for problem in problems]
    result: dict[str, Any] = {"n": job.n}
    for name in job.arms:
        theirs = [run.written for run in arm(job, llm, client_of(model, rule), prompts, name)[0]]
        mine = ours(model, rule if name == "exit" else None, prompts, job.temperature)
        features = [
            [features_of(model, tokens, problem.answer) for tokens, problem in zip(runs, problems, strict=True)]
            for runs in (mine, theirs)
        ]
        result[name] = compared(*features) | {"tokens": [sum(map(len, runs)) for runs in (mine, theirs)]}
    return result


if __name__ == "__main__":
    found = main(Job(**{"temperature": 0.6, **json.loads(sys.argv[1])}))
    sys.stdout.flush()
    print(json.dumps(found))
