"""Folded attention: the rows that the library gives with repeated keys, at less reading; and where it stays out."""

from __future__ import annotations

import pytest
import torch
from transformers import AttentionInterface

from reasonctl.backends.attach import attach
from reasonctl.backends.hf import attention, session
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.controller import NO_DRAFT, ROOT, Controller, ControllerError, Decode, Draft
from support.hf_models import GREEDY, PROMPT, TOKENIZER, small
from support.llama_models import open_llama

PAST = [3, 5, 7, 9, 11, 4, 6, 8, 2, 10, 12, 5]
TREE = Draft((4, 5, 6, 7, 8), (ROOT, ROOT, 0, 0, 2))
CHAIN = Draft.chain((4, 5, 6))


def rows(engine, pending, draft):
    session = engine.session()
    engine.forward([Decode(session, PAST)])
    (step,) = engine.forward([Decode(session, pending, draft)])
    return [step.logits(node).copy() for node in range(ROOT, len(draft))]


def unfolded(model, **changes):
    engine = HFEngine(model)
    engine.model_forward.groups = 0  # what a model without a foldable attention has
    return engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("draft", [NO_DRAFT, CHAIN, TREE], ids=["plain", "chain", "tree"])
def test_folding_changes_no_row(dtype, heads, draft):
    torch.set_num_threads(1)
    model = small(num_key_value_heads=heads).to(dtype)
    ours, theirs = HFEngine(model, fold_attention=True), unfolded(model)
    assert ours.model_forward.groups == 4 // heads
    worst = max(abs(a - b).max() for a, b in zip(rows(ours, [3], draft), rows(theirs, [3], draft), strict=True))
    assert worst <= (1e-5 if dtype == torch.float32 else 0.06)


@pytest.mark.parametrize("pending", [[3], [3, 1, 2, 9]])
def test_several_pending_tokens_fold_too(pending):
    model = small()
    for a, b in zip(rows(HFEngine(model), pending, TREE), rows(unfolded(model), pending, TREE), strict=True):
        assert abs(a - b).max() <= 1e-5


def test_a_prompt_behind_a_past_keeps_the_librarys_attention(monkeypatch):
    monkeypatch.setattr(session, "MOST_ROWS", 8)
    model, long = small(), list(range(2, 20))
    for a, b in zip(rows(HFEngine(model), long, NO_DRAFT), rows(unfolded(model), long, NO_DRAFT), strict=True):
        assert abs(a - b).max() <= 1e-5


@pytest.mark.parametrize("pending", [[3], [3, 1, 2, 9]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_without_a_draft_are_the_librarys_bit_for_bit(dtype, pending):
    model = small(initializer_range=0.5).to(dtype)
    plain, library = rows(HFEngine(model), pending, NO_DRAFT), rows(unfolded(model), pending, NO_DRAFT)
    assert all((a == b).all() for a, b in zip(plain, library, strict=True))
    asked = HFEngine(model, fold_attention=True)
    seen, real = [], attention._attention
    AttentionInterface.register(attention._NAME, lambda *args, **more: seen.append(1) or real(*args, **more))
    try:
        rows(HFEngine(model), pending, NO_DRAFT)
        assert not seen
        rows(asked, pending, NO_DRAFT)
        assert seen
    finally:
        AttentionInterface.register(attention._NAME, real)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_logit_of_an_inert_attached_call_is_the_librarys(dtype):
    model = small(initializer_range=0.5).to(dtype)
    seen = {}

    def keep(name):
        def processor(ids, scores):
            seen.setdefault(name, []).append(scores.clone())
            return scores

        return processor

    model.generate(**PROMPT, logits_processor=[keep("stock")], **GREEDY)
    with attach(model, Controller(), tokenizer=TOKENIZER):
        model.generate(**PROMPT, logits_processor=[keep("attached")], **GREEDY)
    assert len(seen["stock"]) == GREEDY["max_new_tokens"]
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(seen["stock"], seen["attached"], strict=True))


def test_llama_cpp_takes_no_folding():
    llm = open_llama()
    with pytest.raises(ControllerError, match="fold_attention"):
        attach(llm, Controller(), fold_attention=True)
    llm.close()


def test_a_mask_in_the_wrong_order_of_groups_would_be_seen(monkeypatch):
    """The negative control: every row once for each group one after another, in place of group by group."""
    model = small()
    right = rows(HFEngine(model), [3], TREE)
    repeat = torch.Tensor.repeat
    monkeypatch.setattr(torch.Tensor, "repeat", lambda mask, n, one: repeat(mask, 1, 1).repeat_interleave(n, 0))
    wrong = rows(HFEngine(model), [3], TREE)
    assert max(abs(a - b).max() for a, b in zip(wrong, right, strict=True)) > 1e-2


def test_the_models_own_attention_is_back_after_every_forward():
    model = small()
    rows(HFEngine(model), [3], TREE)
    assert model.config._attn_implementation == "sdpa"
    assert HFEngine(small(attn_implementation="eager")).model_forward.groups == 0
