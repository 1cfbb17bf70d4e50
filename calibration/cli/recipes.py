"""Makes a model, a recipe and an exit rule from the options of a command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, cast

import click

from reasonctl.backends import BUNDLED_PROBE, TINY, Model
from reasonctl.controller import AnswerEnds, Closing, ControllerError, Cues, Thinking, parse_policy
from reasonctl.controller.thinking import Format, default_cues, ends_in_brace, read_template, with_markers
from reasonctl.probes import ProbeExit, make_exit
from reasonctl.probes.files import Card, find_probe, load_probe
from reasonctl.probes.signals import layer_of

from ..fitting.choose_suffix import boxed, lined, plain
from ..runs.recipe import LAYERS, Recipe, loaded, usual_room
from .console import Console
from .options import Options
from .terminal import visible


def open_rule(show: Console, name: str, options: Options, probe: str | None) -> tuple[ProbeExit, Model]:
    """Load the rule and the model that it will control. Small differences to the rule's own model are printed.

    Raises:
        ControllerError: One of them can't be loaded, or the rule is for another model.
    """
    rule = rule_of(options, probe_path(name, probe))
    model = open_model(name, options)
    for warning in rule.check(model):
        show.say(f"warning: {warning}", "yellow")
    return rule, model


def rule_of(options: Options, path: object) -> ProbeExit:
    """The rule of a probe file under the promise that the options ask for."""
    return make_exit(load_probe(str(path)), options.promise)


MOST_NEW_TOKENS = 2048
"""Default length of a run in tokens, where the context has room for it."""
ANSWER_TOKENS = 64
"""Most tokens of a trial answer where nobody asks for a number."""
NATURAL = "natural"
"""`--answer natural`: the model ends its answer itself."""
_ESCAPE = re.compile(r"\\(?:[\\'\"nrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")

_SURROGATE = re.compile("[\ud800-\udfff]")


def open_model(name: str, options: Options) -> Model:
    """Load the model into this process, where its jobs find it. Warnings about the policy are printed.

    Raises:
        ControllerError: The model can't be loaded, or the policy is for another model.
    """
    threads, draft = options.machine(name)[1], options.draft
    model = loaded(name, options.backend, threads, batch=options.batch, draft=draft)
    for warning in parse_policy(options.policy_text()).check(model):
        click.echo(visible(f"warning: {warning}"), err=True)
    return model


def new_recipe(
    name: str,
    model: Model,
    options: Options,
    *,
    opening: str | None = None,
    closing: str | None = None,
    suffix: str | None = None,
    answer: str | None = None,
    cues: str | None = None,
    layers: str | None = None,
    answer_tokens: int | None = None,
) -> Recipe:
    """A recipe from the model's chat template and what the user gives in its place, as texts of the command line."""
    found = with_markers(read_template(model.template), model.template, opening, closing)
    markers = found.markers
    names = (
        tuple(part.strip() for part in cues.split(",") if part.strip()) if cues is not None else default_cues(markers)
    )
    Cues(names)
    asked = closing_of(found, suffix, answer)
    Thinking(markers, asked.suffix)  # refuses a suffix without the closing marker
    max_new_tokens = options.max_new_tokens or min(MOST_NEW_TOKENS, usual_room(model))
    return Recipe(
        model=name,
        backend=options.backend,
        threads=options.machine(name)[1],
        markers=(markers.open, markers.close) if markers else None,
        cues=names,
        suffix=asked.suffix,
        max_cues=200,
        layers=_layers(layers, model.depth),
        policy=options.policy_text(),
        draft=options.draft,
        seed=options.seed,
        max_new_tokens=max_new_tokens,
        answer_tokens=answer_tokens or (max_new_tokens if answer == NATURAL else ANSWER_TOKENS),
        answer_ends=asked.answer_ends,
        batch=options.batch,
    )


def closing_of(found: Format, suffix: str | None, answer: str | None) -> Closing:
    """How an exit closes thinking, from --suffix and --answer; what isn't given follows from the other one.

    Raises:
        ControllerError: The answer is to end where its box closes, and the suffix opens none.
    """
    if suffix is None or not suffix:
        return boxed(found) if answer == "box" else lined(found) if answer == "line" else plain(found)
    text = unescaped(suffix)
    if answer is None:
        return Closing(text, "box" if ends_in_brace(text) else "model")
    ends: dict[str, AnswerEnds] = {NATURAL: "model", "line": "line", "box": "box"}
    return Closing(text, ends[answer])


def unescaped(text: str) -> str:
    r"""Text from a command line, with escapes such as \n and \u2192 replaced.

    >>> unescaped(r"Réponse :\n\u2192 1 \\n")
    'Réponse :\n→ 1 \\n'

    Raises:
        ControllerError: A number is half of a surrogate pair, which is no character.
    """
    plain = _ESCAPE.sub(lambda found: found.group().encode("ascii").decode("unicode_escape"), text)
    if _SURROGATE.search(plain):
        raise ControllerError(f"{text!r} names half of a surrogate pair; write the character itself")
    return plain


def card_recipe(name: str, card: Card, options: Options) -> Recipe:
    """The recipe under which a probe is used: the card's, with the user's options in place of its own."""
    default = str(card.sampler.get("policy", "temperature(0.6)"))
    return Recipe(
        model=name,
        backend=options.backend,
        threads=options.machine(name)[1],
        markers=card.markers,
        cues=card.cues,
        suffix=card.suffix,
        max_cues=card.max_cues,
        layers=card.layers,
        policy=options.policy_text(default),
        draft=options.draft,
        seed=options.seed,
        max_new_tokens=options.max_new_tokens or card.max_new_tokens,
        answer_tokens=int(cast(int, card.sampler.get("answer_tokens", ANSWER_TOKENS))),
        answer_ends=card.answer_ends,
        batch=options.batch,
        form=card.form,
        always_answer=card.always_answer,
        later_spans=card.later_spans,
    )


class Opened(NamedTuple):
    """What a command works with that can do without a probe."""

    rule: ProbeExit | None
    """The exit rule; None: no probe was given, and the model has none of its own."""
    model: Model
    """The model."""
    recipe: Recipe
    """How runs are made: as the probe's card says, or as is usual for the model."""


def open_any(
    show: Console, command: str, name: str, options: Options, probe: str | None, *promised: str, because: str
) -> Opened:
    """Load the model, and the probe that is given, or the bundled model's own; `none` asks for none.

    Args:
        show: Prints small differences of the model to the probe's.
        command: The command, for its errors.
        name: The model, as the command line names it.
        options: The command's.
        probe: The command's `--probe`.
        promised: Options that mean nothing without a probe.
        because: Why.

    Raises:
        ControllerError: Something can't be loaded, or an option means nothing.
    """
    if probe != "none" and (probe is not None or name == TINY):
        rule, model = open_rule(show, name, options, probe)
        return Opened(rule, model, card_recipe(name, rule.card, options))
    options.refuse(f"{command} without a probe", *promised, because=because)
    model = open_model(name, options)
    return Opened(None, model, new_recipe(name, model, options))


def probe_path(name: str, probe: str | None) -> Path:
    """The file that `--probe` names, or the bundled model's own, for a command that needs one.

    Raises:
        ControllerError: Neither is there.
    """
    if probe == "none":
        raise ControllerError("--probe is none, and this command needs an exit rule; give a probe file")
    if probe is not None:
        return find_probe(probe)
    if name == TINY:
        return BUNDLED_PROBE
    raise ControllerError("--probe is missing; make one with: ctl calibrate MODEL --tasks T --out P.safetensors")


def _layers(text: str | None, depth: int) -> tuple[float, ...]:
    try:
        fractions = [float(part) for part in text.split(",")] if text else list(LAYERS)
    except ValueError:
        raise ControllerError(f"--layers is {text!r}; give fractions of depth such as 0.5,0.75,1") from None
    # A shallow model may map two fractions to one block: each block is read once.
    return tuple({layer_of(fraction, depth): fraction for fraction in fractions}.values())
