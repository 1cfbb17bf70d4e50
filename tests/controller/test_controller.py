"""What a Controller refuses when it is made, in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, ControllerError, Greedy, Keys, PromptLookup, Trace


@pytest.mark.parametrize("name", ["exit", "policy", "drafter", "thinking"])
@pytest.mark.parametrize("value", ["ngram(8)", "x" * 5000, 0.5, True, {"risk": 0.05}, PromptLookup, object()])
def test_a_part_of_another_kind_is_refused_when_the_controller_is_made(name, value):
    with pytest.raises(ControllerError, match=f"^{name} is .*") as caught:
        Controller(**{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_parts_of_their_kind_are_taken():
    assert Controller(policy=Greedy(), drafter=PromptLookup()).exit is None


@pytest.mark.parametrize(("branches", "said"), [(0, 1), (1, 0)])
def test_a_drafter_that_can_not_draft_is_said_once(branches, said):
    session, trace = ToyEngine(vocabulary=5).session(), Trace()
    session.can = replace(session.can, branches=branches)
    call = Call([0, 1, 0, 1], 12, frozenset(), Keys(seed=0), Greedy())
    tokenizer = ToyTokenizer(list("abcde"))
    list(Controller(drafter=PromptLookup()).stream(session, tokenizer, call, trace))
    assert len([text for text in trace.warnings if text.startswith("nothing is drafted")]) == said
    assert bool(trace.drafted) == bool(branches)
