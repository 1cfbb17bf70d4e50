"""The options that all commands share, and what surrounds every command.

`ctl --help` reads this file, so it imports nothing of ours before a command runs: choices are written out here, and a
test compares them with the types that they stand for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from .extras import missing_extra

BACKENDS = {"llama": "llama.cpp", "hf": "transformers"}
MODES = ("harm", "wrong", "selective", "disagree", "event")
SIGNALS = ("hidden", "trial", "trial-geometric", "trial-least", "agreement", "entropy", "stack")


def _backend(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """The library's name, as the loaders know it."""
    return None if value is None else BACKENDS[value]


def _confidence(_: click.Context, __: click.Parameter, value: str) -> float | None:
    """A number, or None for `marginal`."""
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
    click.option("--mode", type=click.Choice(MODES), default="harm", show_default=True, help="What a risk bounds."),
    click.option("--risk", type=float, default=0.05, show_default=True, help="Accepted probability, per run."),
    click.option("--confidence", default="0.9", show_default=True, callback=_confidence, help="Or 'marginal'."),
    click.option(
        "--signal",
        type=click.Choice(SIGNALS),
        default="hidden",
        show_default=True,
        help="What a cue is scored by.",
    ),
    click.option("--domain", help="Promise for problems of this domain only, from its own runs."),
    click.option("--give-up", type=float, help="Also leave runs that look hopeless, at this risk of harm [off]."),
    click.option("--force", is_flag=True, help="Overwrite what exists."),
    click.option("--dry-run", is_flag=True, help="Say what would be done and what it costs; write nothing."),
    click.option(
        "--time-limit", type=click.FloatRange(0, min_open=True), help="Stop collecting after so many seconds."
    ),
    click.option(
        "--backend",
        type=click.Choice(list(BACKENDS)),
        callback=_backend,
        help="For the bundled model: llama [default] or hf.",
    ),
    click.option("--workers", type=click.IntRange(1), help="Processes; the bundled model uses one per core."),
    click.option("--threads", type=click.IntRange(1), help="Threads per process."),
    click.option("--grader", help="module:function (question, gold, answer) -> bool, in place of the task's own."),
]


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options; the command gets them as one `Options`, checked as far as possible without a model.

    A ControllerError of the command, and a library of an extra that isn't installed, become click's error of one line.
    """

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        try:
            _call(command, values)
        except ModuleNotFoundError as error:
            message = missing_extra(error)
            if message is None:
                raise
            raise click.ClickException(message) from error

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _call(command: Callable[..., None], values: dict[str, Any]) -> None:
    from reasonctl.controller import ControllerError

    from .options import SHARED, Options

    context = click.get_current_context()
    shared = {name: values.pop(name) for name in SHARED}
    given = frozenset(name for name in shared if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
    options = Options(**shared, given=given)
    try:
        options.check()
        command(options=options, **values)
    except ControllerError as error:
        raise click.ClickException(str(error)) from error
