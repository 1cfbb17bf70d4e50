"""An attached Llama's calls against stock calls, and what attaching refuses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from llama_cpp import LlamaRAMCache, LogitsProcessorList, StoppingCriteriaList
from llama_cpp import llama_cpp as C

from reasonctl.backends.attach import attach
from reasonctl.backends.llama import cache_kind
from reasonctl.controller import Controller, ControllerError, PromptLookup
from support.llama_models import CALLS, CHAT, PROMPT, ExitAt, bare, open_llama, scripted


@pytest.fixture(scope="module")
def stock():
    return open_llama()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", list(CALLS))
def test_an_inert_controller_changes_nothing(stock, llm, call, stream):
    handle = attach(llm, Controller())
    for more in ({"max_tokens": 12}, {"max_tokens": 30, "repeat_penalty": 1.4, "frequency_penalty": 0.3}):
        arguments = {"temperature": 0.0, "stream": stream, **more}
        expected = bare(CALLS[call](stock, **arguments))
        assert bare(CALLS[call](llm, **arguments)) == expected
    assert handle.runs == 2
    assert handle.trace.finish_reason == "length" and len(handle.trace.tokens) == 30


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_and_eos_end_a_call_as_in_stock(stock, llm, stream):
    handle = attach(llm, Controller())
    full = stock(PROMPT, max_tokens=20, temperature=0.0)["choices"][0]["text"]
    stop = full[7:9]
    eos, prompt = stock.token_eos(), len(stock.tokenize(PROMPT.encode(), special=True))

    def end(ids, scores):
        scores[eos] = 1e9 if len(ids) >= prompt + 6 else -1e9
        return scores

    for more in ({"stop": [stop]}, {"logits_processor": LogitsProcessorList([end])}, {"logit_bias": {eos: 1e9}}):
        arguments = {"temperature": 0.0, "max_tokens": 20, "stream": stream, **more}
        expected = bare(stock(PROMPT, **arguments))
        assert bare(llm(PROMPT, **arguments)) == expected
        assert handle.trace.finish_reason == "stop"
        last = expected[-1] if stream else expected
        assert last["choices"][0]["finish_reason"] == "stop"
    assert handle.runs == 3


def test_stopping_criteria_see_what_stock_shows_them(stock, llm):
    attach(llm, Controller())
    results = []
    for one in (stock, llm):
        seen = []

        def long_enough(ids, scores, seen=seen):
            seen.append(ids.tolist())
            return len(ids) >= 25

        criteria = StoppingCriteriaList([long_enough])
        answer = one.create_completion(PROMPT, max_tokens=40, temperature=0.0, stopping_criteria=criteria)
        results.append((bare(answer), seen))
    assert results[0] == results[1]
    assert results[0][0]["choices"][0]["finish_reason"] == "stop"


def test_a_budget_that_ends_inside_a_character_is_overrun_as_in_stock(stock, llm):
    attach(llm, Controller())
    pieces = stock.tokenize("€".encode(), add_bos=False)
    start = len(stock.tokenize(PROMPT.encode(), special=True))
    assert len(pieces) == 3

    def write(ids, scores):
        scores[pieces[(len(ids) - start) % 3]] = 1e9
        return scores

    processors = LogitsProcessorList([write])
    arguments = {"max_tokens": 4, "temperature": 0.0, "logits_processor": processors}
    expected = bare(stock(PROMPT, **arguments))
    assert expected["choices"][0]["text"].startswith("€€")
    assert bare(llm(PROMPT, **arguments)) == expected


def test_the_cache_is_reused_between_calls_as_in_stock(stock, llm, monkeypatch):
    handle = attach(llm, Controller())
    fed, real = [], C.llama_decode
    monkeypatch.setattr(C, "llama_decode", lambda ctx, batch: fed.append(batch.n_tokens) or real(ctx, batch))
    counts = []
    for one in (stock, llm):
        one.reset()
        fed.clear()
        first = one(PROMPT, max_tokens=6, temperature=0.0)["choices"][0]["text"]
        second = one(PROMPT + first + " 7", max_tokens=6, temperature=0.0)
        again = one(PROMPT, max_tokens=6, temperature=0.0)
        counts.append((list(fed), bare(second), bare(again)))
    assert counts[0] == counts[1]
    assert handle.runs == 3 and counts[0][0][6] < 10  # the second prompt's shared part was not fed again


def test_the_library_s_own_cache_and_methods_still_work(stock, llm):
    attach(llm, Controller())
    llm.set_cache(LlamaRAMCache())
    expected = [bare(stock(PROMPT + extra, max_tokens=8, temperature=0.0)) for extra in ("", "1 2", "")]
    assert [bare(llm(PROMPT + extra, max_tokens=8, temperature=0.0)) for extra in ("", "1 2", "")] == expected
    tokens = llm.tokenize(PROMPT.encode(), special=True)
    llm.reset()
    llm.eval(tokens)
    assert llm.sample(temp=0.0) == next(llm.generate(tokens, temp=0.0))
    assert llm.n_tokens == len(tokens)


def test_a_context_that_llama_cpp_rounds_up_can_be_filled():
    llm = open_llama(n_ctx=100)
    handle = attach(llm, Controller())
    llm(PROMPT, max_tokens=200, temperature=0.0, logit_bias={llm.token_eos(): -1e9})
    assert len(handle.trace.tokens) == 200
    tokens = llm.tokenize(PROMPT.encode(), special=True)
    fives = [lambda ids, scores: np.where(np.arange(len(scores)) == 5, 1.0, -1.0)]
    with pytest.raises(ControllerError, match="context of 256 tokens is full"):
        list(llm.generate(tokens, temp=0.0, logits_processor=fives))
    with pytest.raises(ControllerError, match="prompt has 300"):
        next(llm.generate([5] * 300))


def test_generate_continues_without_reset(stock, llm):
    attach(llm, Controller())
    tokens = stock.tokenize(PROMPT.encode(), special=True)
    lines = []
    for one in (stock, llm):
        one.reset()
        one.eval(tokens[:5])
        out = one.generate(tokens[5:], temp=0.0, reset=False)
        lines.append([next(out) for _ in range(8)])
    assert lines[0] == lines[1]


def test_a_prompt_longer_than_n_batch_is_fed_in_parts(stock):
    narrow = open_llama(n_batch=16)
    plain = bare(narrow(PROMPT * 4, max_tokens=8, temperature=0.0))
    handle = attach(narrow, Controller())
    assert bare(narrow(PROMPT * 4, max_tokens=8, temperature=0.0)) == plain
    assert handle.trace.prompt_tokens > 48


def test_seeds_decide_the_draws_as_in_stock(llm):
    attach(llm, Controller())

    def text(**more):
        return llm(PROMPT, max_tokens=24, temperature=1.5, top_p=1.0, min_p=0.0, top_k=0, **more)["choices"][0]["text"]

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text() != text()
    llm.set_seed(5)
    one = text()
    llm.set_seed(5)
    assert text() == one


def test_the_controller_s_own_policy_wins_and_says_so_once(llm):
    handle = attach(llm, scripted(llm, ExitAt(float("inf"))))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        llm(PROMPT, max_tokens=5)
        llm.create_chat_completion(CHAT, max_tokens=5)
        assert handle.trace.warnings == [] and not heard
        for _ in range(2):
            text = llm(PROMPT, max_tokens=5, temperature=0.0, top_k=3)["choices"][0]["text"]
            assert handle.trace.warnings and "temperature, top_k" in handle.trace.warnings[0]
    assert text.startswith("52 a+3")
    assert len(heard) == 1 and "own policy" in str(heard[0].message)


def test_detach_gives_the_llama_back(stock):
    llm = open_llama()
    expected = bare(stock(PROMPT, max_tokens=10, temperature=0.0))
    with attach(llm, scripted(llm, ExitAt(0))) as handle:
        assert C.llama_n_seq_max(llm.ctx) == cache_kind.SEQUENCES
        assert bare(llm(PROMPT, max_tokens=10)) != expected
    handle.detach()
    assert C.llama_n_seq_max(llm.ctx) == 1
    assert "generate" not in vars(llm) and "_create_completion" not in vars(llm)
    assert bare(llm(PROMPT, max_tokens=10, temperature=0.0)) == expected
    assert handle.runs == 1
    attach(llm, Controller()).detach()


def test_no_callback_is_installed_unless_states_are_read(llm):
    with attach(llm, Controller(drafter=PromptLookup())):
        assert not llm._ctx.params.cb_eval
    with attach(llm, Controller(exit=ExitAt(0))):
        assert llm._ctx.params.cb_eval


@pytest.mark.parametrize(
    "more",
    [{"grammar": object()}],
    ids=lambda more: next(iter(more)),
)
def test_what_cannot_be_honoured_is_refused_by_name(llm, more):
    attach(llm, Controller())
    with pytest.raises(ControllerError, match=next(iter(more))):
        llm.create_completion(PROMPT, **more)
    assert llm(PROMPT, max_tokens=2, temperature=0.0)["usage"]["completion_tokens"] == 2


def test_attaching_twice_is_refused(llm):
    handle = attach(llm, Controller())
    with pytest.raises(ControllerError, match="detach"):
        attach(llm, Controller())
    handle.detach()


def test_a_call_made_inside_a_stream_ends_the_stream_loudly(llm):
    attach(llm, Controller())
    outer = llm(PROMPT, max_tokens=10, temperature=0.0, stream=True)
    next(outer)
    inner = llm("Q: 1\n", max_tokens=3, temperature=0.0)
    assert inner["usage"]["completion_tokens"] == 3
    with pytest.raises(RuntimeError, match="another call"):
        list(outer)
