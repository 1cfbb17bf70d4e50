"""Bytes of cache a token: the slab's next to those of the library's own cache, for the same tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.load import load_model
from reasonctl.controller import Decode
from support import hf_models

ROWS = 8
SHAPE = hf_models.SHAPE | dict(vocab_size=80, head_dim=8, max_position_embeddings=2048, pad_token_id=0)
KINDS = {
    "llama": (torch.float32, {}),
    "gemma3_text": (torch.bfloat16, dict(sliding_window=8, query_pre_attn_scalar=16)),
}


def stock_bytes(model, rows: int, columns: int) -> int:
    """What the library's cache holds after a batch of so many rows and columns."""
    cache = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.ones(rows, columns, dtype=torch.long), past_key_values=cache)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def grown(engine: HFEngine, columns: int) -> list:
    """Sessions that have shared forwards up to so many tokens, step by step."""
    sessions = [engine.session() for _ in range(ROWS)]
    engine.forward([Decode(session, [5] * (columns - 20)) for session in sessions])
    for _ in range(20):
        engine.forward([Decode(session, [5]) for session in sessions])
    return sessions


def check(model, engine: HFEngine, columns: int) -> float:
    """The slab's bytes over those of the stock cache: spare columns, and spare slots where sequences joined later."""
    stock = stock_bytes(model, ROWS, columns)
    assert engine.token_bytes * ROWS * columns == stock
    sessions = grown(engine, columns)
    slab, ratio = engine.slab, engine.slab.bytes / stock
    assert slab.bytes == engine.token_bytes * slab.room * slab.columns
    assert ROWS <= slab.room <= slab.room_for(ROWS) and columns <= slab.columns <= slab.columns_for(columns)
    for session in sessions:
        session.close()
    assert slab.bytes == 0
    return ratio


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_takes_as_many_bytes_as_in_the_stock_cache_but_for_spare_room(kind):
    dtype, changes = KINDS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | changes))).eval().to(dtype)
    assert check(model, HFEngine(model), 200) == pytest.approx(1.28)


def test_the_bundled_model_has_the_figures_of_the_docs():
    loaded = load_model("tiny", backend="transformers", threads=1)
    assert loaded.engine.token_bytes == 4096
    assert check(loaded.library, loaded.engine, 240) == pytest.approx(1.33, abs=0.01)


def test_sequences_that_join_one_by_one_find_room_and_at_most_half_as_much_again():
    engine = HFEngine(AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)).eval())
    sessions = [engine.session(), engine.session()]
    for _ in range(11):
        engine.forward([Decode(session, [5]) for session in sessions])
        sessions.append(engine.session())
        assert len(engine.slab.slots) <= engine.slab.room <= engine.slab.room_for(len(engine.slab.slots))
