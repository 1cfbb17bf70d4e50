"""Counters of a server in Prometheus's text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from reasonctl.controller import Trace

_HELP = {
    "requests": "Requests that were answered, by route and status.",
    "cancelled": "Requests whose clients left before the end.",
    "tokens": "Tokens: prompt, cached (of it, not fed again), completion, and thinking (of that).",
    "saved": "Thinking tokens that exits saved, as the calibration runs say, less what audits cost.",
    "closed": "Thinking spans by what closed them.",
    "running": "Runs under way.",
    "waiting": "Runs that wait for a place.",
    "drift_alarm": "1 where runs in use aren't like the calibration's.",
    "audits": "Audited runs that are taken in.",
    "audit_failures": "Audited runs that fail.",
    "audit_evidence": "The audits' e-value against the promise.",
    "audit_alarm": "1 where audits have raised the alarm: exits are decided and not made.",
    "verdict_warning": "1 where users call runs with an exit wrong more often than others; nothing depends on it.",
}
_NAMES = {"requests": "requests_total", "cancelled": "cancelled_total", "tokens": "tokens_total"} | {
    "saved": "thinking_tokens_saved_total",
    "closed": "thinking_closed_total",
}
"""Names that differ from the keys; the rest are gauges."""

_NEWEST = ("promise", "audits", "alarm", "users_warn")
"""What of a run's audits only rises."""


class Metrics:
    """What a server has done since it started. It belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._requests = Counter[tuple[str, int]]()
        self._tokens = Counter[str]({"prompt": 0, "cached": 0, "completion": 0, "thinking": 0})
        self._closed = Counter[str]()
        self.cancelled = 0
        """Requests whose clients left before the end."""
        self._saved = 0.0
        self._alarm = False
        self._audit: Mapping[str, Any] = {**dict.fromkeys(_NEWEST, 0), "failures": 0, "evidence": 1.0}

    def answered(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests[route, status] += 1

    def finished(self, prompt_tokens: int, cached: int, traces: Iterable[Trace], saved: float) -> None:
        """A request's runs are over.

        Args:
            prompt_tokens: Length of its prompt.
            cached: Tokens of it that weren't fed again.
            traces: What its runs recorded.
            saved: Thinking tokens that their exits saved.
        """
        self._tokens["prompt"] += prompt_tokens
        self._tokens["cached"] += cached
        self._saved += saved
        for trace in traces:
            self._tokens["completion"] += len(trace.tokens)
            self._tokens["thinking"] += trace.thinking_tokens
            self._closed.update(span.closed_by or "nobody" for span in trace.spans)
            self._alarm |= bool(trace.drift and trace.drift["alarm"])
            self.audited(trace.audit)

    def audited(self, audit: Mapping[str, Any] | None) -> None:
        """What a run's audits say, if it has any; the run may have been cancelled. They may come in any order.

        A rule that learns has a new promise after an alarm, and what counts is the newest one's.
        """
        if audit is not None and [audit[name] for name in _NEWEST] >= [self._audit[name] for name in _NEWEST]:
            self._audit = audit

    def page(self, running: int, waiting: int) -> str:
        """All of them.

        Args:
            running: Runs under way now.
            waiting: Runs that wait now.
        """
        routes = {f'{{route="{route}",status="{status}"}}': n for (route, status), n in self._requests.items()}
        values: dict[str, Mapping[str, float]] = {
            "requests": routes,
            "cancelled": {"": self.cancelled},
            "tokens": {f'{{kind="{kind}"}}': n for kind, n in self._tokens.items()},
            "saved": {"": round(self._saved, 1)},
            "closed": {f'{{by="{by}"}}': n for by, n in self._closed.items()},
            "running": {"": running},
            "waiting": {"": waiting},
            "drift_alarm": {"": int(self._alarm)},
            "audits": {"": self._audit["audits"]},
            "audit_failures": {"": self._audit["failures"]},
            "audit_evidence": {"": self._audit["evidence"]},
            "audit_alarm": {"": int(self._audit["alarm"])},
            "verdict_warning": {"": int(self._audit["users_warn"])},
        }
        lines = []
        for key, found in values.items():
            name = f"reasonctl_{_NAMES.get(key, key)}"
            lines += [f"# HELP {name} {_HELP[key]}", f"# TYPE {name} {'counter' if key in _NAMES else 'gauge'}"]
            lines += [f"{name}{labels} {round(value, 1) + 0}" for labels, value in found.items()]
        return "\n".join(lines) + "\n"
