"""The CLI's common options, and how they become a recipe."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from reasonctl.backends.load import BUNDLED_PROBE, TINY, load_model
from reasonctl.backends.model import Model
from reasonctl.controller import ControllerError, Cues, parse_draft, parse_policy
from reasonctl.controller.drafting.models.model_drafter import DraftModel
from reasonctl.controller.sampling.policy import checked
from reasonctl.controller.thinking.chat_template import chosen_markers, default_cues, exit_suffix
from reasonctl.probes.files.card import Card
from reasonctl.probes.risk.threshold import MODES, Mode, check_request
from reasonctl.probes.signals.probe import layer_of
from reasonctl.probes.signals.signals import SIGNALS, SignalName

from .recipe import LAYERS, Backend, Recipe
from .spread import cores

BACKENDS: dict[str, Backend] = {"llama": "llama.cpp", "hf": "transformers"}
MOST_NEW_TOKENS = 2048
_ESCAPE = re.compile(r"\\(?:[\\'\"nrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Options:
    """Everything the commands share, as given."""

    json: bool
    seed: int
    temperature: float | None
    policy: str | None
    draft: str
    max_new_tokens: int | None
    n: int | None
    mode: Mode
    risk: float
    confidence: float | None
    force: bool
    dry_run: bool
    time_limit: float | None
    backend: Backend | None
    workers: int | None
    threads: int | None
    grader: str | None
    signal: SignalName
    domain: str | None
    give_up: float | None
    given: frozenset[str] = frozenset()
    """Names of those that stand on the command line, whatever their value."""

    def refuse(self, command: str, **reasons: str) -> None:
        """Raise ControllerError if an option was given that the command can't honour. reasons: by option, and why."""
        for name, reason in reasons.items():
            if name in self.given:
                raise ControllerError(f"--{name.replace('_', '-')} means nothing to {command}: {reason}; leave it out")

    def policy_text(self, default: str = "temperature(0.6)") -> str:
        """--policy, or --temperature (0 = greedy), or the default; checked."""
        text = self.policy
        if text is None and self.temperature is not None:
            text = "greedy" if self.temperature == 0 else f"temperature({self.temperature:g})"
        elif text is not None and self.temperature is not None:
            raise ControllerError("--policy and --temperature were both given; put the temperature into the policy")
        parse_policy(text or default)
        return text or default

    def machine(self, model: str) -> tuple[int, int | None]:
        """(workers, threads each): the bundled model is small enough for one core per run."""
        if model == TINY:
            return self.workers or cores(), self.threads or 1
        return self.workers or 1, self.threads


def confidence(_: Any, __: Any, value: str) -> float | None:
    """--confidence: a number, or `marginal`."""
    if value == "marginal":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'marginal'") from None


_OPTIONS = [
    click.option("--json", is_flag=True, help="One JSON object as the last line of stdout; all else on stderr."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Problems and sampling."),
    click.option("--temperature", type=click.FloatRange(0), help="Sampling temperature [0.6]; 0 is greedy."),
    click.option("--policy", help="Sampling chain, e.g. 'temperature(0.6) | top_p(0.95)'."),
    click.option(
        "--draft",
        default="none",
        show_default=True,
        help="none, ngram(8), hierarchy, model(M), sequoia(M), dyspec(M), triforce.",
    ),
    click.option("--max-new-tokens", type=click.IntRange(1), help="Most tokens per run."),
    click.option("-n", "n", type=click.IntRange(1), help="Number of problems."),
    click.option(
        "--mode", type=click.Choice(list(MODES)), default="harm", show_default=True, help="What a risk bounds."
    ),
    click.option("--risk", type=float, default=0.05, show_default=True, help="Accepted probability, per run."),
    click.option("--confidence", default="0.9", show_default=True, callback=confidence, help="Or 'marginal'."),
    click.option(
        "--signal",
        type=click.Choice(list(SIGNALS)),
        default="hidden",
        show_default=True,
        help="What is looked at at a cue.",
    ),
    click.option("--domain", help="Promise for problems of this domain only, from its own runs."),
    click.option("--give-up", type=float, help="Also leave runs that look hopeless, at this risk of harm [off]."),
    click.option("--force", is_flag=True, help="Overwrite what exists."),
    click.option("--dry-run", is_flag=True, help="Say what would be done and what it costs; write nothing."),
    click.option(
        "--time-limit", type=click.FloatRange(0, min_open=True), help="Stop collecting after so many seconds."
    ),
    click.option("--backend", type=click.Choice(list(BACKENDS)), help="For the bundled model: llama [default] or hf."),
    click.option("--workers", type=click.IntRange(1), help="Processes; the bundled model uses one per core."),
    click.option("--threads", type=click.IntRange(1), help="Threads per process."),
    click.option("--grader", help="module:function (question, gold, answer) -> bool, in place of the task's own."),
]


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options; the command gets them as one `Options`, checked as far as possible without a model."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        shared = {name: values.pop(name) for name in Options.__dataclass_fields__ if name != "given"}
        context = click.get_current_context()
        shared["given"] = frozenset(
            name for name in shared if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        )
        shared["backend"] = BACKENDS.get(shared["backend"])
        options = Options(**shared)
        check_request(options.mode, options.risk, options.confidence)
        if options.give_up is not None:
            check_request("harm", options.give_up, options.confidence)
        options.policy_text()
        parse_draft(options.draft, lambda name: cast(DraftModel, None))  # opened when the model is
        return command(options=options, **values)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def open_model(name: str, options: Options) -> Model:
    """The parent's copy of the model: its template, tokenizer and fingerprint. A policy of another model is refused."""
    model = load_model(name, backend=options.backend, threads=options.machine(name)[1])
    for warning in checked((parse_policy(options.policy_text()),), model):
        click.echo(f"warning: {warning}", err=True)
    return model


def new_recipe(
    name: str, model: Model, options: Options, *,
    opening: str | None = None, closing: str | None = None, suffix: str | None = None, cues: str | None = None,
    layers: str | None = None, answer_tokens: int = 64,
) -> Recipe:  # fmt: skip
    """A recipe from what the model's template tells and the user overrides."""
    markers = chosen_markers(model.template, opening, closing)
    names = (
        tuple(part.strip() for part in cues.split(",") if part.strip()) if cues is not None else default_cues(markers)
    )
    Cues(names)
    room = model.context * 3 // 4
    return Recipe(
        model=name,
        backend=options.backend,
        threads=options.machine(name)[1],
        markers=(markers.open, markers.close) if markers else None,
        cues=names,
        suffix=unescaped(suffix) if suffix else exit_suffix(model.template, markers),
        max_cues=200,
        layers=_layers(layers, model.depth),
        policy=options.policy_text(),
        draft=options.draft,
        seed=options.seed,
        max_new_tokens=options.max_new_tokens or min(MOST_NEW_TOKENS, room),
        answer_tokens=answer_tokens,
    )


def unescaped(text: str) -> str:
    r"""Text from a command line, where a new line is written \n and a character may be written by its number.

    >>> unescaped(r"Réponse :\n\u2192 1 \\n")
    'Réponse :\n→ 1 \\n'
    """
    return _ESCAPE.sub(lambda found: found.group().encode("ascii").decode("unicode_escape"), text)


def card_recipe(name: str, card: Card, options: Options) -> Recipe:
    """The recipe under which a probe is used: the card's, but for what the user asks otherwise."""
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
        answer_tokens=int(cast(int, card.sampler.get("answer_tokens", 64))),
    )


def probe_path(name: str, probe: str | None) -> Path:
    """--probe, or the bundled model's own."""
    if probe is not None:
        return Path(probe)
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
