"""Where problems come from: the bundled task, reasoning-gym, or a .jsonl file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, file_name, find_plugin, lines, parse, plugin_names
from reasonctl.controller.thinking import stated_answer

from .graders import MATH, NUMBER, Grader, is_right, load_grader, same_answer
from .grading.limited import LIMITED
from .problem import Distinct, Problem, Prompt
from .tiny import fresh_problems

OWN_TASKS = ("tiny", "reasoning-gym")
"""Names of tasks of our own."""

RAREST = 256
"""Problems that are drawn for each one wanted, before a domain counts as one that the task doesn't have."""

LONGEST_SCORED = 10_000
"""Characters of an answer that reasoning-gym's scorers are given."""

SCORING_SECONDS = 3.0
"""Processor time of one score."""


@dataclass(frozen=True)
class Task:
    """A source of problems."""

    name: str
    """How the command line names it."""
    grader: Grader
    """What grades its answers."""
    draw: Callable[[int, int], list[Problem]]
    """draw(n, stream) gives n distinct problems, the same for the same arguments.

    A finite task gives fewer where it has no more; streams of an endless one are independent.
    """
    where: Callable[[Problem], str] = lambda problem: repr(problem.question)
    """Names a problem in an error: its line in a file."""
    digest: str = ""
    """Tells contents of one name apart, such as a file's before and after a change; "": the name says all."""

    def identity(self) -> dict[str, str]:
        """What two jobs must share to share a file that holds no questions."""
        return {"tasks": self.name} | ({"tasks_digest": self.digest} if self.digest else {})

    def problems(
        self,
        n: int,
        *,
        stream: int,
        exclude: Collection[int] = (),
        domain: str | None = None,
        apart: Iterable[Problem] = (),
        prompt: Prompt | None = None,
    ) -> list[Problem]:
        """n problems of a stream, no two of them the same; of one domain, if it is given.

        Args:
            n: How many.
            stream: Which of the task's streams.
            exclude: Ids of problems that are not wanted.
            domain: Of all problems.
            apart: Problems that are not wanted, nor any with the same prompt.
            prompt: Gives a question's tokens; two problems with the same tokens are the same then.

        Raises ControllerError where the task has fewer, or gives a problem two answers.
        """
        if n < 1:
            raise ControllerError(f"-n is {n}; it must be at least 1")
        want, of = n, "" if domain is None else f" of the domain {domain!r}"
        while True:
            drawn = self.draw(want, stream)
            seen = Distinct(prompt, same_answer)
            for problem in apart:
                seen.leave_out(problem)
            new = [p for p in drawn if seen.add(p, self.where(p))]
            kept = [p for p in new if p.id not in exclude and domain in (None, p.domain)]
            if len(kept) >= n:
                return kept[:n]
            if len(drawn) < want or (domain is not None and want > RAREST * n):
                raise ControllerError(
                    f"task {self.name!r} has only {len(kept)} distinct problems{of} left of the {n} asked for; "
                    + (f"lower -n to {len(kept)} or give a larger task" if kept else "give a larger task")
                )
            want = want + n - len(kept) + 8 if domain is None else 2 * want + 8


def load_task(spec: str, *, grader: str | None = None, gold: bool = True) -> Task:
    """`tiny`, `reasoning-gym:NAME[,k=v...]`, a .jsonl file, or a plugin's `NAME[:...]`.

    Args:
        spec: The task.
        grader: What grades its answers in place of the task's own; see `load_grader`.
        gold: Whether answers are required.

    Raises:
        ControllerError: There is no such task, or it can't be read.
    """
    if spec == "tiny":
        task = Task("tiny", NUMBER, _tiny)
    elif spec.startswith("reasoning-gym:"):
        task = _reasoning_gym(spec)
    elif spec.endswith((".jsonl", ".json")) or Path(spec).exists():
        task = _jsonl(Path(spec), gold)
    else:
        task = _plugged(spec)
    return replace(task, grader=load_grader(grader)) if grader else task


def _plugged(spec: str) -> Task:
    """The task that a plugin makes of what follows its name and a colon."""
    name, _, rest = spec.partition(":")
    plugin = find_plugin("tasks", name)
    if plugin is None:
        plugins = "".join(f", {known}" for known in plugin_names("tasks"))
        raise ControllerError(f"unknown task {spec!r}; use tiny, reasoning-gym:NAME{plugins} or a .jsonl file")
    make = plugin.load()
    task = plugin.guarded(lambda: make(rest), "makes no task")
    if not isinstance(task, Task):
        raise plugin.refuse("a function from a text to a Task")
    return replace(task, name=spec)


def _tiny(n: int, stream: int) -> list[Problem]:
    return fresh_problems(n, stream)


def _reasoning_gym(spec: str) -> Task:
    name, *options = spec.removeprefix("reasoning-gym:").split(",")
    settings = dict(map(_option, options))
    entries: dict[int, Any] = {}

    def make(size: int, seed: int) -> Any:
        import reasoning_gym

        try:
            return reasoning_gym.create_dataset(name, size=size, seed=seed, **settings)
        except (ValueError, TypeError, AssertionError) as error:
            _check_names(spec, name, settings)
            raise ControllerError(f"task {spec!r} can't be made: {error}") from None

    def draw(n: int, stream: int) -> list[Problem]:
        found: dict[int, Problem] = {}
        # Entries are a function of seed + index: a longer draw starts with the shorter one, and the streams' seeds are
        # far apart, or one would be the other, shifted by an entry.
        for entry in make(4 * n, _far_apart(stream)):
            problem = Problem(entry["question"], str(entry["answer"]))
            if found.setdefault(problem.id, problem) is problem:
                entries[problem.id] = entry
            if len(found) == n:
                break
        return list(found.values())

    def right(text: str, problem: Problem) -> bool:
        gold, stated = problem.answer or "", stated_answer(text)
        entry = entries.get(problem.id) or {"question": problem.question, "answer": gold, "metadata": {}}
        if len(stated) > LONGEST_SCORED:
            return False
        # The scorers parse and even evaluate what they are given.
        score = LIMITED.call(f"{__name__}:score", name, settings, stated, entry, seconds=SCORING_SECONDS)
        return (score is not None and score >= 0.99) or (_is_digits(gold) and is_right(text, gold, problem.question))

    make(1, 0)
    return Task(spec, Grader(f"reasoning-gym:{name}", stated_answer, right, same_answer), draw)


def score(name: str, settings: dict[str, Any], stated: str, entry: dict[str, Any]) -> float:
    """What reasoning-gym gives for an answer; runs in the limited process."""
    return float(_scorer(name, json.dumps(settings)).score_answer(stated, entry))


@cache
def _scorer(name: str, settings: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=1, seed=0, **json.loads(settings))


def _is_digits(gold: str) -> bool:
    """A number without leading zeros, which an answer may put into words."""
    return str(gold).removeprefix("-").isdecimal() and (gold == "0" or gold.lstrip("-")[0] != "0")


def _far_apart(stream: int) -> int:
    """31 bits, which every generator takes: of two streams of 10,000 entries none are shared but with chance 1e-5."""
    return int.from_bytes(hashlib.sha256(f"stream {stream}".encode()).digest()[:4], "big") >> 1


def _check_names(spec: str, name: str, settings: Collection[str]) -> None:
    """Raise ControllerError where reasoning-gym has no such task, or the task no such setting, with the names there."""
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise ControllerError(f"task {spec!r}: reasoning-gym has no {name!r:.60}{_hint(name, DATASETS)}")
    known = [one.name for one in fields(DATASETS[name][1]) if one.name not in ("seed", "size")]
    for key in settings:
        if key not in known:
            raise ControllerError(f"task {spec!r}: {name} has no setting {key!r:.60}; known: {', '.join(known)}")


def _hint(name: str, known: Collection[str]) -> str:
    """The nearest name, or where all of them are."""
    near = get_close_matches(name[:64], known, n=1)
    return f"; did you mean {near[0]}?" if near else "; its gallery names them all"


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ControllerError(f"task option {text!r} needs the form key=value")
    try:
        return key, parse(value, f"task option {key!r}")
    except ControllerError:  # a bare word
        return key, value


def _jsonl(path: Path, gold: bool) -> Task:
    if path.is_dir():
        raise ControllerError(f"{str(path)!r} is a folder; give --tasks a .jsonl file in it")
    if not path.is_file():
        raise ControllerError(f"task file {str(path)!r} does not exist; give its path with --tasks")
    seen, where = Distinct(agree=same_answer), {}
    everything: list[Problem] = []
    for number, value in lines(path, "tasks"):
        place = f"line {number} of {str(path)!r}"
        problem = _problem(Fields.of(value, place), gold)
        if seen.add(problem, place):
            where[problem.id] = place
            everything.append(problem)
    if not everything:
        raise ControllerError(
            f'task file {str(path)!r} has no problems; each line is {{"question": ..., "answer": ...}}'
        )

    def draw(n: int, stream: int) -> list[Problem]:
        # One order per file, whatever the stream: what calibration took is excluded by id, not by luck.
        shuffled = random.Random(0).sample(everything, len(everything))
        return shuffled[:n]

    content = json.dumps([[one.question, one.answer, *filter(None, [one.explanation])] for one in everything])
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Task(file_name(path), MATH, draw, lambda problem: where.get(problem.id, repr(problem.question)), digest)


def _problem(record: Fields, gold: bool) -> Problem:
    """The problem of one line."""
    question = record.text("question")
    if not question.strip():
        record.refuse("question", "a text that isn't empty")
    answer = None if record.values.get("answer") is None else _answer(record)
    if answer is None and gold:
        raise ControllerError(f'{record.where} has no "answer"; add it, or use --mode disagree, which needs none')
    domain, why = (record.optional(record.text, name) or "" for name in ("domain", "explanation"))
    return Problem(question, answer, domain, why.strip())


def _answer(record: Fields) -> str:
    """An answer is a text or a number."""
    answer = record.values["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        record.refuse("answer", "a number, or a text that isn't empty")
    if isinstance(answer, float):
        record.number("answer")
    return str(answer)
