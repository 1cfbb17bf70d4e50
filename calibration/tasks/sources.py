"""Where problems come from: the bundled task, reasoning-gym, or a .jsonl file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.thinking.answers import stated_answer

from .graders import MATH, NUMBER, Grader, load_grader
from .problem import Problem
from .tiny import fresh_problems

RAREST = 256
"""Problems that are drawn for each one wanted, before a domain counts as one that the task doesn't have."""


@dataclass(frozen=True)
class Task:
    """A source of problems. draw(n, stream): n distinct problems, the same for the same arguments.

    A finite task gives fewer than n when it has no more; streams of an endless one are independent.
    """

    name: str
    grader: Grader
    draw: Callable[[int, int], list[Problem]]

    def problems(
        self, n: int, *, stream: int, exclude: Collection[int] = (), domain: str | None = None
    ) -> list[Problem]:
        """n problems of a stream whose ids aren't in `exclude`; of one domain, if it is given."""
        if n < 1:
            raise ControllerError(f"-n is {n}; it must be at least 1")
        want, of = n, "" if domain is None else f" of the domain {domain!r}"
        while True:
            drawn = self.draw(want, stream)
            kept = [p for p in drawn if p.id not in exclude and domain in (None, p.domain)]
            if len(kept) >= n:
                return kept[:n]
            if len(drawn) < want or (domain is not None and want > RAREST * n):
                raise ControllerError(
                    f"task {self.name!r} has only {len(kept)} distinct problems{of} left of the {n} asked for; "
                    f"lower -n to {len(kept)} or give a larger task"
                )
            want = want + n - len(kept) + 8 if domain is None else 2 * want + 8


def load_task(spec: str, *, grader: str | None = None, gold: bool = True) -> Task:
    """`tiny`, `reasoning-gym:NAME[,k=v...]` or a .jsonl file; `gold` = answers are required."""
    if spec == "tiny":
        task = Task("tiny", NUMBER, _tiny)
    elif spec.startswith("reasoning-gym:"):
        task = _reasoning_gym(spec)
    elif spec.endswith((".jsonl", ".json")) or Path(spec).exists():
        task = _jsonl(Path(spec), gold)
    else:
        raise ControllerError(f"unknown task {spec!r}; use tiny, reasoning-gym:NAME or a .jsonl file")
    return Task(task.name, load_grader(grader), task.draw) if grader else task


def _tiny(n: int, stream: int) -> list[Problem]:
    return fresh_problems(n, stream)


def _reasoning_gym(spec: str) -> Task:
    import reasoning_gym

    name, *options = spec.removeprefix("reasoning-gym:").split(",")
    settings = dict(map(_option, options))

    def make(size: int, seed: int) -> Any:
        try:
            return reasoning_gym.create_dataset(name, size=size, seed=seed, **settings)
        except (ValueError, TypeError, AssertionError) as error:
            raise ControllerError(f"task {spec!r} can't be made: {error}") from None

    entries: dict[str, Any] = {}

    def draw(n: int, stream: int) -> list[Problem]:
        found: dict[str, Problem] = {}
        # Entries are a function of seed + index: a longer draw starts with the shorter one, and the streams' seeds are
        # far apart, or one would be the other, shifted by an entry.
        for entry in make(4 * n, _far_apart(stream)):
            entries[entry["question"]] = entry
            found.setdefault(entry["question"], Problem(entry["question"], str(entry["answer"])))
            if len(found) == n:
                break
        return list(found.values())

    scorer = make(1, 0)

    def right(text: str, problem: Problem) -> bool:
        entry = entries.get(problem.question) or {
            "question": problem.question,
            "answer": problem.answer,
            "metadata": {},
        }
        return float(scorer.score_answer(stated_answer(text), entry)) >= 0.99

    return Task(spec, Grader(f"reasoning-gym:{name}", stated_answer, right), draw)


def _far_apart(stream: int) -> int:
    """31 bits, which every generator takes: of two streams of 10,000 entries none are shared but with chance 1e-5."""
    return int.from_bytes(hashlib.sha256(f"stream {stream}".encode()).digest()[:4], "big") >> 1


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ControllerError(f"task option {text!r} needs the form key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _jsonl(path: Path, gold: bool) -> Task:
    if not path.is_file():
        raise ControllerError(f"task file {str(path)!r} does not exist")
    problems: dict[str, Problem] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ControllerError(f"task file {str(path)!r} is not UTF-8 text: {error.reason}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            problem = _problem(line, f"{path}:{number}", gold)
            problems.setdefault(problem.question, problem)
    if not problems:
        raise ControllerError(
            f'task file {str(path)!r} has no problems; each line is {{"question": ..., "answer": ...}}'
        )
    everything = list(problems.values())

    def draw(n: int, stream: int) -> list[Problem]:
        # One order per file, whatever the stream: what calibration took is excluded by id, not by luck.
        shuffled = random.Random(0).sample(everything, len(everything))
        return shuffled[:n]

    return Task(path.name, MATH, draw)


def _problem(line: str, where: str, gold: bool) -> Problem:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ControllerError(f"{where}: not JSON: {error.msg}") from None
    if not isinstance(record, dict) or not isinstance(record.get("question"), str) or not record["question"].strip():
        raise ControllerError(f'{where}: the line needs a non-empty "question"')
    answer = record.get("answer")
    if answer is None and gold:
        raise ControllerError(f'{where}: the line has no "answer"; add it, or use --mode disagree, which needs none')
    domain = record.get("domain", "")
    if not isinstance(domain, str):
        raise ControllerError(f'{where}: "domain" is {domain!r}; it must be a text')
    return Problem(record["question"], None if answer is None else str(answer), domain)
