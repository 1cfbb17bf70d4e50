"""The options that commands share, and the wrapper that every command runs in.

`ctl --help` imports this file, so it imports nothing of ours before a command runs. Choices are written out here, and
a test compares them with the types that they stand for.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from .config import set_elsewhere
from .extras import missing_extra
from .refusal import chosen, given, refuse
from .terminal import utf8

BACKENDS = {"llama": "llama.cpp", "hf": "transformers"}
MODES = ("harm", "wrong", "selective", "disagree", "event")
FORMS = ("replace", "append", "append-open")
SIGNALS = ("hidden", "trial", "trial-geometric", "trial-least", "agreement", "entropy", "stack")


def _backend(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """The name by which the loaders know the library."""
    return None if value is None else BACKENDS[value]


def _confidence(_: click.Context, __: click.Parameter, value: str) -> float | None:
    """A number, or None for `marginal`."""
    if value == "marginal":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'marginal'") from None


MOST_SEED = 2**64 - 1
MOST_PROBLEMS = 1_000_000
"""Problems of a command; all of them are drawn before the first is asked."""


MOST_BATCH = 64
"""The most runs that share a forward on transformers."""


class NumberRange(click.FloatRange):
    """A range of numbers, and NaN is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


class SignalName(click.Choice[str]):
    """A signal of ours, or the name of a plugin's; packages are searched only for a name that isn't ours."""

    def __init__(self) -> None:
        super().__init__(SIGNALS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in SIGNALS:
            from reasonctl.controller.core import plugin_names

            if value in plugin_names("signals"):
                return str(value)
        return super().convert(value, param, ctx)


class NameOrFile(click.ParamType[str]):
    """A text; shells complete it with some names and with files."""

    name = "text"

    def __init__(self, *names: str) -> None:
        self.names = names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        own = [CompletionItem(name) for name in self.names if name.startswith(incomplete)]
        return [*own, CompletionItem(incomplete, type="file")]


MODEL = NameOrFile("tiny", "tiny-hybrid", "tiny-masked")
"""The argument MODEL."""


def _option(*flags: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The arguments of one `click.option`."""
    return flags, settings


_OPTIONS = {
    "json": _option("--json", is_flag=True, help="One JSON object as the last line of stdout; all else on stderr."),
    "seed": _option(
        "--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True, help="Problems and sampling."
    ),
    "temperature": _option("--temperature", type=NumberRange(0), help="Sampling temperature [0.6]; 0 is greedy."),
    "policy": _option("--policy", help="Sampling chain, e.g. 'temperature(0.6) | top_p(0.95)'."),
    "draft": _option(
        "--draft",
        default="none",
        show_default=True,
        help="none, ngram(8), hierarchy, model(M), sequoia(M), dyspec(M), triforce.",
    ),
    "max_new_tokens": _option("--max-new-tokens", type=click.IntRange(1), help="Most tokens per run."),
    "n": _option("-n", "n", type=click.IntRange(1, MOST_PROBLEMS), help="Number of problems; of ctl sample, samples."),
    "mode": _option("--mode", type=click.Choice(MODES), default="harm", show_default=True, help="What a risk bounds."),
    "risk": _option(
        "--risk",
        type=float,
        default=0.05,
        show_default=True,
        help="Accepted probability, per run: above 0 and below 1.",
    ),
    "confidence": _option(
        "--confidence",
        default="0.9",
        show_default=True,
        callback=_confidence,
        help="Above 0 and below 1, or 'marginal'.",
    ),
    "signal": _option(
        "--signal", type=SignalName(), default="hidden", show_default=True, help="What a cue is scored by."
    ),
    "domain": _option("--domain", help="Promise for problems of this domain only, from its own runs."),
    "give_up": _option(
        "--give-up",
        type=float,
        help="Also leave runs that look hopeless, at this risk of harm: above 0, and below 1 with --risk [off].",
    ),
    "force": _option("--force", is_flag=True, help="Overwrite what exists."),
    "dry_run": _option("--dry-run", is_flag=True, help="Say what would be done and what it costs; write nothing."),
    "time_limit": _option(
        "--time-limit", type=NumberRange(0, min_open=True), help="Stop collecting after so many seconds."
    ),
    "backend": _option(
        "--backend",
        type=click.Choice(list(BACKENDS)),
        callback=_backend,
        help="For the bundled models: llama [default] or hf.",
    ),
    "workers": _option("--workers", type=click.IntRange(1), help="Processes; the bundled models use one per core."),
    "threads": _option("--threads", type=click.IntRange(1), help="Threads per process."),
    "batch": _option(
        "--batch",
        type=click.IntRange(1, MOST_BATCH),
        default=1,
        help="Runs decoded together, in forwards that they share [calibrate: 4, vLLM: 64; samples, serve: 8; else 1].",
    ),
    "grader": _option(
        "--grader", help="module:function (question, gold, answer) -> bool, or a plugin [the task's own]."
    ),
}
"""The shared options by their names in `Options`."""

SHARED = tuple(_OPTIONS)
"""Their names, in the order of the help."""

SAMPLING = ("seed", "temperature", "policy", "draft", "max_new_tokens")
"""How runs are made."""
PROMISE = ("mode", "risk", "confidence", "signal", "domain", "give_up")
"""What is asked of a probe."""
MACHINE = ("backend", "threads")
"""What a model runs on."""
SAMPLED = ("json", "seed", "max_new_tokens", "n", *PROMISE, "force", "dry_run", *MACHINE, "workers", "batch", "grader")
"""What commands take that sample many problems."""

ANY_PROBE = click.option(
    "--probe",
    type=NameOrFile("none"),
    help="Probe file, or OWNER/NAME on the hub [tiny: its own; else none]; or 'none'.",
)
"""The option of commands that can do without a probe."""

ORDER = click.option(
    "--order",
    callback=utf8,
    help="Masked models: confidence, margin, entropy, entropy_bound(0.1), random, left; with steps=, block= ...",
)
"""How a masked model's answer is unmasked."""

TRACE = click.option(
    "--trace", type=click.Path(), help="Append the runs to this file, a JSON line each, for ctl view; without texts."
)
TRACE_TEXT = click.option("--trace-text", is_flag=True, help="With --trace: also the questions and what was written.")

CODES = click.option(
    "--codes",
    type=click.Choice(("independent", "arithmetic")),
    default="independent",
    show_default=True,
    help="Independent samples, or samples spread evenly over the model's distribution.",
)
"""How samples of one prompt depend on each other."""

SAMPLES = click.option(
    "--samples",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Samples of each problem; a power of two.",
)
"""The option of commands that sample many problems."""

Command = Callable[..., None]


def common(*takes: str, **reasons: str) -> Callable[[Command], Command]:
    """Add shared options; the command gets all of them as one `Options`, checked as far as possible without a model.

    A ControllerError of the command, and a library of an extra that isn't installed, become click's error of one line.

    Args:
        takes: The options that mean something to the command. Others stay out of its help, and are refused by name.
        reasons: Why some are refused.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            try:
                _call(command, values, takes, reasons)
            except ModuleNotFoundError as error:
                message = missing_extra(error)
                if message is None:
                    raise
                raise click.ClickException(message) from error

        for name in reversed(SHARED):
            flags, settings = _OPTIONS[name]
            means = name in takes
            wrapped = click.option(*flags, **settings, allow_from_autoenv=means, hidden=not means)(wrapped)
        return wrapped

    return decorate


def _call(command: Command, values: dict[str, Any], takes: Collection[str], reasons: Mapping[str, str]) -> None:
    from reasonctl.controller import ControllerError

    from .options import Options

    refused = {name: reasons.get(name, "") for name in SHARED if name not in takes}
    refuse(click.get_current_context().command_path, given(), refused)
    options = Options(**{name: values.pop(name) for name in SHARED}, given=given(), chosen=chosen())
    if options.grader is not None:
        sys.path.append(os.getcwd())  # a grader may be a file of this folder; installed modules come first
    try:
        options.check()
        command(options=options, **values)
    except ControllerError as error:
        raise click.ClickException(str(error) + set_elsewhere(click.get_current_context())) from error
