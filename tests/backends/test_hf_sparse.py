"""The sparse view of transformers: which keys it keeps, that it is a session like others, and drafts through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from llama_cpp import Llama

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.sparse import choose
from reasonctl.backends.load import load_model
from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import (
    NO_DRAFT,
    ROOT,
    Call,
    Controller,
    ControllerError,
    Decode,
    Draft,
    Greedy,
    Keys,
    PromptLookup,
    Sampling,
    Trace,
    TriForce,
)
from support.hf_models import small
from support.llama_models import PROMPT, TINY
from support.statistics import ALPHA, merged_p_value

TOKENS = torch.randint(40, (45,), generator=torch.Generator().manual_seed(3)).tolist()


def fed(engine, tokens):
    session = engine.session()
    engine.forward([Decode(session, tokens)])
    return session


def row(engine, session, tokens, draft=NO_DRAFT, node=ROOT):
    (step,) = engine.forward([Decode(session, tokens, draft)])
    return step.logits(node).copy()


def kept_columns(query, keys, budget, chunk):
    """The rule in loops: chunk 0, the chunks whose mean key fits the query best, and the unfinished one."""
    group, found = len(query) // len(keys), []
    for head, columns in enumerate(keys):
        q = sum(query[head * group + i] for i in range(group)) / group
        whole = len(columns) // chunk
        scores = [float(q @ np.mean(columns[c * chunk : (c + 1) * chunk], axis=0)) for c in range(whole)]
        best = sorted(range(1, whole), key=lambda c: -scores[c])[: budget // chunk - 1]
        inside = [c * chunk + i for c in sorted([0, *best]) for i in range(chunk)]
        found.append(inside + list(range(whole * chunk, len(columns))))
    return found


@pytest.mark.parametrize("columns, budget, chunk", [(40, 16, 4), (43, 16, 4), (43, 18, 4), (41, 6, 3), (9, 2, 1)])
def test_chunks_are_chosen_by_the_query(columns, budget, chunk):
    generator = torch.Generator().manual_seed(columns)
    query, keys = torch.randn(6, 8, generator=generator), torch.randn(3, columns, 8, generator=generator)
    found = choose(query, keys, budget, chunk)
    assert found.tolist() == kept_columns(query.numpy(), keys.numpy(), budget, chunk)
    assert found.shape == (3, budget // chunk * chunk + columns % chunk)
    assert choose(query, keys, columns, chunk).tolist() == [list(range(columns))] * 3


def test_later_rows_see_what_the_first_row_chose():
    """One layer, so that a mask per head says the same: later rows equal a masked forward over everything."""
    model = small(num_hidden_layers=1)
    engine, queries = HFEngine(model), []
    whole = fed(engine, TOKENS[:-2])
    view = whole.sparse(12, 4)
    first = row(engine, view, TOKENS[-2:-1])
    assert first == pytest.approx(row(engine, whole.fork(), TOKENS[-2:-1]), abs=1e-6)  # it sees everything itself
    second = row(engine, view, TOKENS[-1:])

    from transformers.models.llama import modeling_llama

    attention = modeling_llama.apply_rotary_pos_emb

    def heard(q, k, *more):
        out = attention(q, k, *more)
        queries.append(out)
        return out

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama, "apply_rotary_pos_emb", heard)
        model(torch.tensor([TOKENS]))
        query, keys = queries[0][0][0, :, -2], queries[0][1][0, :, : len(TOKENS) - 2]
        columns = kept_columns(query.numpy(), keys.numpy(), 12, 4)
        n = len(TOKENS)
        seen = torch.ones(n, n).tril().bool().expand(4, n, n).clone()
        for head in range(4):  # two heads share a key head
            left_out = sorted(set(range(n - 2)) - set(columns[head // 2]))
            assert left_out
            seen[head, -1, left_out] = False
        mask = torch.zeros(1, 4, n, n).masked_fill_(~seen, torch.finfo(torch.float32).min)
        expected = model(torch.tensor([TOKENS]), attention_mask=mask).logits[0, -1].numpy()
    assert second == pytest.approx(expected, abs=1e-5)
    assert np.abs(second - row(engine, fed(engine, TOKENS[:-1]), TOKENS[-1:])).max() > 1e-2


def test_a_view_is_a_session_of_its_own():
    engine = HFEngine(small())
    whole = fed(engine, TOKENS)
    before = row(engine, whole.fork(), [7])
    view = whole.sparse(12, 4)
    row(engine, view, [5])
    assert view.length == len(TOKENS) + 1 and view.cache.layers[0].keys.shape[-2] == 12 + len(TOKENS) % 4 + 1
    chain = [row(engine, view.fork(), [6]), row(engine, view.fork(), [6, 9])]
    # Drafts of the view: chains, trees, what is kept and what is taken back.
    tree = Draft((9, 8, 6), (ROOT, ROOT, 0))
    assert row(engine, view, [6], tree, ROOT) == pytest.approx(chain[0], abs=1e-5)
    view.keep([0])
    view.rollback(2)
    (step,) = engine.forward([Decode(view, [6], tree)])
    assert step.logits(0) == pytest.approx(chain[1], abs=1e-5)
    view.keep([1])
    assert row(engine, view, [3]) == pytest.approx(row(engine, sequel(engine, whole, [5, 6, 8]), [3]), abs=1e-5)
    with pytest.raises(ControllerError, match="chose its part"):
        view.rollback(5)
    assert (row(engine, whole.fork(), [7]) == before).all() and whole.length == len(TOKENS)
    engine.forward([Decode(whole, [7, 7, 7])])
    view.renew()
    assert view.length == whole.length and row(engine, view, [1]) == pytest.approx(row(engine, whole, [1]), abs=1e-5)


def sequel(engine, whole, tokens):
    view = whole.sparse(12, 4)
    for token in tokens:
        row(engine, view, [token])
    return view


def test_the_model_is_left_as_it_was_whatever_happens(monkeypatch):
    model = small()
    engine = HFEngine(model)
    view = fed(engine, TOKENS).sparse(12, 4)
    attentions = []

    def fail(module, args, output):
        attentions.append(model.config._attn_implementation)
        raise ValueError("a fault in the middle of a forward")

    hook = model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(ValueError, match="in the middle"):
        engine.forward([Decode(view, [10])])
    hook.remove()
    assert attentions == ["reasonctl_folded"]
    assert model.config._attn_implementation == "sdpa"
    assert engine.can.sparse and not HFEngine(small(attn_implementation="eager")).can.sparse


def drafted(model, prompt, policy, run, drafter, most=120):
    trace, session = Trace(), model.engine.session()
    call = Call(prompt, most, model.eos, Keys(seed=3, run=run), policy)
    list(Controller(drafter=drafter).stream(session, model.tokenizer, call, trace))
    session.close()
    return trace


def test_greedy_runs_of_tiny_are_plain_runs():
    """float32: the view's drafts are verified by the whole cache."""
    model = load_model("tiny", backend="transformers", threads=1)
    accepted = saved = 0
    for run, question in enumerate(["48 a-9 b+6 c-3", "31 a+7 b-2 c+9 d-4", "60 a-1 b-8 c+5"]):
        prompt = model.prompt(question)
        drafter = TriForce(PromptLookup(size=3), size=4, budget=32, chunk=4, refresh=16, adaptive=False)
        plain = drafted(model, prompt, Greedy(), run, None)
        found = drafted(model, prompt, Greedy(), run, drafter)
        assert found.tokens == plain.tokens and not found.warnings
        accepted, saved = accepted + found.accepted, saved + plain.forwards - found.forwards
    assert accepted > 60 and saved == accepted


@pytest.mark.parametrize("n", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_the_sampled_law_is_the_target_s(n):
    """The first two tokens behind a context three times the budget, against the laws of the whole cache."""
    model = small()
    engine, words = HFEngine(model), ToyTokenizer([f"<{i}>" for i in range(model.config.vocab_size)])
    whole, size = fed(engine, TOKENS[:-1]), model.config.vocab_size
    policy = Sampling(temperature=1.5, top_k=6)

    def law(tokens):
        return policy.probs(row(engine, whole.fork(), tokens))

    first = law(TOKENS[-1:])
    exact = np.array([p * law([TOKENS[-1], token]) if p else np.zeros(size) for token, p in enumerate(first)])
    drafter = TriForce(PromptLookup(size=2), size=3, budget=12, chunk=4, adaptive=False)
    counts, accepted = np.zeros((size, size)), 0
    for run in range(n):
        trace, call = Trace(), Call(TOKENS, 4, frozenset(), Keys(seed=1, run=run), policy)
        list(Controller(drafter=drafter).stream(whole.fork(), words, call, trace))
        counts[tuple(trace.tokens[:2])] += 1
        accepted += trace.accepted
    assert accepted > n / 2
    assert merged_p_value(counts, exact) > ALPHA


def test_llama_cpp_drafts_without_the_middle_level_and_says_so():
    texts = []
    for drafter in (None, TriForce(PromptLookup(size=4), budget=32)):
        llm = Llama(model_path=str(TINY), n_ctx=512, n_threads=1, n_threads_batch=1, seed=5, verbose=False)
        with attach(llm, Controller(drafter=drafter)) as handle:
            texts.append(llm(PROMPT, max_tokens=100, temperature=0.0)["choices"][0]["text"])
            trace = handle.trace
        llm.close()
    assert texts[0] == texts[1] and trace.accepted > 0
    assert len(trace.warnings) == 1 and "the inner drafter drafts for the target directly" in trace.warnings[0]
