"""`ctl inspect`: a probe file's card and what it can promise at which risk, or where a model thinks."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reasonctl.backends.load import TINY
from reasonctl.controller import ControllerError
from reasonctl.controller.thinking.chat_template import read_template
from reasonctl.probes.exit import ProbeExit, make_exit
from reasonctl.probes.files.heads_file import SEALED, load_heads
from reasonctl.probes.files.probe_file import load_probe
from reasonctl.probes.risk.drift import DriftMonitor
from reasonctl.probes.risk.table import Table

from ..fitting.tables import outcomes_of
from ..pages.wording import exits_where, facts, missing_runs, percent
from .console import Console
from .options import Options, promise_of
from .recipes import open_model

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)


def run(path: str, options: Options, *, traces: str | None) -> None:
    """The card, and risk -> threshold, savings, exit rate on the calibration runs, runs still needed.

    traces: a file of Trace.to_dict() lines, in the order of the runs; they are tested for drift.
    """
    show = Console(as_json=options.json)
    if path == TINY or path.startswith("hf:") or path.endswith(".gguf") or Path(path).is_dir():
        return _model(show, path, options)
    if SEALED.holds(path):
        return _heads(show, path)
    content = load_probe(path)
    risks = sorted({*RISKS, options.risk})
    rules = [make_exit(content, replace(promise_of(options), risk=risk)) for risk in risks]
    for label, fact in facts(content.card).items():
        show.say(f"{label:>12}: {fact}")
    table, plain = (content.signal_table(name, options.domain).table for name in (options.signal, "hidden"))
    levels = [_level(rule, table, plain) for rule in rules]
    level = "marginal" if options.confidence is None else f"confidence {options.confidence:g}"
    show.title(f"{options.mode}, {options.signal}{_of(options)}, {level}: {table.runs} calibration runs")
    show.table([_row(one) for one in levels], "risk", "threshold", "exit rate", "tokens saved", "more runs needed")
    if (lower := rules[0].lower) is not None:
        show.say(f"{lower.why}; the exit rates and savings above include it, and its risk adds to theirs")
    show.say("Choose the risk before you look at the savings: one picked afterwards is valid for that one choice only.")
    drift = None if traces is None else _drift(show, DriftMonitor.of(table), Path(traces))
    show.result(
        {
            "card": vars(content.card),
            "levels": levels,
            "mode": options.mode,
            "confidence": options.confidence,
            "signal": options.signal,
            "domain": options.domain,
            "give_up": options.give_up,
            "drift": drift,
        }
    )


def _level(rule: ProbeExit, table: Table, plain: Table) -> dict[str, Any]:
    """A rule on its calibration runs; threshold None: `exits` says whether it never exits or always does."""
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


def _row(level: dict[str, Any]) -> list[str]:
    shown = level["exits"] if level["threshold"] is None else f"{level['threshold']:.4f}"
    return [
        f"{level['risk']:g}",
        shown,
        percent(level["exit_rate"]),
        percent(level["saved"]),
        missing_runs(level["more_runs"]),
    ]


def _of(options: Options) -> str:
    return "" if options.domain is None else f", domain {options.domain!r}"


def _model(show: Console, name: str, options: Options) -> None:
    """Where a model thinks, as its chat template has it."""
    found = read_template(open_model(name, options).template)
    for line in found.lines():
        show.say(line)
    show.result({"format": asdict(found)})


def _heads(show: Console, path: str) -> None:
    """The card of AutoDeco heads."""
    card = load_heads(path).card
    show.say(f"AutoDeco heads for {card.depth} layers of width {card.width}, fingerprint {card.fingerprint[:12]}")
    for name in ("tasks", "grader", "sampler", "runs", "training", "report", "settings"):
        value = getattr(card, name)
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        show.say(f"{name:>12}: {told}")
    show.result({"heads": vars(card)})


def _drift(show: Console, monitor: DriftMonitor, path: Path) -> dict[str, Any]:
    """What the monitor says after these runs."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ControllerError(f"{str(path)!r} can't be read as traces: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            trace = json.loads(line)
            scores = [float(decision["score"]) for decision in trace["decisions"]]
        except (ValueError, TypeError, KeyError):
            raise ControllerError(f"{path}:{number} is no trace; write json.dumps(handle.trace.to_dict())") from None
        if not trace.get("repeat"):
            monitor.update(scores)
    show.say(f"{monitor.why}; false alarms, ever: at most {percent(monitor.level)}", "bold")
    return {"runs": monitor.runs, "evidence": monitor.evidence, "alarm": monitor.alarm, "level": monitor.level}
