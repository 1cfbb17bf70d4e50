"""Policies and calls that tests of distributions share."""

from __future__ import annotations

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Cues, Decision, ExitRule, Markers

LARGE_TEXTS = ToyTokenizer([chr(0x4E00 + i) for i in range(40)])


class ExitAtFirst(ExitRule):
    """Leaves thinking at the first cue."""

    markers, cues, suffix, max_cues = Markers("<t>", "</think>"), Cues(["wait"]), "</think> ", 9

    def decide(self, at):
        return Decision(True, at.cue.name, at.cue.index, at.cue.first - at.prompt, 1.0, 0.5)
        yield


OPEN = ToyTokenizer(["1 ", "2 ", "Wait", "</think>", " ", "<t>"])
CUED = ToyEngine(vocabulary=6, order=1, seed=2, concentration=8.0)
