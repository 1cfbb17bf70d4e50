"""`ctl advise policy`: prints what advice/truncation.py measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.probes.files import check_target

from ..advice.equal_risk import Measured
from ..advice.prefix_trie import check_files, text_trie
from ..advice.truncation import (
    ALIEN,
    MOST_NEW_TOKENS,
    PLACES,
    PROBLEMS,
    PROMPTS,
    SAMPLES,
    WEIGHED_TOKENS,
    PolicyAdvice,
    SamplePlan,
    answer_trie,
    choose,
    compare,
    enough,
    openings_of,
    weigh,
)
from ..runs.room import with_room
from ..tasks.problem import Problem
from ..tasks.sources import Task, load_task
from .calibrate import show_left_out
from .console import Console
from .options import Options
from .recipes import open_model


def advise_policy(
    name: str, options: Options, *, tasks: str | None, texts: Sequence[str], at: str, out: str | None
) -> None:
    """Measure truncations and print the advice. What can be refused is refused before the model loads."""
    show, targets, temperature = Console(as_json=options.json), risk_targets(at), temperature_of(options)
    _check(options, tasks, texts, out)
    task = None if tasks is None else load_task(tasks, grader=options.grader)
    problems = [] if task is None else task.problems(options.n or PROBLEMS, stream=options.seed)
    if options.dry_run:
        show.say(f"{len(texts)} files, {len(problems)} problems of {SAMPLES} runs each, then at most {PLACES} places")
        show.result({"files": len(texts), "problems": len(problems), "runs": SAMPLES * len(problems), "dry_run": True})
        return
    model = open_model(name, options)
    if task is not None:
        problems = _asked(show, model, task, options)
    with show.progress("reading texts" if texts else "running problems") as progress:
        most = options.max_new_tokens or min(MOST_NEW_TOKENS, model.context // 2)
        plan = SamplePlan(most, options.seed, options.batch)
        trie = text_trie(model, texts) if texts else answer_trie(model, task, problems, plan, progress)
    forks = enough(trie, texts)
    with show.progress("comparing") as progress:
        curves = compare(model, forks, progress)
    choice = choose(curves, targets, temperature)
    prompts = [model.prompt(problem.question) for problem in problems[:PROMPTS]] or openings_of(forks)
    most = min(WEIGHED_TOKENS, options.max_new_tokens or WEIGHED_TOKENS)
    with show.progress("weighing") as progress:
        plan = SamplePlan(most, options.seed + 1, options.batch)
        weighed, tokens = weigh(model, choice.first, prompts, plan, progress)
    advice = PolicyAdvice.of(trie, curves, choice, weighed, tokens)
    show_advice(show, name, advice)
    if out is not None:
        from ..pages.advice import write_page

        write_page(Path(out), name, advice)
        show.say(f"written: {out}")
    show.result({"model": name, **advice.to_json()})


def _asked(show: Console, model: Model, task: Task, options: Options) -> list[Problem]:
    """The problems that leave room for a run, no two of them with the same prompt."""
    drawn = task.problems(options.n or PROBLEMS, stream=options.seed, prompt=model.prompt)
    asked = with_room(model, drawn, options.max_new_tokens or model.context // 2)
    show_left_out(show, asked, task)
    return asked.problems


def risk_targets(text: str) -> tuple[float, ...]:
    """The numbers of a text such as `1,5,15`.

    Raises:
        ControllerError: The text is no list of numbers above 0.
    """
    try:
        targets = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        targets = ()
    if not targets or not all(0 < target < 1e6 for target in targets):
        raise ControllerError(f"--at is {text!r}; give risks above 0 such as 1,5,15")
    return targets


def temperature_of(options: Options) -> float:
    """The temperature after the truncation.

    Raises:
        ControllerError: It is 0, which is greedy decoding.
    """
    if options.temperature == 0:
        raise ControllerError("--temperature is 0: greedy truncates nothing; give one above 0")
    return 1.0 if options.temperature is None else options.temperature


def _check(options: Options, tasks: str | None, texts: Sequence[str], out: str | None) -> None:
    """Refuse what is wrong, or means nothing, for any model."""
    if tasks is None and not texts:
        raise ControllerError("there is nothing to learn from; give --texts FILE (your own texts) or --tasks TASKS")
    if tasks is None:
        options.refuse("ctl advise policy --texts", "n", "grader", because="there are no problems")
    check_files(texts)
    if out is None:
        options.refuse("ctl advise policy without --out", "force", because="nothing is written")
    else:
        _check_out(out, options.force)


def _check_out(out: str, force: bool) -> None:
    from ..pages.plotted import check_figure  # matplotlib is read only where a page is wanted

    check_figure(out)
    check_target(out, force)


def show_advice(show: Console, name: str, advice: PolicyAdvice) -> None:
    """A table per risk target, then the advice with its evidence."""
    show.title(f"truncations for {name} at equal risk: {advice.places} places of {advice.texts} texts")
    show.say(
        f"the tokens that these texts go on with: K* is {advice.needed:g} of {advice.vocabulary} at half of the places"
    )
    if advice.needed > advice.vocabulary / ALIEN:
        show.say(
            "the model would hardly write such texts: no truncation is made for them; give texts of its kind", "yellow"
        )
    for target, by in advice.found.items():
        rows = [_row(name, one) for name, one in by.items()]
        show.table(rows, f"risk {target:g}", "recall (diversity)", "risk", "-ln Z", "its spread")
    for target, chain in advice.chains.items():
        show.say(f"at risk {target:g}: --policy '{chain}'", "bold")
    weighed, first = advice.weighed, next(iter(advice.chains.values()))
    show.say(
        f"normalising token by token, {first}: -ln Z {weighed.mean:.3f} nats over runs of {advice.tokens:.0f} tokens; "
        f"KL from the global distribution {weighed.kl:.3f} nats; effective sample size {weighed.ess:.0%}"
    )
    show.say("mirostat: its first step only, for its sets move during a run; it is never recommended here")


def _row(name: str, one: Measured | None) -> list[str]:
    if one is None:
        return [name, "", "not reached", "", ""]
    return [
        one.policy,
        f"{one.recall:.3f} +- {one.recall_error:.3f}",
        f"{one.risk:.2f} +- {one.risk_error:.2f}",
        f"{one.distortion:.3f}",
        f"{one.spread:.3f}",
    ]
