"""The Llama's own record of its cache under a controller, and what is asked for past a call's limit: as in stock."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from reasonctl.backends import attach
from reasonctl.controller import Controller, Markers, PromptLookup, Thinking, parse_policy
from reasonctl.controller.core import common_prefix
from support.llama_models import PROMPT, ExitAt, open_llama, scripted

BATCHED = 0.02
"""Most that a logit differs between decodes of one token and of several, in the cache's 16 bits."""
THINKING = Thinking(Markers("<think>", "</think>"), "\n</think>\n")


@pytest.fixture(scope="module")
def llm():
    return open_llama()


def emoji_lead(llm, at: int):
    """A processor that makes token number `at` the first byte of a character of four, and flattens all others."""
    start = len(llm.tokenize(PROMPT.encode(), special=True))
    lead = llm.tokenize("😀".encode(), add_bos=False)[0]

    def write(ids, scores):
        scores = scores / 4
        scores[llm.token_eos()] = -1e9
        if len(ids) - start == at:
            scores[lead] = 1e9
        return scores

    write.stateless = True
    return LogitsProcessorList([write])


@pytest.mark.parametrize("drafter", [None, PromptLookup()], ids=["plain", "drafted"])
@pytest.mark.parametrize(
    "policy, arguments",
    [
        (None, {"mirostat_mode": 1}),
        (None, {"mirostat_mode": 2}),
        (None, {"repeat_penalty": 1.5, "frequency_penalty": 0.5}),
        ("mirostat(tau=3)", {}),
        ("think: mirostat_v2(tau=3); answer: greedy", {}),
    ],
)
def test_what_is_written_past_the_limit_is_what_a_longer_call_writes(llm, policy, arguments, drafter):
    """The library asks on where max_tokens ends inside a character, and the policy's state goes on with it."""
    own = None if policy is None else parse_policy(policy)
    handle = attach(llm, Controller(policy=own, drafter=drafter, thinking=THINKING))
    try:
        for seed in range(4):
            call = {"seed": seed, "logits_processor": emoji_lead(llm, 19)} | arguments
            asked = llm(PROMPT, max_tokens=20, **call)["usage"]["completion_tokens"]
            tokens = handle.trace.tokens
            llm(PROMPT, max_tokens=40, **call)
            assert asked == len(tokens) > 20
            assert common_prefix(tokens, handle.trace.tokens) == asked
    finally:
        handle.detach()


def test_an_exit_rule_and_a_budget_hold_past_the_limit(llm):
    """The run past the limit is the same run, with the same trace, and ends for the reason for which the call does."""
    handle = attach(llm, Controller(thinking=THINKING, budget=20))
    try:
        call = {"temperature": 0.0, "logits_processor": emoji_lead(llm, 18)}
        answer = llm(PROMPT, max_tokens=19, **call)
        tokens, trace = handle.trace.tokens, handle.trace
        assert answer["usage"]["completion_tokens"] == len(tokens) > 19
        assert trace.finish_reason == "length" == answer["choices"][0]["finish_reason"]
        llm(PROMPT, max_tokens=60, **call)
        assert handle.trace.closed_by == "budget"
        assert common_prefix(tokens, handle.trace.tokens) == len(tokens)
    finally:
        handle.detach()


def prompts(stock):
    """Prompts of calls in a row: a fresh one, one that shares a prefix with it, and one that shares little."""
    yield stock.tokenize(PROMPT.encode(), special=True)
    yield stock.tokenize((PROMPT + "52 a").encode(), special=True)
    yield stock.tokenize(b"Q: 1 b+1", special=True)


@pytest.mark.parametrize("n_batch", [256, 8])
@pytest.mark.parametrize("drafter", [None, PromptLookup()], ids=["plain", "drafted"])
def test_scores_are_filled_as_stock_fills_them(n_batch, drafter):
    stock, llm = (open_llama(n_batch=n_batch, logits_all=True) for _ in range(2))
    attach(llm, Controller(drafter=drafter))
    for prompt in prompts(stock):
        for one in (stock, llm):
            assert one(prompt, max_tokens=12, temperature=0.0)["usage"]["completion_tokens"] == 12
        assert stock.n_tokens == llm.n_tokens == len(prompt) + 11
        most = BATCHED if drafter else 0
        np.testing.assert_allclose(llm._scores, stock._scores, rtol=0, atol=most)
        np.testing.assert_allclose(np.array(llm.eval_logits), np.array(stock.eval_logits), rtol=0, atol=most)


@pytest.mark.parametrize("drafter", [None, PromptLookup()], ids=["plain", "drafted"])
def test_criteria_and_processors_read_the_record_that_stock_shows_them(drafter):
    stock, llm = (open_llama(logits_all=True) for _ in range(2))
    attach(llm, Controller(drafter=drafter))
    seen = []
    for one in (stock, llm):
        rows = []

        def criterion(ids, scores, one=one, rows=rows):
            rows.append((list(ids), one.n_tokens, list(one.eval_tokens), np.array(scores), one._scores.copy()))
            return False

        def processor(ids, scores, one=one, rows=rows):
            rows.append((list(ids), one.n_tokens, list(one.eval_tokens), np.array(scores), one._scores.copy()))
            return scores

        processor.stateless = True
        call = {"max_tokens": 10, "temperature": 0.0}
        one(PROMPT, stopping_criteria=StoppingCriteriaList([criterion]), **call)
        one(PROMPT + "5", logits_processor=LogitsProcessorList([processor]), **call)
        seen.append(rows)
    assert len(seen[0]) >= 20
    for expected, found in zip(*seen, strict=True):
        assert found[:3] == expected[:3]
        np.testing.assert_allclose(found[3], expected[3], rtol=0, atol=BATCHED if drafter else 0)
        np.testing.assert_allclose(found[4], expected[4], rtol=0, atol=BATCHED if drafter else 0)


def test_an_exit_leaves_the_rows_of_the_text_that_stays():
    """What was taken back, and the trial's fork, leave no row behind."""
    stock, llm = (open_llama(logits_all=True) for _ in range(2))
    handle = attach(llm, scripted(llm, ExitAt(1, trials=True)))
    answer = llm(PROMPT, max_tokens=60)
    assert handle.trace.closed_by == "exit" and answer["usage"]["completion_tokens"] > 5
    text = [*stock.tokenize(PROMPT.encode(), special=True), *handle.trace.tokens]
    stock.eval(text[: llm.n_tokens])
    np.testing.assert_allclose(llm._scores, stock._scores, rtol=0, atol=BATCHED)


def test_a_context_that_llama_cpp_rounds_up_has_a_row_for_every_token():
    llm = open_llama(n_ctx=100, logits_all=True)
    attach(llm, Controller())
    llm(PROMPT, max_tokens=200, temperature=0.0, logit_bias={llm.token_eos(): -1e9})
    assert len(llm._scores) == llm.n_tokens > 200


def test_tokens_read_by_hand_fill_the_record_too():
    stock, llm = (open_llama(logits_all=True) for _ in range(2))
    attach(llm, Controller())
    prompt = stock.tokenize(PROMPT.encode(), special=True)
    rows = []
    for one in (stock, llm):
        read = one.generate(prompt, temp=0.0)
        tokens = list(islice(read, 5))
        rows.append((tokens, one.n_tokens, one._scores.copy()))
    assert rows[0][:2] == rows[1][:2]
    np.testing.assert_array_equal(rows[1][2], rows[0][2])
