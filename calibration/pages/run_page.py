"""Saved runs as one page without a network: a list of them, and of each its text, its cues and what was saved.

The page's script writes every text of the runs with `textContent`, and nothing of theirs is ever read as markup. The
data of a run is parsed when the run is opened. The same runs give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from reasonctl.controller import Decision
from reasonctl.controller.core import SavedRun

from .template import page_template

_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029\x7f"}
"""In a script element none of these may stand as it is."""


def run_page(runs: Sequence[SavedRun], name: str) -> str:
    """The page.

    Args:
        runs: What it shows, in this order.
        name: The name of their file.
    """
    rows = _json([_row(run) for run in runs])
    details = [_json(_details(run)) for run in runs]
    return page_template("run.html.jinja").render(name=name, n=len(runs), rows=rows, details=details)


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))


def _row(run: SavedRun) -> dict[str, Any]:
    """What the list says of a run."""
    trace = run.trace
    scores = [decision.score for decision in trace.decisions if not math.isnan(decision.score)]
    return {
        "question": run.question,
        "model": run.model,
        "length": run.length,
        "thinking": trace.thinking_tokens,
        "cost": trace.cost,
        "plain": run.plain_tokens,
        "closer": trace.closed_by or ("none" if trace.spans else "no thinking"),
        "cues": len(trace.decisions),
        "best": _number(max(scores)) if scores else None,
        "right": run.right,
        "alarm": trace.drift["alarm"] if trace.drift else None,
        "finish": trace.finish_reason,
    }


def _details(run: SavedRun) -> dict[str, Any]:
    """What the view of one run says besides."""
    trace = run.trace
    summary = [(name, str(value)) for name, value in trace.facts() if name not in ("tokens", "warning", "note")]
    length = f"{run.length:,} after a prompt of {trace.prompt_tokens:,}; ended: {trace.finish_reason or 'it was left'}"
    return {
        "why": trace.why,
        "facts": [("tokens", length), *summary, ("seed", f"{trace.seed}, run {trace.run}"), *_saved(run), *_drift(run)],
        "warnings": [*([trace.note] if trace.note else []), *trace.warnings],
        "rule": trace.rule,
        "pieces": run.pieces,
        "sources": "".join(source[0] for source in trace.sources),
        "entropies": [_number(one) for one in trace.entropies],
        "temperatures": [_number(one) for one in trace.temperatures],
        "spans": [[span.start, span.end] for span in trace.spans],
        "cues": [_cue(decision) for decision in trace.decisions],
        "exits": trace.exit is not None,
        "never": trace.threshold_why,
    }


def _cue(decision: Decision) -> list[Any]:
    """Name, position, score, threshold, and what was decided."""
    did = "gave up" if decision.gave_up else "exit" if decision.exit else "went on"
    return [decision.cue, decision.position, _number(decision.score), _number(decision.threshold), did]


def _saved(run: SavedRun) -> list[tuple[str, str]]:
    """What control spared, where it is known."""
    trace = run.trace
    if run.plain_tokens is not None:
        share = (run.plain_tokens - trace.cost) / max(run.plain_tokens, 1)
        how = f"{share:.1%} saved" if share >= 0 else f"{-share:.1%} more"
        return [("saved", f"{run.plain_tokens:,} tokens without control, {trace.cost:,} with it: {how}")]
    if trace.would_exit is not None:
        return [("would save", f"{trace.would_save:,} thinking tokens came after an exit that wasn't made")]
    return [("saved", "unknown: the same run without control wasn't made (ctl eval --trace makes both)")]


def _drift(run: SavedRun) -> list[tuple[str, str]]:
    """What the drift test said after the run."""
    drift = run.trace.drift
    if drift is None:
        return [("drift test", "none was made")]
    said = "ALARM: runs are no longer like the calibration's" if drift["alarm"] else "no alarm"
    evidence = "unbounded" if drift["evidence"] is None else f"{drift['evidence']:.3g}"
    return [
        ("drift test", f"{said}, after {drift['runs']:,} runs; evidence {evidence}, alarm at {1 / drift['level']:g}")
    ]


def _number(value: float | None) -> float | None:
    """A number that JSON has, to four digits after the point."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
