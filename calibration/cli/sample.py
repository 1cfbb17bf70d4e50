"""`ctl sample`: many samples of one prompt, and the one that is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from reasonctl.backends import BUNDLED, Model
from reasonctl.controller import Call, Controller, ControllerError, Trace
from reasonctl.controller.selection import (
    BLEU,
    AllPairs,
    BetaStop,
    CalibratedStop,
    Choice,
    ChrF,
    Codes,
    EmbeddingCosine,
    LosslessStop,
    Scored,
    ShareStop,
    StopRule,
    Utility,
    best_logprob,
    exact,
    load_stop,
    mbr,
    sim_lcs,
    utility_matrix,
    vote,
)

from ..pages.wording import percent
from ..runs.recipe import Recipe
from ..runs.worker import answer_text
from ..tasks.graders import MATH, NUMBER, Grader, load_function, load_grader
from .console import Console
from .flags import PROMISE
from .options import Options
from .recipes import open_any
from .run import budget_of, check_prompt, fresh_question
from .sampled import AT_ONCE, VOTE_UNIT, probe_text

SAMPLES = 16
"""Samples of a prompt where nobody asks for a number."""

Chooser = Literal["vote", "mbr", "best"]


@dataclass(frozen=True)
class Sample:
    """One sample, and what it answers."""

    trace: Trace
    """What the loop recorded of it."""
    text: str
    """The answer that a user reads."""
    answer: str
    """What it states; "" if nothing."""


def sample(
    name: str,
    prompt: str | None,
    options: Options,
    *,
    probe: str | None,
    codes: Codes,
    choose: Chooser,
    utility: str | None,
    stop: str | None,
    budget: str | None,
    thinking_seconds: float | None,
) -> None:
    """Print each sample's answer as it comes, and then the chosen one."""
    show = Console(as_json=options.json)
    check_prompt(name, prompt)
    asked = what_is_asked(options, codes, choose, utility, stop)
    options = options.batched(min(asked.n, AT_ONCE))
    exit_rule, model, recipe = open_any(
        show, "ctl sample", name, options, probe, *PROMISE, because="nothing decides about exits"
    )
    show.say(VOTE_UNIT, "dim")
    controller = Controller(
        exit=exit_rule,
        drafter=recipe.drafter(),
        thinking=None if exit_rule else recipe.thinking(model),
        codes=codes,
        budget=budget_of(budget),
        thinking_seconds=thinking_seconds,
    )
    grader = load_grader(options.grader) if options.grader else NUMBER if name in BUNDLED else MATH
    question = fresh_question(options) if prompt is None else prompt
    call = recipe.call(model, question)
    show.say(question, "cyan")
    if choose == "best":
        call = replace(call, policy=Scored(call.policy))
    _warn(show, asked, model=model.fingerprint(), grader=grader.name, probe=probe_text(exit_rule))
    drawn = draw(show, recipe, model, controller, call, asked, grader, question)
    _report(show, drawn, choice(asked, drawn), asked, question)


def _warn(show: Console, asked: Asked, **used: object) -> None:
    """Say where a calibrated stop was calibrated on something else."""
    for difference in asked.rule.differences(asked.n, **used) if asked.rule is not None else ():
        show.say(f"warning: {difference}", "yellow")


def what_is_asked(options: Options, codes: Codes, choose: Chooser, utility: str | None, stop: str | None) -> Asked:
    """The command's request.

    Raises:
        ControllerError: options contradict each other, or one of them says nothing that is known.
    """
    if stop is not None and choose != "vote":
        raise ControllerError(f"--stop {stop} stops a vote, and --choose is {choose}; leave one of them out")
    if utility is not None and choose != "mbr":
        raise ControllerError(f"--utility {utility} is for mbr, and --choose is {choose}; leave one of them out")
    rule = stop_rule(stop or "lossless") if choose == "vote" else None
    n = options.n or (rule.n if isinstance(rule, CalibratedStop) else SAMPLES)
    return Asked(n, codes, choose, rule, utility_named(utility or "sim-lcs"))


def stop_rule(text: str) -> StopRule | None:
    """What `--stop` says: none, lossless, beta, a share above which a vote stops, or a file with a calibrated one.

    Raises:
        ControllerError: it says something else.
    """
    if text in ("none", "lossless", "beta"):
        return {"none": None, "lossless": LosslessStop(), "beta": BetaStop()}[text]
    if text.endswith(".json"):
        return load_stop(text)
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0 < threshold < 1:
        raise ControllerError(
            f"--stop is {text!r}; give none, lossless, beta, a share above 0 and below 1, e.g. 0.8, or the .json "
            "that ctl calibrate-votes wrote"
        )
    return ShareStop(threshold)


@dataclass(frozen=True)
class Asked:
    """What is asked for."""

    n: int
    """Samples of the full vote."""
    codes: Codes
    """How they depend on each other."""
    choose: Chooser
    """How one of them is chosen."""
    rule: StopRule | None
    """When a vote is over; None: at its last sample."""
    utility: Utility | AllPairs
    """How much texts agree, for a choice by minimum Bayes risk."""


@dataclass(frozen=True)
class Drawn:
    """The samples that were drawn."""

    samples: list[Sample]
    """Those that ended, in their order."""
    classes: list[int | None]
    """The class of each one's answer, by the grader's equality."""
    cost: int
    """Tokens of all samples, those that were stopped too."""


def draw(
    show: Console,
    recipe: Recipe,
    model: Model,
    controller: Controller,
    call: Call,
    asked: Asked,
    grader: Grader,
    question: str,
) -> Drawn:
    """Draw samples until the vote is over, or all of them; print what each answers."""
    samples = list[Sample]()
    with controller.samples(
        model.engine,
        model.tokenizer,
        call,
        asked.n,
        at_once=recipe.batch,
        stop=asked.rule,
        answer=grader.extract,
        same=lambda a, b: grader.alike(a, b, question),
    ) as running:
        for trace in running:
            one = Sample(trace, answer_text(recipe, model, trace.tokens), running.answers[-1])
            samples.append(one)
            show.say(f"  {len(samples):3}  {one.answer or '(no answer)'}  [{len(trace.tokens)} tokens; {trace.why}]")
    return Drawn(samples, running.classes, running.cost)


def utility_named(text: str) -> Utility | AllPairs:
    """What `--utility` says: a name of ours, or `module:function`, a function of a candidate and a reference.

    Raises:
        ControllerError: it says something else.
    """
    known: dict[str, Callable[[], Utility | AllPairs]] = {
        "sim-lcs": lambda: sim_lcs,
        "exact": lambda: exact,
        "bleu": BLEU,
        "chrf": ChrF,
        "embedding": EmbeddingCosine,
    }
    if text in known:
        return known[text]()
    if ":" not in text:
        raise ControllerError(f"--utility is {text!r}; give {', '.join(known)}, or module:function")
    function: Utility = load_function("--utility", text)
    return function


def choice(asked: Asked, drawn: Drawn) -> Choice | None:
    """The chosen sample; None where a vote has no answer to choose."""
    if asked.choose == "mbr":
        return mbr(utility_matrix([one.text for one in drawn.samples], asked.utility))
    if asked.choose == "best":
        return best_logprob([one.trace.mean_logprob or 0.0 for one in drawn.samples])
    return vote(drawn.classes)


def _report(show: Console, drawn: Drawn, chosen: Choice | None, asked: Asked, question: str) -> None:
    samples = drawn.samples
    answer = None if chosen is None else samples[chosen.index]
    said = "no sample states an answer" if answer is None else f"{answer.answer or answer.text!r}"
    share = "" if chosen is None else f" (sample {chosen.index + 1}, {percent(chosen.share)} of the score)"
    show.say(f"chosen: {said}{share}", "bold")
    stopped = f" of {asked.n}; the vote was over" if len(samples) < asked.n else ""
    show.say(f"{len(samples)} samples{stopped}; {drawn.cost} tokens in all")
    for warning in dict.fromkeys(warning for one in samples for warning in one.trace.warnings):
        show.say(f"warning: {warning}", "yellow")
    show.result(
        {
            "question": question,
            "asked": asked.n,
            "codes": asked.codes,
            "choose": asked.choose,
            "cost": drawn.cost,
            "chosen": None if chosen is None else chosen.index,
            "share": None if chosen is None else chosen.share,
            "answer": None if answer is None else answer.answer,
            "text": None if answer is None else answer.text,
            "samples": [{**one.trace.to_dict(), "text": one.text, "answer": one.answer} for one in samples],
        }
    )
