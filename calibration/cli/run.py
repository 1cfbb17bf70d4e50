"""`ctl run`: one streamed answer, with what the controller did."""

from __future__ import annotations

from typing import Any

from reasonctl.backends.model import Model
from reasonctl.controller import Controller, ControllerError, Event, Trace, parse_policy
from reasonctl.controller.core.token_text import TextDecoder
from reasonctl.probes.exit import ProbeExit

from ..runs.recipe import Recipe
from ..runs.splits import evaluation_stream
from ..runs.worker import run_once
from ..tasks.sources import load_task
from .console import Console
from .options import Options
from .recipes import card_recipe, new_recipe, open_model, open_rule, thinking_under


def run(
    name: str, prompt: str | None, options: Options, *, probe: str | None, verbose: bool = False, **lengths: Any
) -> None:
    """One streamed answer. lengths: the Controller's limits of thinking."""
    show = Console(as_json=options.json)
    rule: ProbeExit | None = None
    model: Model
    if probe == "none":
        model = open_model(name, options)
        recipe = new_recipe(name, model, options)
    else:
        rule, model = open_rule(show, name, options, probe)
        recipe = card_recipe(name, rule.card, options)
    if verbose:
        for line in parse_policy(recipe.policy).explain():
            show.say(f"  {line}", "dim")
    question = prompt or _fresh_question(name, options)
    thinking = None if rule else thinking_under(model, recipe)
    controller = Controller(exit=rule, drafter=recipe.drafter(), thinking=thinking, **lengths)
    trace = stream_run(show, model, recipe, question, controller)
    show.say(
        f"{len(trace.tokens)} tokens, {trace.forwards} forwards, "
        f"{trace.accepted} of {trace.drafted} drafted tokens accepted"
    )
    show.say(trace.why, "bold")
    for warning in trace.warnings:
        show.say(f"warning: {warning}", "yellow")
    text = model.tokenizer.decode([t for t in trace.tokens if t not in model.eos])
    show.result({**trace.to_dict(), "question": question, "text": text})


def stream_run(show: Console, model: Model, recipe: Recipe, question: str, controller: Controller) -> Trace:
    """Print a run as it comes: forced tokens stand out, cues' scores follow the answer."""
    show.say(question, "cyan")
    decoder = TextDecoder(model.tokenizer)  # a character may be split over tokens

    def each(event: Event) -> None:
        if event.token not in model.eos:
            show.stream(decoder.push(event.token), "magenta" if event.source == "forced" else None)

    trace, _ = run_once(model, controller, recipe.call(model, question), each)
    show.stream(decoder.finish())
    show.say()
    for decision in trace.decisions:
        show.say(f"  {decision}", "dim")
    return trace


def _fresh_question(name: str, options: Options) -> str:
    if name != "tiny":
        raise ControllerError("PROMPT is missing; give the question to answer")
    return load_task("tiny").problems(1, stream=evaluation_stream(options.seed))[0].question
