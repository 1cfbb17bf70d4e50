"""`ctl inspect`: the card of a probe file, and what it can promise at which risk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..controller import ControllerError
from ..probes.card import Card
from ..probes.drift import DriftMonitor
from ..probes.file import load_probe
from ..probes.heads import SEALED, load_heads
from ..probes.risk import choose_threshold
from .options import Options
from .show import Show, percent


def run(path: str, options: Options, *, traces: str | None) -> None:
    """The card, and risk -> threshold, savings, exit rate on the calibration runs, runs still needed.

    traces: a file of Trace.to_dict() lines, in the order of the runs; they are tested for drift.
    """
    show = Show(as_json=options.json)
    if SEALED.holds(path):
        return _heads(show, path)
    content = load_probe(path)
    judged, card = content.judged(options.signal), content.card
    table = judged.table
    for label, fact in facts(card).items():
        show.say(f"{label:>12}: {fact}")
    rows: list[list[str]] = []
    levels: list[dict[str, Any]] = []
    for risk in sorted({0.01, 0.02, 0.05, 0.1, 0.2, options.risk}):
        limit = choose_threshold(table, judged.grid, options.mode, risk, options.confidence)
        out = table.outcomes(table.first_exit(limit.value))
        saved = 1 - out.tokens.mean() / content.table.full_tokens.mean()
        value = None if limit.value == float("inf") else limit.value
        levels.append({"risk": risk, "threshold": value, "exit_rate": float(out.exited.mean()), "saved": float(saved),
                       "more_runs": limit.more_runs})  # fmt: skip
        more = "-" if not limit.more_runs else f"{limit.more_runs}"
        shown = "never" if value is None else f"{value:.4f}"
        rows.append([f"{risk:g}", shown, percent(float(out.exited.mean())), percent(float(saved)), more])
    level = "marginal" if options.confidence is None else f"confidence {options.confidence:g}"
    show.title(f"mode {options.mode}, {level}, {table.runs} calibration runs")
    show.table(rows, "risk", "threshold", "exit rate", "tokens saved", "more runs needed")
    show.say("Choose the risk before you look at the savings: one picked afterwards is valid for that one choice only.")
    drift = None if traces is None else _drift(show, DriftMonitor.of(table), Path(traces))
    show.result({
        "card": vars(card), "levels": levels, "mode": options.mode, "confidence": options.confidence, "drift": drift,
    })  # fmt: skip


def _heads(show: Show, path: str) -> None:
    """The card of AutoDeco heads."""
    card = load_heads(path).card
    show.say(f"AutoDeco heads for {card.depth} layers of width {card.width}, fingerprint {card.fingerprint[:12]}")
    for name in ("tasks", "grader", "sampler", "runs", "training", "report", "settings"):
        value = getattr(card, name)
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        show.say(f"{name:>12}: {told}")
    show.result({"heads": vars(card)})


def _drift(show: Show, monitor: DriftMonitor, path: Path) -> dict[str, Any]:
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


def facts(card: Card) -> dict[str, str]:
    """The card in words."""
    return {
        "model": f"{card.depth} layers of width {card.width}, fingerprint {card.fingerprint[:12]}",
        "layers": ", ".join(f"{fraction:.2f}" for fraction in card.layers) + " of depth",
        "cues": f"{', '.join(card.cues)} (at most {card.max_cues} a run)",
        "markers": " ... ".join(card.markers) if card.markers else "none",
        "suffix": repr(card.suffix),
        "sampler": ", ".join(f"{key} {value}" for key, value in card.sampler.items()),
        "tasks": f"{card.tasks}, judged by {card.grader}, at most {card.max_new_tokens} new tokens",
        "runs": ", ".join(f"{value} {key}" for key, value in card.runs.items()),
        "fit": ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in card.report.items()
        ),
        "settings": ", ".join(f"{key} {value}" for key, value in card.settings.items()),
    }
