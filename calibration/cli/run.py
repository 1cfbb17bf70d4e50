"""`ctl run`: one streamed answer, with what the controller did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reasonctl.backends import BUNDLED, TINY, TINY_MASKED, Model, is_masked
from reasonctl.controller import AnswerNow, Controller, ControllerError, Event, Trace, parse_efforts, parse_policy
from reasonctl.controller.core import TextDecoder, append_runs
from reasonctl.controller.thinking import parse_budget
from reasonctl.probes import ProbeExit

from ..runs.making import run_once
from ..runs.recipe import Recipe
from ..runs.splits import evaluation_stream
from ..tasks.sources import load_task
from ..tasks.tiny import EXAMPLE, understands
from .console import Console
from .flags import PROMISE
from .interrupt import answering
from .masked import refuse_order, run_masked
from .options import Options
from .recipes import open_any
from .refusal import given, refuse
from .tracing import check_trace, saved_run


def run_any(name: str, prompt: str | None, options: Options, *, order: str | None, **what: Any) -> None:
    """`ctl run`: of a masked model an answer in any order, of any other one a controlled run."""
    check_prompt(name, prompt)
    if not is_masked(name):
        refuse_order(order)
        run(name, prompt, options, **what)
        return
    others = (option for option in what if option not in ("verbose", "trace_text"))
    refuse("ctl run with a masked model", given(), dict.fromkeys(others, "it doesn't think"))
    show, question = Console(as_json=options.json), fresh_question(options) if prompt is None else prompt
    run_masked(show, name, question, options, order)


def run(
    name: str,
    prompt: str | None,
    options: Options,
    *,
    probe: str | None,
    verbose: bool = False,
    trace: str | None = None,
    trace_text: bool = False,
    **lengths: Any,
) -> None:
    """Print one answer as it comes, and what the controller did.

    lengths: the Controller's limits of thinking. trace: the file to which the run is appended, with texts or without.
    """
    show = Console(as_json=options.json)
    check_trace("ctl run", options, trace)
    rule, model, recipe = open_any(
        show, "ctl run", name, options, probe, *PROMISE, "shadow", because="nothing decides about exits"
    )
    if rule is None and probe is None:
        show.say("no --probe, so thinking isn't ended early; make one with ctl calibrate", "dim")
    if verbose:
        for line in parse_policy(recipe.policy).explain():
            show.say(f"  {line}", "dim")
    question = fresh_question(options) if prompt is None else prompt
    if name in BUNDLED and not understands(question):
        show.say(f"{name} answers chains such as {EXAMPLE!r} only; else what it says means nothing", "yellow")
    thinking = None if rule else recipe.thinking(model)
    controller = Controller(
        exit=rule, drafter=recipe.drafter(), thinking=thinking, record=trace is not None, **limits_of(lengths)
    )
    made = stream_run(show, model, recipe, question, controller)
    show_end(show, made)
    if trace is not None:
        append_runs(trace, [saved_run(made, model, question, trace_text)])
        show.say(f"appended to {trace}; look at it with ctl view {trace}", "dim")
    text = model.tokenizer.decode([t for t in made.tokens if t not in model.eos])
    promise = promise_of(controller, recipe, TINY if prompt is None else "a prompt of your own", made)
    show.result({**made.to_dict(), "question": question, "text": text, "guarantee": promise})


def show_end(show: Console, trace: Trace) -> None:
    """Print what a run took, and why it ended."""
    show.say(
        f"{len(trace.tokens)} tokens, {trace.forwards} forwards, "
        f"{trace.accepted} of {trace.drafted} drafted tokens accepted"
    )
    show.say(trace.why, "bold")
    for warning in trace.warnings:
        show.say(f"warning: {warning}", "yellow")


def promise_of(controller: Controller, recipe: Recipe, tasks: str, trace: Trace) -> dict[str, Any] | None:
    """The guarantee of one run, at the risk of its effort; None without a probe."""
    rule = controller.exit
    if not isinstance(rule, ProbeExit):
        return None
    most = recipe.max_new_tokens
    return rule.guarantee(sampler=recipe.sampler(), max_new_tokens=most, tasks=tasks, trace=trace)


def limits_of(given: dict[str, Any]) -> dict[str, Any]:
    """The command's limits of thinking as the Controller takes them; without a flag an exit rule's own settings hold.

    Raises:
        ControllerError: A text is no budget or defines no effort.
    """
    named = {} if given["efforts"] is None else parse_efforts(given["efforts"])
    return {
        **{name: value for name, value in given.items() if name != "warning" or value is not None},
        "budget": budget_of(given["budget"]),
        "efforts": named,
        "always_answer": given["always_answer"] or None,
    }


def budget_of(text: str | None) -> int | float | None:
    """What `--budget` says: a number of tokens, or a share of the run's.

    Raises:
        ControllerError: it says neither.
    """
    try:
        return None if text is None else parse_budget(text)
    except ValueError:
        raise ControllerError(f"--budget is {text!r:.40}; give a number of tokens, or a share such as 0.5") from None


def stream_run(show: Console, model: Model, recipe: Recipe, question: str, controller: Controller) -> Trace:
    """Print a run as it comes, with forced tokens in colour, then the scores at its cues."""
    call = recipe.call(model, question)
    show.say(question, "cyan")
    decoder = TextDecoder(model.tokenizer)  # a character may be split over tokens

    def each(event: Event) -> None:
        if event.token not in model.eos:
            show.stream(decoder.push(event.token), "magenta" if event.source == "forced" else None)

    now = AnswerNow()
    with answering(now):
        trace, _ = run_once(model, controller, replace(call, answer_now=now), each)
    show.stream(decoder.finish())
    show.say()
    for decision in trace.decisions:
        show.say(f"  {decision}", "dim")
    return trace


def check_prompt(name: str, prompt: str | None) -> None:
    """Refuse a missing or empty prompt; without one a bundled model answers a fresh question of its own."""
    if prompt is None and name not in (*BUNDLED, TINY_MASKED):
        raise ControllerError("PROMPT is missing; give the question to answer")
    if prompt is not None and not prompt.strip():
        raise ControllerError(f"PROMPT is {prompt!r}; give the question to answer")


def fresh_question(options: Options) -> str:
    """A problem of `tiny` that no calibration drew."""
    return load_task(TINY).problems(1, stream=evaluation_stream(options.seed))[0].question
