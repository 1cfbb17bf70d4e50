"""`ctl eval`: a rule on problems that its probe never saw, next to no control and to cheap rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reasonctl.backends import Model, is_masked
from reasonctl.controller import ControllerError
from reasonctl.controller.core import append_runs
from reasonctl.probes import ProbeExit
from reasonctl.probes.files import digest_of

from ..evaluation.baseline_comparison import compare_with_baselines
from ..evaluation.evaluation_file import EvaluationFile
from ..evaluation.pairs import Pair, evaluate_pairs, fresh, summary
from ..fitting.saved_runs import saved_runs
from ..runs.collect import settings_of
from ..runs.making import windows_of
from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..runs.room import with_room
from ..runs.splits import runs_path
from ..runs.worker import check_arms
from ..tasks.problem import Problem
from ..tasks.sources import Task, load_task
from .baselines import show_baselines
from .calibrate import show_left_out
from .comparison import show_comparison
from .console import Console
from .masked import eval_masked, refuse_order
from .options import Options
from .recipes import card_recipe, open_rule, probe_path
from .tracing import check_trace, saved_run

EVALUATION_RUNS = 400
"""Default number of problems."""


@dataclass(frozen=True)
class EvaluationJob:
    """What is evaluated, and on what."""

    rule: ProbeExit
    """The rule that is evaluated."""
    model: Model
    """The model that it controls."""
    recipe: Recipe
    """How the runs are made."""
    task: Task
    """Where the problems come from."""
    problems: list[Problem]
    """The problems; the probe saw none of them."""
    options: Options
    """The shared options."""
    out: str | None = None
    """Where its runs are kept. None: nowhere."""

    def measured(self, pairs: list[Pair]) -> dict[str, Any]:
        """The JSON of `ctl eval` without the baselines: what was asked for, measured and promised."""
        rule, recipe, task = self.rule, self.recipe, self.task
        promise = rule.guarantee(
            sampler=recipe.sampler(), max_new_tokens=recipe.max_new_tokens, tasks=task.name, grader=task.grader.name
        )
        if rule.promise.domain is not None:
            promise["domain"] = rule.promise.domain
        graded = all(problem.answer is not None for problem in self.problems)
        return {
            "seed": self.options.seed,
            "model": recipe.model,
            "backend": self.model.backend,
            "tasks": task.name,
            "batch": recipe.batch,
            **asdict(rule.promise),
            "probe": digest_of(rule.content),
            **summary(pairs, rule.promise.mode, graded=graded),
            "guarantee": promise,
        }

    @contextmanager
    def file(self, show: Console, baselines: bool) -> Iterator[EvaluationFile | None]:
        """The job's file of runs, open; None where none is kept.

        Args:
            show: Says how many windows are there already.
            baselines: Whether what the cheap rules need is collected too.
        """
        if self.out is None:
            yield None
            return
        settings = settings_of(self.recipe, self.task, self.model, len(self.problems)) | self.task.identity()
        settings |= {"probe": digest_of(self.rule.content), "promise": asdict(self.rule.promise)}
        settings |= {"baselines": baselines, "seed": self.options.seed}
        with closing(EvaluationFile(Path(self.out), settings)) as file:
            if done := file.open(force=self.options.force):
                there = sum(map(len, windows_of(self.problems, self.recipe.batch)[:done]))
                show.say(
                    f"{there} of {len(self.problems)} problems are in {self.out}; --trace gets none of these again"
                )
            yield file

    def keeping(self, trace: str | None, trace_text: bool) -> Callable[[Problem, Pair], None]:
        """What appends a controlled run to the file `trace`, with its text where that was asked for."""

        def keep(problem: Problem, pair: Pair) -> None:
            if trace is not None:
                right = None if problem.answer is None else pair.controlled.right
                about = {"plain_tokens": pair.baseline.tokens, "right": right}
                append_runs(
                    trace, [saved_run(pair.controlled.trace, self.model, problem.question, trace_text, **about)]
                )

        return keep


def evaluate_any(name: str, options: Options, *, order: str | None, tasks: str | None, **what: Any) -> None:
    """`ctl eval`: of a masked model its early commit, of any other one its exit rule."""
    if is_masked(name):
        eval_masked(Console(as_json=options.json), name, options, order, tasks)
    else:
        refuse_order(order)
        evaluate(name, options, tasks=tasks, **what)


def evaluate(
    name: str,
    options: Options,
    *,
    tasks: str | None,
    probe: str | None,
    baselines: bool,
    report: str | None,
    out: str | None,
    **tracing: Any,
) -> None:
    """Print what control does to problems that the probe never saw. tracing: as `EvaluationJob.keeping` takes it."""
    show = Console(as_json=options.json)
    _check_written(options, report, out, tracing["trace"], probe_path(name, probe))
    check_trace("ctl eval", options, tracing["trace"])
    rule, model = open_rule(show, name, options, probe)
    content = rule.content
    task = load_task(tasks or content.card.tasks, grader=options.grader, gold=options.mode != "disagree")
    recipe = card_recipe(name, content.card, options)
    runs = saved_runs(probe_path(name, probe), content)
    n = options.n or EVALUATION_RUNS
    drawn = fresh(task, content, n, options.seed, options.domain, prompt=model.prompt, runs=runs)
    asked = with_room(model, drawn, recipe.max_new_tokens, recipe.suffix)
    show_left_out(show, asked, task)
    problems = asked.problems
    check_arms(recipe, model, problems, options.machine(recipe.model)[0])
    show.say(f"{len(problems)} problems of {task.name} that the probe never saw; {rule.why}")
    if options.dry_run:
        show.result({"n": len(problems), "dry_run": True})
        return
    job = EvaluationJob(rule, model, recipe, task, problems, options, out)
    result = compare(show, job, runs=runs, baselines=baselines, keep=job.keeping(**tracing))
    result |= asked.report()
    show.result(result)
    if report is not None:
        from ..pages.report import write_report

        write_report(Path(report), content, options.promise, runs, result, force=options.force)
        show.say(f"written: {report}")


def _check_written(options: Options, report: str | None, out: str | None, trace: str | None, probe: Path) -> None:
    """Before any work: refuse files that can't be written or are each other's, and --force with none to start over."""
    if report is None and out is None:
        options.refuse("ctl eval without --report or --out", "force", because="nothing is written")
    others = [Path(one) for one in (out, trace) if one is not None]
    if out is not None:
        taken = [probe, runs_path(probe), *others[1:]]
        if same := next((one for one in taken if one.resolve() == Path(out).resolve()), None):
            raise ControllerError(f"--out is {str(same)!r}, which is another file of this command; give a new one")
    if report is not None:
        from ..pages.report import check_page

        check_page(Path(report), probe, options.force, *others)


def compare(
    show: Console,
    job: EvaluationJob,
    *,
    runs: list[RunRecord] | None,
    baselines: bool,
    keep: Callable[[Problem, Pair], None] = lambda problem, pair: None,
) -> dict[str, Any]:
    """Run both arms, print the comparison and the cheap rules.

    Args:
        show: Where it is printed.
        job: What is evaluated.
        runs: The runs that the probe was made from, if they are at hand.
        baselines: Whether the cheap rules are compared too.
        keep: Called with every pair that is made, as soon as it is graded.

    Returns:
        The JSON of `ctl eval`.
    """
    with job.file(show, baselines) as file, show.progress("evaluating") as progress:
        pairs = evaluate_pairs(
            job.recipe,
            job.problems,
            job.task.grader,
            job.rule,
            workers=job.options.machine(job.recipe.model)[0],
            with_baselines=baselines,
            progress=progress,
            each=keep,
            file=file,
        )
    result = job.measured(pairs)
    show_comparison(show, result)
    if baselines:
        records = [pair.record for pair in pairs if pair.record is not None]
        found = compare_with_baselines(job.rule, runs, records)
        show_baselines(show, found, job.rule.promise.mode)
        result["baselines"] = [] if found is None else found.to_json()
    return result
