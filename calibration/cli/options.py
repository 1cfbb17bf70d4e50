"""The CLI's common options, and how they become a recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import click
from click.core import ParameterSource

from reasonctl.backends.load import TINY
from reasonctl.controller import ControllerError, parse_draft, parse_policy
from reasonctl.controller.drafting.models.model_drafter import DraftModel
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.threshold import MODES, Mode
from reasonctl.probes.signals.signals import SIGNALS, SignalName

from ..parallel.spread import cores
from ..runs.recipe import Backend

BACKENDS: dict[str, Backend] = {"llama": "llama.cpp", "hf": "transformers"}


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


def promise_of(options: Options, evaluation: Mapping[str, Any] | None = None) -> Promise:
    """The promise that was asked for.

    Args:
        options: The command line's.
        evaluation: What `ctl eval` measured, where the promise is the one that it measured.

    Raises:
        ControllerError: The command line asks for another promise than the evaluation's, or for an impossible one.
    """
    names = [entry.name for entry in fields(Promise)]
    asked = vars(options) if evaluation is None else evaluation
    for name in names:
        if evaluation is not None and name in options.given and getattr(options, name) != evaluation[name]:
            raise ControllerError(
                f"--{name.replace('_', '-')} is {getattr(options, name)!r}, the evaluation was made with "
                f"{evaluation[name]!r}; leave the option out, or evaluate again with it"
            )
    return Promise(**{name: asked[name] for name in names})


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
        promise_of(options)
        options.policy_text()
        parse_draft(options.draft, lambda name: cast(DraftModel, None))  # opened when the model is
        return command(options=options, **values)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
