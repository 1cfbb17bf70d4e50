"""Does a warning before the budget's end help? The same problems, keys and budget, with and without it.

    python examples/studies/budget_warning.py MODEL TASKS [-n 80] [--budget 96] [--before 32] [--json]

The model thinks between markers because the prompt opens them, so one without reasoning of its own will do. Both arms
write the same up to the warning. An arm's budget is *missed* where the model hasn't closed its thinking by itself, and
an answer is *empty* where nothing stands behind the closing text. Differences are with minus without, with the 95 %
interval of a paired bootstrap over the problems.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.backends import Model, load_model
from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.runs.making import PreparedRun, run_window
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.worker import plain_text
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Controller, ControllerError, Markers, Thinking, Trace

MARKERS = Markers("<think>", "</think>")
OPENED = "<think>\n"
SUFFIX = "\n</think>\n\nFinal answer:"
ASK = "\nThink inside <think> and </think>, step by step. After </think> write the final answer alone, as one number."
RESAMPLES = 10_000
MEASURES = ("right", "missed", "empty", "thinking", "warned")
"""Of each run: its answer is right, the model hadn't closed by itself, no answer, thinking tokens, it was warned."""


def prepared(model: Model, recipe: Recipe, problem: Problem, number: int, **limits: Any) -> PreparedRun:
    """One run under limits of thinking."""
    call = recipe.call(model, problem.question + ASK, number)
    call = replace(call, prompt=[*call.prompt, *model.tokenizer.encode(OPENED)])
    return PreparedRun(Controller(thinking=Thinking(MARKERS, SUFFIX, opens="prompt"), **limits), call)


def measured(model: Model, problem: Problem, trace: Trace, grader: Any) -> list[float]:
    """MEASURES of one run."""
    span = trace.spans[0]
    answer = plain_text(model, trace.tokens[span.end + span.forced :] if span.closed_by else [])
    answer = answer.rpartition(MARKERS.close)[2].strip()
    right = bool(answer) and grader.right(answer, problem)
    return [right, span.closed_by != "model", not answer, trace.thinking_tokens, bool(trace.warned)]


def compared(without: npt.NDArray[Any], warned: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Both arms' means, and their paired difference with its interval. Each arm: (problems, MEASURES)."""
    rng, n = np.random.default_rng(0), len(without)
    gap = warned - without
    drawn = np.array([gap[rng.integers(n, size=n)].mean(0) for _ in range(RESAMPLES)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    columns = zip(MEASURES, without.mean(0), warned.mean(0), gap.mean(0), low, high, strict=True)
    return [
        dict(zip(("measure", "without", "warned", "difference", "low", "high"), one, strict=True)) for one in columns
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tasks")
    parser.add_argument("-n", type=int, default=80)
    parser.add_argument("--budget", type=int, default=96)
    parser.add_argument("--before", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4, help="problems that share forwards; it divides -n")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.n % given.batch:
        parser.error(f"-n is {given.n} and --batch {given.batch} doesn't divide it")
    show = Console(as_json=given.json)
    try:
        task, model = load_task(given.tasks), load_model(given.model, threads=1, batch=2 * given.batch)
        problems = task.problems(given.n, stream=555)
    except ControllerError as error:
        parser.error(str(error))
    markers = (MARKERS.open, MARKERS.close)
    recipe = Recipe(
        model=given.model,
        backend=None,
        threads=1,
        markers=markers,
        cues=("paragraph",),
        suffix=SUFFIX,
        max_cues=200,
        layers=(1.0,),
        policy="temperature(0.6)",
        draft="none",
        seed=5,
        max_new_tokens=given.budget + 64,
        answer_tokens=64,
    )
    arms: tuple[dict[str, int], ...] = ({}, {"warn_before": given.before})
    found: list[list[float]] = []
    for begin in range(0, given.n, given.batch):
        window = [(number, problems[number], arm) for number in range(begin, begin + given.batch) for arm in arms]
        runs = [prepared(model, recipe, problem, number, budget=given.budget, **arm) for number, problem, arm in window]
        for (number, problem, arm), (trace, _) in zip(window, run_window(model, runs, len(runs)), strict=True):
            found.append(measured(model, problem, trace, task.grader))
            show.say(f"{number}, {'warned' if arm else 'without'}: {found[-1]}", "dim")
    rows = compared(np.array(found[::2], dtype=float), np.array(found[1::2], dtype=float))
    shown = [
        [row["measure"], *(f"{row[name]:.3f}" for name in ("without", "warned", "difference", "low", "high"))]
        for row in rows
    ]
    show.table(shown, "", "without", "warned", "difference", "low", "high")
    show.result({"n": given.n, "budget": given.budget, "before": given.before, "measures": rows})


if __name__ == "__main__":
    main()
