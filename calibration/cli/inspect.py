"""`ctl inspect`: a probe file's card and what it can promise at which risk, or where a model thinks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reasonctl.backends import BUNDLED
from reasonctl.controller import ControllerError, Effort
from reasonctl.controller.core import Fields, lines
from reasonctl.controller.thinking import read_template
from reasonctl.probes import Promise, make_exit
from reasonctl.probes.files import SEALED, HeadsCard, ProbeFile, find_probe, load_heads, load_probe
from reasonctl.probes.risk import DriftMonitor, Table

from ..pages.probe_card import level_of, levels_of
from ..pages.wording import facts, missing_runs, percent
from .console import Console
from .flags import MACHINE, PROMISE
from .options import Options
from .recipes import open_model


def inspect(path: str, options: Options, *, traces: str | None) -> None:
    """Print the card and, for each risk, the threshold, what it does on the calibration runs, and runs still needed.

    traces: a file of `Trace.to_dict()` lines, in the order of the runs; they are tested for drift.
    """
    show = Console(as_json=options.json)
    if path in BUNDLED or path.startswith("hf:") or path.endswith(".gguf") or Path(path).is_dir():
        options.refuse(f"ctl inspect {path}", *PROMISE, "traces", because="it is a model, and promises nothing")
        return _model(show, path, options)
    options.refuse(f"ctl inspect {path}", *MACHINE, because="no model is loaded")
    if SEALED.holds(path):
        options.refuse(f"ctl inspect {path}", *PROMISE, "traces", because="heads promise nothing")
        _show_heads(show, load_heads(path).card)
        return
    content = load_probe(find_probe(path))
    promise = options.promise
    table, plain = (content.signal_table(name, promise.domain).table for name in (promise.signal, "hidden"))
    levels = levels_of(content, promise)
    for label, fact in facts(content.card).items():
        show.say(f"{label:>12}: {fact}")
    _show_levels(show, levels, promise, table.runs)
    efforts = [_effort(name, one, content, promise, plain) for name, one in content.card.named_efforts.items()]
    _show_efforts(show, efforts)
    if (lower := make_exit(content, promise).lower) is not None:
        show.say(f"{lower.why}; the exit rates and savings above include it, and its risk adds to theirs")
    show.say("Choose the risk before you look at the savings: one picked afterwards is valid for that one choice only.")
    drift = None
    if traces is not None:
        monitor = _monitored(DriftMonitor.of(table), Path(traces))
        show.say(f"{monitor.why}; false alarms, ever: at most {percent(monitor.level)}", "bold")
        drift = {"runs": monitor.runs, "evidence": monitor.evidence, "alarm": monitor.alarm, "level": monitor.level}
    asked = {name: value for name, value in asdict(promise).items() if name != "risk"}
    show.result({"card": content.card.to_dict(), "levels": levels, "efforts": efforts, **asked, "drift": drift})


def _effort(
    name: str, effort: int | float | Effort, content: ProbeFile, promise: Promise, plain: Table
) -> dict[str, Any]:
    """What a name stands for, and for a risk what the rule does at it; as JSON values."""
    settings = effort.settings if isinstance(effort, Effort) else {"budget": effort}
    if "risk" not in settings:
        return {"name": name, **settings}
    table = content.signal_table(promise.signal, promise.domain).table
    rule = make_exit(content, replace(promise, risk=settings["risk"]))
    return {"name": name, **settings, **level_of(rule, table, plain)}


def _show_efforts(show: Console, efforts: list[dict[str, Any]]) -> None:
    """Print what names stand for, such as `ctl run --effort low`."""
    for one in efforts:
        stands = [f"{name} {one[name]:g}" for name in ("budget", "thinking_seconds", "risk") if name in one]
        does = ""
        if "risk" in one:
            never = f": never exits, {missing_runs(one['more_runs'])} more runs needed"
            does = never if one["exits"] == "never" else f": {percent(one['saved'])} saved"
        show.say(f"effort {one['name']!r}: {', '.join(stands)}{does}")


def _show_levels(show: Console, levels: list[dict[str, Any]], promise: Promise, runs: int) -> None:
    level = "marginal" if promise.confidence is None else f"confidence {promise.confidence:g}"
    domain = "" if promise.domain is None else f", domain {promise.domain!r}"
    show.title(f"{promise.mode}, {promise.signal}{domain}, {level}: {runs} calibration runs")
    show.table([_row(one) for one in levels], "risk", "threshold", "exit rate", "tokens saved", "more runs needed")


def _row(level: dict[str, Any]) -> list[str]:
    shown = level["exits"] if level["threshold"] is None else f"{level['threshold']:.4f}"
    return [
        f"{level['risk']:g}",
        shown,
        percent(level["exit_rate"]),
        percent(level["saved"]),
        missing_runs(level["more_runs"]),
    ]


def _model(show: Console, name: str, options: Options) -> None:
    """Print where a model thinks, by its chat template."""
    model = open_model(name, options)
    found, checkpoint = read_template(model.template), model.engine.checkpoint_bytes
    for line in found.lines():
        show.say(line)
    if checkpoint:
        show.say(f"checkpoints: {checkpoint:,} bytes for each sequence, and as many while a draft is verified")
    show.result({"format": asdict(found), "checkpoint_bytes": checkpoint})


def _show_heads(show: Console, card: HeadsCard) -> None:
    """Print the card of AutoDeco heads."""
    show.say(f"AutoDeco heads for {card.depth} layers of width {card.width}, fingerprint {card.fingerprint[:12]}")
    for name in ("tasks", "grader", "sampler", "runs", "training", "report", "settings"):
        value = getattr(card, name)
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        show.say(f"{name:>12}: {text}")
    show.result({"heads": vars(card)})


def _monitored(monitor: DriftMonitor, path: Path) -> DriftMonitor:
    """The monitor after the runs of a file of traces.

    Raises:
        ControllerError: A line that is no trace, or a file that can't be read.
    """
    try:
        for number, value in lines(path, "traces"):
            trace = Fields.of(value, f"line {number} of {str(path)!r}")
            if trace.values.get("drift", ...) is None:
                continue  # nothing was scored: the rule could not exit
            scores = [
                Fields.of(decision, f"decision {i} in {trace.where}").number("score")
                for i, decision in enumerate(trace.items("decisions"), start=1)
            ]
            if not trace.optional(trace.flag, "repeat"):
                monitor.update(scores)
    except ControllerError as error:
        raise ControllerError(f"{error}; write one json.dumps(handle.trace.to_dict()) a line") from None
    return monitor
