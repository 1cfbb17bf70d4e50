"""What an exit is said to save is what the calibration's own exits saved."""

from __future__ import annotations

import numpy as np

from reasonctl.backends import BUNDLED_PROBE
from reasonctl.probes import load_exit
from reasonctl.probes.risk.table import NO_EXIT


def test_over_the_calibrations_exits_it_is_what_they_saved() -> None:
    rule = load_exit(BUNDLED_PROBE, risk=0.05)
    table = rule.content.signal_table("hidden").table
    exits = table.first_exit(rule.threshold.value)
    runs = exits != NO_EXIT
    saved = (table.full_tokens - table.outcomes(exits).tokens)[runs]
    positions = table.positions[table.offsets[:-1][runs] + exits[runs]]
    said = np.array([rule.expected_saving(int(position)) for position in positions])
    assert runs.sum() > 100 and abs(said.mean() - saved.mean()) < 0.05 * saved.mean()
    early, late = rule.expected_saving(0), rule.expected_saving(10_000)
    assert early is not None and late is not None and early != late


def test_a_rule_that_never_exits_says_nothing() -> None:
    assert load_exit(BUNDLED_PROBE, risk=0.0001).expected_saving(10) is None
