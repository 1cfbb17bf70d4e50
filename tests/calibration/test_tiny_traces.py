"""The traces that the bundled model was trained on: what the word after a cue must not tell, and what it must."""

from __future__ import annotations

import pytest

from support.example_scripts import load

traces = load("tiny/traces.py")


@pytest.mark.parametrize("cue", traces.CUES)
@pytest.mark.parametrize("value", range(20, 30))
def test_right_and_wrong_lines_have_the_same_chances_of_different_words(cue, value):
    """Equal as sets, so entropy is equal at every temperature; apart as laws, so states must know."""
    right, wrong = (traces.Law().verdict(state, cue, value) for state in (True, False))
    assert sorted(right.values()) == pytest.approx(sorted(wrong.values()))
    assert sum(right.values()) == pytest.approx(1.0) and min(right.values()) > 0.04
    assert sum(abs(right[word] - wrong[word]) for word in right) / 2 > 0.25
