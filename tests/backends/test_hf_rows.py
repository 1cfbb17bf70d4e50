"""Rows of one transformers call: chunks of a shared prompt, and rows that can't share a forward say so."""

from __future__ import annotations

import torch

from reasonctl.backends.attach import attach
from reasonctl.controller import Controller
from support.hf_models import TOKENIZER, small

TEXT = dict(input_ids=torch.arange(3, 43)[None] % 30, attention_mask=torch.ones(1, 40, dtype=torch.long))


def called(model, **arguments):
    """The tokens of a call, the rows of each of its forwards, and the warnings of its rows."""
    rows = []
    hook = model.register_forward_pre_hook(
        lambda module, args, named: rows.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    with attach(model, Controller(budget=500), tokenizer=TOKENIZER) as handle:
        rows.clear()
        out = model.generate(max_new_tokens=6, do_sample=True, seed=3, **arguments)
    hook.remove()
    return out.tolist(), rows, [trace.warnings for trace in handle.traces]


def test_return_sequences_feed_their_prompt_in_the_chunks_that_the_call_asks_for():
    torch.set_num_threads(1)
    model = small()
    whole, rows, _ = called(model, **TEXT, num_return_sequences=2)
    assert rows[0] == 39
    chunked, rows, _ = called(model, **TEXT, num_return_sequences=2, prefill_chunk_size=8)
    assert rows[:6] == [8, 8, 8, 8, 7, 2] and chunked == whole
    alone, rows, _ = called(model, **TEXT, prefill_chunk_size=8)
    assert rows[:5] == [8, 8, 8, 8, 8] and alone == whole[:1]


def test_rows_with_positions_of_their_own_say_that_they_run_in_turn():
    torch.set_num_threads(1)
    model = small()
    two = {name: value.repeat(2, 1) for name, value in TEXT.items()}
    two["input_ids"][1] += 1
    _, rows, warnings = called(model, **two)
    assert max(rows[1:]) == 2 and not any("in turn" in text for row in warnings for text in row)
    positions = torch.arange(40)[None].repeat(2, 1)
    _, rows, warnings = called(model, **two, position_ids=positions + 5)
    assert max(rows[2:]) == 1
    assert all(any("rows run in turn: this row has positions of its own" in text for text in row) for row in warnings)
