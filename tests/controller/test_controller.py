"""What a Controller refuses when it is made, in one line."""

from __future__ import annotations

import pytest

from reasonctl.controller import Controller, ControllerError, Greedy, PromptLookup


@pytest.mark.parametrize("name", ["exit", "policy", "drafter", "thinking"])
@pytest.mark.parametrize("value", ["ngram(8)", "x" * 5000, 0.5, True, {"risk": 0.05}, PromptLookup, object()])
def test_a_part_of_another_kind_is_refused_when_the_controller_is_made(name, value):
    with pytest.raises(ControllerError, match=f"^{name} is .*") as caught:
        Controller(**{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_parts_of_their_kind_are_taken():
    assert Controller(policy=Greedy(), drafter=PromptLookup()).exit is None
