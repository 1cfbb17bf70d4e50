"""What ends the rows of a batch: clocks of the whole call, and criteria with a state of their own."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers.generation import stopping_criteria as library

from reasonctl.backends.attach import attach
from reasonctl.controller import Controller, ControllerError, Greedy, PromptLookup
from support.hf_models import GREEDY, TOKENIZER, small


class Clock:
    """Seconds that pass by calls of the model only."""

    def __init__(self):
        self.now = 0.0

    def time(self):
        return self.now


class Counts:
    """Ends a row at its tenth question."""

    def __init__(self):
        self.asked = 0

    def __call__(self, ids, scores, **more):
        self.asked += 1
        return torch.full((len(ids),), self.asked >= 10)

    def fork(self):
        return Counts()


class Plain(Counts):
    fork = None


class Locked(Plain):
    """Holds what can't be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Compares:
    """Answers for the rows of the whole batch."""

    def __call__(self, ids, scores, **more):
        return torch.zeros(3, dtype=torch.bool)


BATCH = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
ONES = torch.ones_like(BATCH)


@pytest.mark.parametrize("drafter", [None, PromptLookup()], ids=["plain", "drafts"])
def test_a_clock_ends_the_rows_of_a_batch_alike(monkeypatch, drafter):
    model, clock = small(), Clock()
    monkeypatch.setattr(library, "time", clock)

    def pass_time(module, args, output):
        clock.now += 1.0

    hook = model.register_forward_hook(pass_time)
    with attach(model, Controller(drafter=drafter), tokenizer=TOKENIZER) as handle:
        model.generate(BATCH, attention_mask=ONES, max_time=60.0, max_new_tokens=200, do_sample=False)
    hook.remove()
    lengths = [len(trace.tokens) for trace in handle.traces]
    assert min(lengths) >= 15 and max(lengths) < 200
    assert drafter is not None or max(lengths) - min(lengths) <= 1


def test_rows_in_turn_write_what_they_write_alone():
    model = small()
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        arguments = dict(attention_mask=ONES, max_new_tokens=20, do_sample=True, seed=4)
        alone = model.generate(BATCH, **arguments)
        assert torch.equal(model.generate(BATCH, max_time=1e6, **arguments), alone)
        assert [trace.run for trace in handle.traces] == [0, 1, 2]


def test_a_criterion_that_counts_is_copied_for_each_row_or_refused_by_name():
    model = small()
    with attach(model, Controller()) as handle:  # nothing to do: asked once for the batch, as the library asks
        model.generate(BATCH, attention_mask=ONES, stopping_criteria=[Plain()], **GREEDY)
        assert len(handle.traces) == len(BATCH)
    with attach(model, Controller(policy=Greedy()), tokenizer=TOKENIZER) as handle:
        model.generate(BATCH, attention_mask=ONES, stopping_criteria=[Counts()], **GREEDY)
        assert [len(trace.tokens) for trace in handle.traces] == [10, 10, 10]
        model.generate(BATCH, attention_mask=ONES, stopping_criteria=[Plain()], **GREEDY)
        assert [len(trace.tokens) for trace in handle.traces] == [10, 10, 10]
        with pytest.raises(ControllerError, match="stopping criterion Locked may keep state"):
            model.generate(BATCH, attention_mask=ONES, stopping_criteria=[Locked()], **GREEDY)
        with pytest.raises(ControllerError, match="stopping criterion Compares answered for 3 rows"):
            model.generate(BATCH, attention_mask=ONES, stopping_criteria=[Compares()], **GREEDY)
        one = model.generate(BATCH[:1], attention_mask=ONES[:1], stopping_criteria=[Plain()], **GREEDY)
        assert one.shape == (1, 13)
