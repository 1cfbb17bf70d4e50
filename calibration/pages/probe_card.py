"""A probe file's card in Markdown, for people who are given the file; and a folder that can be shared as it is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.probes import ProbeExit, Promise, make_exit
from reasonctl.probes.files import CARD_NAME, PROBE_NAME, ProbeFile, digest_of, save_probe, write_whole
from reasonctl.probes.risk import Table

from ..fitting.tables import outcomes_of
from .wording import FAIL, SHOWN_RISKS, exits_where, facts, missing_runs, percent

_HEAD = "---\nlibrary_name: reasonctl\ntags:\n- reasonctl\n- early-exit\n- reasoning\n---\n"
"""What the hub reads of a card."""
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|#"} | {"\n": " ", "\r": " "})


def level_of(rule: ProbeExit, table: Table, plain: Table) -> dict[str, Any]:
    """What a rule does on its calibration runs, as JSON values.

    A threshold that isn't finite is None. `exits` says whether the rule then exits never or always.

    Args:
        rule: The rule.
        table: The calibration runs under its signal.
        plain: The same runs without trials.
    """
    limit = rule.threshold
    out = outcomes_of(table, plain, limit.value, rule.lower.curve if rule.lower else None)
    return {
        "risk": limit.risk,
        "threshold": limit.value if math.isfinite(limit.value) else None,
        "exits": exits_where(limit.value),
        "exit_rate": float(out.exited.mean()),
        "saved": float(1 - out.tokens.mean() / plain.full_tokens.mean()),
        "more_runs": limit.more_runs,
    }


def levels_of(content: ProbeFile, promise: Promise) -> list[dict[str, Any]]:
    """`level_of` at the promise's risk and some others."""
    table, plain = (content.signal_table(name, promise.domain).table for name in (promise.signal, "hidden"))
    risks = sorted({*SHOWN_RISKS, promise.risk})
    rules = [make_exit(content, replace(promise, risk=risk)) for risk in risks]
    return [level_of(rule, table, plain) for rule in rules]


def escaped(text: str) -> str:
    r"""A text that Markdown shows as it is.

    >>> print(escaped("<b> | `x`"))
    \<b\> \| \`x\`
    """
    return text.translate(_SPECIAL)


def markdown(content: ProbeFile) -> str:
    """The card with what the file can promise. The same file gives the same text."""
    mode = content.card.mode
    rows = [
        f"| {level['risk']:g} | {level['exits']} | {percent(level['exit_rate'])} | {percent(level['saved'])} | "
        f"{missing_runs(level['more_runs'])} |"
        for level in levels_of(content, Promise(mode))  # type: ignore[arg-type]  # the card was checked
    ]
    lines = [
        f"{_HEAD}\n# An early-exit probe\n",
        "It ends a model's thinking once the answer is known. Made by "
        "[reasonctl](https://pypi.org/project/reasonctl/), and used with `--probe OWNER/NAME`.\n",
        *(f"- **{escaped(label)}**: {escaped(fact)}" for label, fact in facts(content.card).items()),
        f"- **sha256**: {digest_of(content)}",
        f"\n## What it can promise\n\nAt most the risk's share of runs {FAIL[mode]}, with confidence 0.9:\n",
        "| risk | exits | exit rate | tokens saved | more runs needed |\n|---|---|---|---|---|",
        *rows,
        "\nThe promise holds for this model, sampler, limits and kind of problems. `ctl eval MODEL --probe OWNER/NAME` "
        "checks it on yours.\n",
    ]
    return "\n".join(lines)


def pack(content: ProbeFile, folder: Path, *, force: bool) -> list[Path]:
    """Write a folder with the probe and its card; the runs that it was made from aren't in it.

    Raises:
        ControllerError: The folder holds such files already, or can't be written.
    """
    places = [folder / PROBE_NAME, folder / CARD_NAME]
    taken = [place for place in places if place.exists()]
    if folder.exists() and not folder.is_dir():
        raise ControllerError(f"{folder} is a file; give the name of a folder")
    if taken and not force:
        raise ControllerError(f"{taken[0]} exists already; overwrite it with --force or give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ControllerError(f"{folder} can't be made ({error.strerror}); give another folder") from None
    save_probe(places[0], content, force=True)
    write_whole(places[1], markdown(content).encode())
    return places
