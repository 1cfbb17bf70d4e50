"""What policies do to answers: accuracy and distinct answers at several temperatures, same problems and keys.

    python examples/studies/policy_effect.py [MODEL] [TASKS] [-n 40] [--samples 6] [--batch 1]
        [--temperatures 0.6,1,1.5,2] [--only ROW ...]

Each policy answers every problem several times. `accuracy` is the share of right answers; `distinct` the number of
different answers (of those that state one) per problem; `any right` the share of problems with a right answer among the
samples; `voted` the share whose most frequent answer is right; `weighed` the same where each sample counts with its
importance weight under the globally normalised distribution (local normalization distortion undone), and `ess` the
effective share of samples that these weights leave. Intervals are 95 % bootstrap intervals over problems; `difference`
is to the plain distribution at the same temperature, on the same problems. Truncations come after the temperature,
where transformers has them; mirostat and EAD set their own. --only names rows, those of MORE too, which take no part
otherwise; plain is always there, as the reference. One line of JSON per row goes to --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from reasonctl.backends import Model, load_model
from reasonctl.calibration.advice.truncation import SamplePlan, sample
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import Task, load_task
from reasonctl.controller import Weighed, distortion, importance_weights, parse_policy
from reasonctl.controller.thinking import after_thinking, read_template

AFTER_TEMPERATURE = {
    "plain": "",
    "top_k(20)": "top_k(20)",
    "top_p(0.9)": "top_p(0.9)",
    "min_p(0.1)": "min_p(0.1)",
    "top_n_sigma(1)": "top_n_sigma(1)",
    "top_h(0.4)": "top_h(0.4)",
    "typical(0.9)": "typical(0.9)",
    "eta(2e-3)": "eta(0.002)",
}
OWN = {
    "edt(t0=T)": "edt(t0={t},theta=0.1)",
    "edt(t0=T,theta=0.4)": "edt(t0={t},theta=0.4)",
    "ead(t_max=T)": "ead(median={median},t_max={high})",
    "mirostat_v2(tau=T)": "mirostat_v2(tau={t})",
}
"""T is their own parameter: t0, t_max (at least 1.2), tau in bits."""

MORE = {
    "dynatemp(t=T)": "dynatemp(t={t},range=0.5)",
    "xtc": "temperature({t}) | xtc(probability=0.5,threshold=0.1)",
    "mirostat(tau=T)": "mirostat(tau={t})",
    "mirostat_v2(3) behind T": "temperature({t}) | mirostat_v2(tau=3)",
}
"""Rows that are asked for by name."""


HEAD = (
    "| T | policy | accuracy | difference | distinct | any right | voted | weighed | ess | tokens |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class TableRow:
    """One policy at one temperature; intervals are (low, high)."""

    temperature: float
    name: str
    policy: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    distinct: float
    distinct_interval: tuple[float, float]
    any_right: float
    voted: float
    weighed: float
    ess: float
    stated: float
    tokens: float
    seconds: float


@dataclass(frozen=True)
class Answers:
    """Of one policy on all problems: right and log_z, shape (problems, samples); the stated answers; tokens a run."""

    right: np.ndarray
    stated: list[list[str]]
    log_z: np.ndarray
    tokens: float
    seconds: float

    def distinct(self) -> np.ndarray:
        return np.array([len({answer for answer in answers if answer}) for answers in self.stated])

    def voted(self, weights: np.ndarray) -> float:
        """Share of problems whose answer of most weight is right; the earliest of equally heavy ones counts."""
        right = 0
        for i, answers in enumerate(self.stated):
            votes: dict[str, float] = {}
            for k, answer in enumerate(answers):
                if answer:
                    votes[answer] = votes.get(answer, 0.0) + weights[i, k]
            winner = max(votes, key=lambda answer: votes[answer], default="")
            right += any(self.right[i, k] for k, answer in enumerate(answers) if winner and answer == winner)
        return right / len(self.stated)

    def weights(self) -> np.ndarray:
        """Importance weights of each problem's samples."""
        return np.array([importance_weights(logs) for logs in self.log_z])

    def ess(self) -> float:
        """Effective share of a problem's samples under these weights, mean over problems."""
        return float(np.mean([distortion(logs).ess for logs in self.log_z]))


def policies(t: float, median: int, only: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    rows = {
        name: f"temperature({{t}}){' | ' if stage else ''}{stage}" for name, stage in AFTER_TEMPERATURE.items()
    } | OWN
    names = list(rows) if only is None else dict.fromkeys(["plain", *only])
    for name in names:
        yield name, (rows | MORE)[name].format(t=t, high=max(t, 1.2), median=median)


def answers(model: Model, task: Task, problems: list[Problem], text: str, given: argparse.Namespace) -> Answers:
    """All runs of one policy; run numbers, and so keys, are the same for every policy."""
    markers, started = read_template(model.template).markers, time.process_time()
    plan = SamplePlan(given.max_new_tokens, given.seed, given.batch)
    prompts = [model.prompt(problem.question) for problem in problems]
    written = sample(model, prompts, Weighed(parse_policy(text)), plan, samples=given.samples)
    right, stated = [], []
    for problem, traces in zip(problems, written, strict=True):
        wholes = [model.tokenizer.decode([t for t in trace.tokens if t not in model.eos]) for trace in traces]
        texts = [after_thinking(whole, markers) for whole in wholes]
        right.append([task.grader.right(answer, problem) for answer in texts])
        stated.append([task.grader.extract(answer) for answer in texts])
    log_z = np.array([[trace.log_z for trace in traces] for traces in written], dtype=float)
    tokens = np.mean([len(trace.tokens) for traces in written for trace in traces])
    return Answers(np.array(right), stated, log_z, float(tokens), time.process_time() - started)


def interval(values: np.ndarray, rng: np.random.Generator, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over problems."""
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def summary(t: float, name: str, text: str, found: Answers, plain: Answers, seed: int) -> TableRow:
    rng = np.random.default_rng(seed)
    accuracy, gap = found.right.mean(axis=1), (found.right.mean(axis=1) - plain.right.mean(axis=1))
    distinct = found.distinct()
    return TableRow(
        t,
        name,
        text,
        float(accuracy.mean()),
        interval(accuracy, rng),
        float(gap.mean()),
        interval(gap, rng),
        float(distinct.mean()),
        interval(distinct, rng),
        float(found.right.any(axis=1).mean()),
        found.voted(np.ones_like(found.log_z)),
        found.voted(found.weights()),
        found.ess(),
        float(np.mean([bool(a) for one in found.stated for a in one])),
        found.tokens,
        found.seconds,
    )


def line(row: TableRow) -> str:
    (low, high), (worse, better), (few, many) = row.accuracy_interval, row.difference_interval, row.distinct_interval
    return (
        f"| {row.temperature:g} | {row.name} | {row.accuracy:.3f} ({low:.3f}-{high:.3f}) | {row.difference:+.3f} "
        f"({worse:+.3f} to {better:+.3f}) | {row.distinct:.2f} ({few:.2f}-{many:.2f}) | {row.any_right:.3f} "
        f"| {row.voted:.3f} | {row.weighed:.3f} | {row.ess:.2f} | {row.tokens:.0f} |"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("tasks", nargs="?", default="tiny")
    parser.add_argument("-n", type=int, default=40, help="problems")
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--temperatures", default="0.6,1,1.5,2")
    parser.add_argument(
        "--only", nargs="+", choices=[*AFTER_TEMPERATURE, *OWN, *MORE], metavar="ROW", help="names of rows"
    )
    parser.add_argument("--max-new-tokens", type=int, default=400)
    parser.add_argument("--median", type=int, default=0, help="tokens of an answer, for EAD [measured at 0.6]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="runs that share forwards")
    parser.add_argument("--out", help="a line of JSON per row")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    task = load_task(given.tasks)
    model = load_model(given.model, threads=given.threads, hidden=False, batch=given.batch)
    problems = task.problems(given.n, stream=900 + given.seed)
    median = given.median or round(answers(model, task, problems[:8], "temperature(0.6)", given).tokens)
    print(
        f"{given.model}, {given.tasks}: {given.n} problems, {given.samples} samples each, EAD's median {median} tokens"
    )
    print(HEAD)
    file = Path(given.out).open("w", encoding="utf-8") if given.out else None  # noqa: SIM115
    for t in map(float, given.temperatures.split(",")):
        plain: Answers | None = None
        for name, text in policies(t, median, given.only):
            found = answers(model, task, problems, text, given)
            plain = plain or found
            row = summary(t, name, text, found, plain, given.seed)
            print(line(row), flush=True)
            if file is not None:
                print(json.dumps(asdict(row)), file=file, flush=True)
    if file is not None:
        file.close()


if __name__ == "__main__":
    sys.exit(main())
