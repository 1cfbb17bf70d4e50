"""`ctl advise draft`: prints what advice/draft_model.py measures."""

from __future__ import annotations

from collections.abc import Sequence

from reasonctl.controller import Chain, ControllerError, Greedy, parse_policy

from ..advice.draft_model import TOKENS, DraftAdvice, DraftReport, advise, open_drafts
from ..tasks.draft_prompts import DRAFT_PROMPTS
from .console import Console
from .options import Options
from .recipes import open_model


def advise_draft(name: str, drafts: Sequence[str], options: Options) -> None:
    """Print which draft models pay, and the best of them.

    Raises:
        ControllerError: The policy has a state, a model can't be loaded, or a draft has other token ids.
    """
    show = Console(as_json=options.json)
    policy = parse_policy(options.policy_text())
    if not isinstance(policy, Chain) or policy.stateful:
        raise ControllerError(
            "advice on drafts needs a policy without state; use temperature, top_k, top_p, min_p or greedy"
        )
    target = open_model(name, options)
    loaded = open_drafts(target, drafts, options.machine(name)[1])
    questions = [question for kind in DRAFT_PROMPTS.values() for question in kind][: options.n or 12]
    most = options.max_new_tokens or TOKENS
    show.say(
        f"texts of up to {most} tokens that {name} writes and every draft reads: {len(questions)}; "
        "-n and --max-new-tokens make it less"
    )
    with show.progress("measuring drafts") as progress:
        result = advise(
            target,
            loaded,
            [target.prompt(question) for question in questions],
            policy=None if isinstance(policy, Greedy) else policy,
            most=most,
            seed=options.seed,
            progress=progress,
        )
    _show(show, name, result)
    show.result({"model": name, **result.to_json()})


def _show(show: Console, name: str, result: DraftReport) -> None:
    """Print a row for each draft, the line over their sizes, and the best."""
    show.title(f"drafting for {name}, {result.positions} positions of its own text")
    show.table(
        [_row(entry) for entry in result.drafts], "draft", "weights", "alpha", "cost", "rows", "depth", "speed-up"
    )
    line = result.line
    if line is None:
        show.say("no line over sizes: it takes three drafts of different sizes; these are the measured points")
    else:
        show.say(f"alpha = {line.intercept:.3f} + {line.slope:.3f} log10(weights), R2 {line.r2:.3f}")
    if result.itself:
        show.say(f"{', '.join(result.itself)} is the model itself, and no draft model for it", "yellow")
    show.say("don't draft with these here" if result.best is None else f"best here: {result.best}", "bold")


def _row(entry: DraftAdvice) -> list[str]:
    return [
        entry.draft,
        f"{entry.parameters / 1e6:.0f} M",
        f"{entry.alpha:.3f} +- {entry.error:.3f}",
        f"{entry.cost:.2f}",
        str(entry.size),
        str(entry.depth),
        f"{entry.speed_up:.2f}",
    ]
