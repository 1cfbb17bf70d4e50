"""The drift monitor of one engine among several that share a stream of requests."""

from __future__ import annotations

import re
from collections.abc import Callable

from reasonctl.probes import ProbeExit
from reasonctl.probes.risk import DriftMonitor, InOrder

from .following import Following

_REPEATED = re.compile(r"[1-9]\d*_")
"""How the ids of further samples of one prompt begin."""


class Monitored:
    """Takes in each run's first score, in the order in which the runs began.

    Each of n engines tests at the nth part of the level, so that all of them together keep the level.
    """

    def __init__(self, rule: ProbeExit, replicas: int, warn: Callable[[str], None]) -> None:
        """Begin with no run met.

        Args:
            rule: The engine's rule.
            replicas: Engines that share the stream.
            warn: Called once with a line, when the alarm is raised.
        """
        self.monitor: DriftMonitor | None = None
        """None: there is nothing to compare with, or the rule reads nothing."""
        if rule.monitor is not None and rule.reads:
            shared = rule.monitor.level / replicas
            self.monitor = DriftMonitor(rule.monitor.reference, level=shared, seed=rule.monitor.seed)
        self._order = InOrder()
        self._warn = warn
        self._warned = False

    def begin(self, name: str, request: Following) -> None:
        """A request has come, or come back."""
        if not request.begun and self._counts(name, request):
            self._order.begin(request)
        request.begun = True

    def end(self, name: str, request: Following) -> None:
        """A request has ended, or was aborted."""
        if self._counts(name, request):
            self._order.end(request, lambda: self._take_in(request))

    def _counts(self, name: str, request: Following) -> bool:
        """Whether a request is one run of its own; an answer after an exit belongs to a run that was taken in."""
        asked = request.rule.reads and not request.options.off and not request.options.answer
        return self.monitor is not None and asked and not _REPEATED.match(name)

    def _take_in(self, request: Following) -> None:
        """Take in a run that shows a score, or that came to an end of its thinking without one."""
        assert self.monitor is not None
        if not request.decisions and not request.finished_thinking:
            return  # aborted before its first cue
        self.monitor.update([decision.score for decision in request.decisions])
        if self.monitor.alarm and not self._warned:
            self._warned = True
            self._warn(f"reasonctl: {self.monitor.why}; the promise may not hold here: calibrate on runs like these")
