"""Thinking longer only where the answer isn't settled: re-opened spans (s1), fixed times against asked of the probe.

    python examples/studies/adaptive_thinking.py [MODEL TASKS --probe P.safetensors] [-n 400] [--risk 0.02] [--bonus 6]
                                         [--times 1 2 4 8 16] [--continue-text Wait] [--max-new-tokens N] [--json]
                                         [--batch 1]

Without MODEL: `tiny`. It checks itself for long by itself, so a hasty version of it is made: `</think>` gets a
bonus in the logits, as in a model that hardly reflects. Any other model is taken as it is; one without markers is
re-opened at its end of sequence. --continue-text begins with one of the probe's cues. --times: how often the probe may
re-open; the fixed arms stop at half of the last.

Every arm answers the same problems with the same keys. "beyond fixed k": right answers of an arm minus those of
"re-opened k times" at the same mean tokens, a coin choosing between two neighbouring k (k = 0 is "as it is"), with the
95 % interval of a paired bootstrap over problems, in which tokens and coin are worked out anew each time. Where the
probe may re-open, "early exit only" is one of the coin's sides too, so that what stands there is what re-opening adds
to exits. An arm that is cheaper than all of them, or dearer, is compared with the nearest: `<` or `>` says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reasonctl.backends import BUNDLED_PROBE, TINY, cores
from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.parallel.run_jobs import run_jobs
from reasonctl.calibration.runs.collect import asked_runs
from reasonctl.calibration.runs.making import PreparedRun, run_window, windows_of
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.worker import AskedRun, answer_text
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Controller, ControllerError, Policy, Sampling, Thinking, draw
from reasonctl.probes import load_exit

TIMES = (1, 2, 4, 8, 16)
RESAMPLES = 2000
SEED = 5


@dataclass(frozen=True)
class Hasty(Policy):
    """Sampling with a bonus for the token that closes thinking; its scale is that of logits."""

    bonus: float
    close: int
    sampling: Sampling = Sampling(temperature=0.6)

    def start(self) -> None:
        return None

    def step(self, state: None, row: Any) -> tuple[None, int]:
        logits = row.logits.astype(np.float64)
        # Only where the model might close at all: after a finished line.
        logits[self.close] += self.bonus if logits[self.close] > logits.max() - 8 else 0.0
        return None, draw(self.sampling.probs(logits), row.uniform())


@dataclass(frozen=True)
class Setting:
    """What all arms share; the same for every worker."""

    recipe: Recipe
    probe: str
    risk: float
    bonus: float
    text: str
    times: tuple[int, ...] = TIMES

    def controller(self, asked: bool, times: int) -> Controller:
        """asked: the probe decides at cues and at every close."""
        recipe = self.recipe
        if asked:
            return Controller(exit=load_exit(self.probe, risk=self.risk), continue_times=times, continue_text=self.text)
        return Controller(
            thinking=Thinking(recipe.span(), recipe.suffix), continue_times=times, continue_text=self.text
        )


class Arm(NamedTuple):
    """right, tokens: (problems,)."""

    right: npt.NDArray[Any]
    tokens: npt.NDArray[Any]


class Gain(NamedTuple):
    """Right answers beyond fixed k at equal tokens."""

    mean: float
    """On the problems themselves."""
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end of the interval."""
    beside: str
    """Empty within the reach of the fixed arms; `<` or `>`: the arm is cheaper or dearer than all of them."""


class Answered(NamedTuple):
    """What one run gave."""

    text: str
    """Its answer."""
    tokens: int
    """Its cost."""


def answers(setting: Setting, asked: bool, times: int, window: Sequence[AskedRun]) -> list[Answered]:
    """The answers to some questions."""
    recipe = setting.recipe
    model, controller = recipe.load(), setting.controller(asked, times)
    runs = []
    for one in window:
        call = recipe.call(model, one.question, one.run)
        if setting.bonus:
            (close,) = model.tokenizer.encode("</think>")
            call = replace(call, policy=Hasty(setting.bonus, close))
        runs.append(PreparedRun(controller, call))
    found = []
    for trace, _ in run_window(model, runs, recipe.batch):
        tokens = trace.tokens[trace.forced[0] :] if trace.forced else trace.tokens
        found.append(Answered(answer_text(recipe, model, tokens), trace.cost))
    return found


def beyond_fixed(arm: Arm, fixed: list[Arm], seed: int = 0) -> Gain:
    """Neighbours in tokens among `fixed` are mixed; beyond both ends the nearest stands alone."""
    rng, n = np.random.default_rng(seed), len(arm.right)

    def gain(rows: npt.NDArray[Any]) -> float:
        points = sorted((other.tokens[rows].mean(), other.right[rows].mean()) for other in fixed)
        tokens, right = zip(*points, strict=True)
        return float(arm.right[rows].mean() - np.interp(arm.tokens[rows].mean(), tokens, right))

    low, high = np.quantile([gain(rng.integers(n, size=n)) for _ in range(RESAMPLES)], [0.025, 0.975])
    means, mean = [other.tokens.mean() for other in fixed], arm.tokens.mean()
    beside = "<" if mean < min(means) else ">" if mean > max(means) else ""
    return Gain(gain(np.arange(n)), float(low), float(high), beside)


def recipe_of(model: str, probe: str, most: int | None) -> Recipe:
    """How the probe's runs were made; most: tokens of a run, if not as many as then."""
    card = load_exit(probe).card
    return Recipe(
        model=model,
        backend=None,
        threads=1 if model == TINY else None,
        markers=card.markers,
        cues=card.cues,
        suffix=card.suffix,
        max_cues=card.max_cues,
        layers=card.layers,
        policy=str(card.sampler["policy"]),
        draft="none",
        seed=SEED,
        max_new_tokens=most or card.max_new_tokens,
        answer_tokens=64,
    )


def run(show: Console, setting: Setting, problems: list[Problem], grader: Any) -> dict[str, Any]:
    """Every arm, printed as one table."""
    workers = cores() if setting.recipe.model == TINY else 1

    def arm(asked: bool, times: int) -> Arm:
        windows = windows_of(asked_runs(problems), setting.recipe.batch)
        jobs = [(setting, asked, times, window) for window in windows]
        found = [one for window in run_jobs(answers, jobs, workers=workers) for one in window]
        right = [grader.right(text, problem) for (text, _), problem in zip(found, problems, strict=True)]
        one = Arm(np.array(right, dtype=float), np.array([tokens for _, tokens in found], dtype=float))
        show.say(f"done: {_name(asked, times)}: {one.right.mean():.3f} right, {one.tokens.mean():.1f} tokens", "dim")
        return one

    most = max(1, setting.times[-1] // 2)
    steps = (0, *(times for times in setting.times if times <= most))
    fixed = [arm(False, times) for times in steps]
    rows: list[dict[str, Any]] = [
        {"arm": _name(False, times), **_means(one)} for times, one in zip(steps, fixed, strict=True)
    ]
    for times in (0, *setting.times):
        one = arm(True, times)
        rows.append({"arm": _name(True, times), **_means(one), "beyond": beyond_fixed(one, fixed)._asdict()})
        fixed = fixed if times else [*fixed, one]
    show.table([_shown(row) for row in rows], "arm", "right", "tokens", "beyond fixed k at equal tokens")
    return {"n": len(problems), "risk": setting.risk, "bonus": setting.bonus, "arms": rows}


def _name(asked: bool, times: int) -> str:
    if asked:
        return f"up to {times} times, probe asked" if times else "early exit only"
    return f"re-opened {times} times" if times else "as it is"


def _means(arm: Arm) -> dict[str, float]:
    return {"right": float(arm.right.mean()), "tokens": float(arm.tokens.mean())}


def _shown(row: dict[str, Any]) -> list[str]:
    gain = row.get("beyond")
    shown = ""
    if gain is not None:
        shown = f"{gain['beside']} {gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})".strip()
    return [row["arm"], f"{row['right']:.3f}", f"{row['tokens']:.1f}", shown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=TINY)
    parser.add_argument("tasks", nargs="?", default="tiny")
    parser.add_argument("--probe")
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--bonus", type=float, default=6.0, help="for tiny only")
    parser.add_argument("--risk", type=float, default=0.02)
    parser.add_argument("--times", type=int, nargs="+", default=list(TIMES), metavar="K")
    parser.add_argument("--continue-text", default="Wait")
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--batch", type=int, default=1, help="runs that share forwards")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.model != TINY and given.probe is None:
        parser.error("--probe is missing; make one with: ctl calibrate MODEL --tasks T --out P.safetensors")
    probe = given.probe or str(BUNDLED_PROBE)
    task, show = load_task(given.tasks), Console(as_json=given.json)
    bonus = given.bonus if given.model == TINY else 0.0
    try:
        recipe = recipe_of(given.model, probe, given.max_new_tokens or (900 if given.model == TINY else None))
        recipe = replace(recipe, batch=given.batch)
        setting = Setting(recipe, probe, given.risk, bonus, given.continue_text, tuple(sorted(given.times)))
        for warning in setting.controller(True, 1).exit.check(recipe.load()):
            show.say(f"warning: {warning}", "yellow")
        problems = task.problems(given.n, stream=555)
    except ControllerError as error:
        parser.error(str(error))
    show.say(f"{given.n} problems of {task.name}, risk {given.risk:g}" + f", </think> + {bonus:g}" * bool(bonus))
    show.result(run(show, setting, problems, task.grader))


if __name__ == "__main__":
    main()
