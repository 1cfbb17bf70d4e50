"""What rows of a shared forward see: masks of bounded size, prompts in pieces, drafts longer than a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasonctl.backends.hf import engine as engine_module
from reasonctl.backends.hf import packed
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.controller import NO_DRAFT, ROOT, Decode, Draft
from support import hf_models

SHAPE = hf_models.SHAPE | dict(vocab_size=80, head_dim=8, max_position_embeddings=2048, pad_token_id=0)
KINDS = {
    "llama": {},
    "mistral": dict(sliding_window=8),
    "gemma2": dict(sliding_window=8, query_pre_attn_scalar=16, attn_logit_softcapping=5.0),
    "gpt_oss": dict(sliding_window=8, num_local_experts=4, num_experts_per_tok=2),
}
TOLERANCE = 2e-4
"""Largest difference of float32 logits whose scale is about 7: sums in another order."""


def engine_of(kind):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SHAPE | KINDS[kind]))
    return HFEngine(AutoModelForCausalLM.from_config(config).eval().float())


def tokens_of(count, seed):
    return np.random.default_rng(seed).integers(1, 75, count).tolist()


def largest_masks(monkeypatch):
    """Sizes of the masks that are made."""
    sizes, real = [], packed.Group._mask

    def mask(group, *given):
        made = real(group, *given)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(packed.Group, "_mask", mask)
    return sizes


def rows_of(engine, sessions, requests):
    """Logits of all rows of one shared forward, by session."""
    given = [Decode(session, tokens, draft) for session, (tokens, draft) in zip(sessions, requests, strict=True)]
    steps = engine.forward(given)
    asked = zip(steps, given, strict=True)
    return [[step.logits(node).copy() for node in range(ROOT, len(one.draft))] for step, one in asked]


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt_oss"])
def test_masks_have_a_most_size_and_rows_see_the_same(kind, monkeypatch):
    """Prompts with a past, longer than a window, and with a draft behind them; few rows of many sequences."""
    engine, most = engine_of(kind), 700
    drafts = [Draft.chain(tokens_of(5, 7)), NO_DRAFT, Draft.chain(tokens_of(3, 8))]
    forwards = [
        [(tokens_of(n, i), NO_DRAFT) for i, n in enumerate((20, 35, 90))],
        [(tokens_of(n, i + 3), draft) for i, (n, draft) in enumerate(zip((60, 70, 40), drafts, strict=True))],
        [(tokens_of(2, i + 6), NO_DRAFT) for i in range(3)],
        [(tokens_of(1, i + 9), NO_DRAFT) for i in range(3)],
    ]
    found = []
    for limit in (most, packed.MOST_SEEN):
        sessions = [engine.session() for _ in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(packed, "MOST_SEEN", limit)
            sizes = largest_masks(patch)
            rows = [rows_of(engine, sessions, requests) for requests in forwards]
        found.append(np.array([row for one in rows for of in one for row in of]))
        # A draft and the row before it stay together: 4 rows over 133 columns, for two query heads of each key head.
        assert (max(sizes) <= 4 * 133 * 2) == (limit == most)
    alone = []
    for i, session in enumerate([engine.session() for _ in range(3)]):
        alone.append([rows_of(engine, [session], [requests[i]])[0] for requests in forwards])
    expected = np.array([row for n in range(len(forwards)) for i in range(3) for row in alone[i][n]])
    assert np.abs(found[0] - found[1]).max() < TOLERANCE and np.abs(found[0] - expected).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_prompt_longer_than_a_call_is_fed_in_pieces(kind, monkeypatch):
    monkeypatch.setattr(engine_module, "MOST_ROWS", 16)
    engine, calls = engine_of(kind), []
    engine.model_forward.model.register_forward_pre_hook(
        lambda module, args, named: calls.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    pair = [engine.session(), engine.session()]
    rows_of(engine, pair, [(tokens_of(3, 1), NO_DRAFT), (tokens_of(2, 2), NO_DRAFT)])
    draft = Draft.chain(tokens_of(4, 5))
    (found, _) = rows_of(engine, pair, [(tokens_of(50, 3), draft), ([5], NO_DRAFT)])
    assert calls[1:] == [16, 16, 16, 6, 1] and pair[0].length == 53
    alone = engine.session()
    (expected,) = rows_of(engine, [alone], [(tokens_of(3, 1) + tokens_of(50, 3), draft)])
    assert np.abs(np.array(found) - np.array(expected)).max() < TOLERANCE


def test_a_piece_that_fails_leaves_the_session_as_it_was(monkeypatch):
    monkeypatch.setattr(engine_module, "MOST_ROWS", 16)
    engine = engine_of("llama")
    a, b = engine.session(), engine.session()
    engine.forward([Decode(a, [1]), Decode(b, [2])])
    calls = iter(range(9))

    def fail(*_):
        if next(calls) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hook = engine.model_forward.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="allocate"):
        engine.forward([Decode(a, tokens_of(50, 3)), Decode(b, [3])])
    hook.remove()
    assert (a.length, a.slot.columns) == (1, 1)
    (found, _) = rows_of(engine, [a, b], [([7], NO_DRAFT), ([3], NO_DRAFT)])
    (expected,) = rows_of(engine, [engine.session()], [([1, 7], NO_DRAFT)])
    assert np.abs(found[0] - expected[0]).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("count", [7, 8, 12, 20])
def test_a_draft_longer_than_a_window_sees_no_more_than_the_row_alone(kind, count):
    engine, draft = engine_of(kind), Draft.chain(tokens_of(count, 4))
    pair = [engine.session(), engine.session()]
    requests = [(tokens_of(12, 1), NO_DRAFT), (tokens_of(9, 2), NO_DRAFT)]
    rows_of(engine, pair, requests)
    (found, _) = rows_of(engine, pair, [([3], draft), ([5], NO_DRAFT)])
    alone = engine.session()
    rows_of(engine, [alone], requests[:1])
    (expected,) = rows_of(engine, [alone], [([3], draft)])
    assert np.abs(np.array(found) - np.array(expected)).max() < TOLERANCE
