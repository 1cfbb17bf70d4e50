"""What a controller does on llama.cpp: drafts, exits, the call's sampling law."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from llama_cpp import Llama
from llama_cpp import llama_cpp as C

from reasonctl.backends.attach import attach
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.sampling import DEFAULTS, call_policy
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import ROOT, Controller, Decode, PromptLookup, Row, RunContext
from support.llama_models import F32, PROMPT, ExitAt, Prophet, first, margin, open_llama, scripted


@pytest.fixture(scope="module")
def stock():
    return open_llama()


@pytest.mark.parametrize(
    "drafter", [Prophet(True), Prophet(False), PromptLookup(longest=2, size=4)], ids=["tree", "chain", "lookup"]
)
def test_drafts_change_the_number_of_forwards_and_not_the_tokens(drafter):
    plain, drafted = open_llama(type_k=F32, type_v=F32), open_llama(type_k=F32, type_v=F32)
    handle = attach(drafted, Controller(drafter=drafter))
    ties = accepted = written = forwards = 0
    for question in ("12 a+1 b+1 c+1", "52 a+3 b-6", "52 52 52 52", "a+1 a+1 a+1"):
        prompt = plain.tokenize(f"Q: {question}\n<think>\n".encode(), special=True)
        expected = first(60, plain.generate(prompt, temp=0.0), plain.token_eos())
        drafter.tokens = prompt + expected
        got = first(60, drafted.generate(prompt, temp=0.0), plain.token_eos())
        accepted, written, forwards = (
            accepted + handle.trace.accepted,
            written + len(got),
            forwards + handle.trace.forwards,
        )
        if got != expected:
            split = next(i for i, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1])
            assert margin(open_llama(), prompt + expected[:split]) < 1e-2
            ties += 1
    assert ties <= 1
    if isinstance(drafter, Prophet):
        assert accepted >= 1.5 * drafter.drafts > 0 and forwards < 0.6 * written


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_exit_takes_the_cue_s_place_and_is_streamed_once(llm, stream, trials):
    rule = ExitAt(1, trials)
    handle = attach(llm, scripted(llm, rule))
    answer = llm(PROMPT, max_tokens=100, stream=stream)
    chunks = list(answer) if stream else [answer]
    text, seen = "", []
    for chunk in chunks:
        text += chunk["choices"][0]["text"]
        seen.append(text)
    expected = "52 a+3 55\nWait, b-6 49\n\n</think>\nanswer is 49"
    assert text == expected
    assert all(expected.startswith(part) for part in seen)  # no retracted cue was ever shown
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    tokens = handle.trace.tokens
    assert tokens.count(llm.tokenize(b"</think>", add_bos=False, special=True)[0]) == 1
    assert handle.trace.exit.index == 1 and handle.trace.finish_reason == "stop"
    start, length = handle.trace.forced
    tokenizer = LlamaTokenizer(llm)
    assert tokenizer.decode(tokens[start : start + length]) == "\n</think>\n"
    assert rule.answers == ([tokenizer.encode("answer is 49<eos>")[:4]] * 2 if trials else [])
    assert llm.n_tokens == handle.trace.prompt_tokens + len(tokens) - 1
    assert llm._input_ids.tolist()[handle.trace.prompt_tokens :] == tokens[:-1]


def test_the_cache_after_an_exit_is_that_of_a_fresh_prompt(stock, llm):
    handle = attach(llm, scripted(llm, ExitAt(0)))
    llm(PROMPT, max_tokens=100)
    tokens = llm._input_ids.tolist()
    handle.controller.exit = handle.controller.policy = None
    continued, fresh = (first(5, one.generate([*tokens, 40], temp=0.0), 1) for one in (llm, stock))
    assert continued == fresh


def test_the_hidden_state_at_a_cue_is_that_of_its_last_token(llm):
    rule = ExitAt(float("inf"))
    handle = attach(llm, scripted(llm, rule))
    llm(PROMPT, max_tokens=100)
    handle.detach()
    assert [cue.name for _, cue, _ in rule.boundaries] == ["wait", "wait", "paragraph"]
    assert "highest score" in handle.trace.why or not handle.trace.exit
    engine = LlamaEngine(llm, hidden=True)
    for tokens, cue, hidden in rule.boundaries:
        (step,) = engine.forward((Decode(engine.session(), tokens[: cue.last + 1], layers=(1, 3)),))
        for layer in (1, 3):
            expected = step.hidden(ROOT, layer)
            assert np.abs(hidden[layer] - expected).max() / np.abs(expected).max() < 0.02
    engine.close()


def test_a_call_that_ends_inside_the_forced_tokens_leaves_an_honest_cache(stock, llm):
    handle = attach(llm, scripted(llm, ExitAt(0)))
    close = LlamaTokenizer(llm).encode("</think>")[0]
    run = llm.generate(llm.tokenize(PROMPT.encode(), special=True))
    assert close in iter(run)  # reads up to it
    run.close()
    assert handle.trace.tokens[-1] == close
    assert llm.n_tokens <= C.llama_memory_seq_pos_max(C.llama_get_memory(llm.ctx), 0) + 1
    assert llm.n_tokens < handle.trace.prompt_tokens + len(handle.trace.tokens) - 1


def test_max_tokens_is_the_run_s_budget_and_an_exit_counts(llm):
    handle = attach(llm, scripted(llm, ExitAt(0)))
    answer = llm(PROMPT, max_tokens=11)
    assert answer["usage"]["completion_tokens"] == 11 == len(handle.trace.tokens)
    assert answer["choices"][0]["finish_reason"] == "length" == handle.trace.finish_reason


def library_law(llm: Llama, logits, generated, **arguments):
    """(ids, probabilities) that llama.cpp's own sampler chain leaves for these logits."""
    sampler = llm._init_sampler(**arguments)
    for token in generated:
        sampler.accept(token)
    data = (C.llama_token_data * len(logits))()
    for i, value in enumerate(logits):
        data[i].id, data[i].logit, data[i].p = i, value, 0.0
    array = C.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    C.llama_sampler_apply(sampler.sampler, ctypes.byref(array))
    kept = sorted((array.data[i].id, array.data[i].logit) for i in range(array.size))
    values = np.array([value for _, value in kept], dtype=np.float64)
    weights = np.exp(values - values.max())
    return [token for token, _ in kept], weights / weights.sum()


@pytest.mark.parametrize(
    "arguments",
    [
        {"temp": 0.8},
        {"temp": 0.3, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
        {"temp": 1.3, "top_k": 0, "top_p": 0.7, "min_p": 0.0},
        {"temp": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.2},
        {"temp": -1.0},
        {"temp": 0.7, "repeat_penalty": 1.5, "frequency_penalty": 0.4, "presence_penalty": 0.6},
    ],
)
@pytest.mark.parametrize("length", [20, 80])
def test_the_call_s_law_is_the_library_s(llm, arguments, length):
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal(llm.n_vocab())).astype(np.float32)
    best = [int(token) for token in np.argsort(-logits)]
    # The library's penalties look back on 64 generated tokens, and never see the prompt.
    prompt, old, recent = [best[9]] * 7, best[:8] * 2, [best[10 + i % 5] for i in range(length - 16)]
    generated = old + recent
    policy = call_policy({**DEFAULTS, **arguments}, prompt=len(prompt), window=64)
    ids, expected = library_law(llm, logits, generated, **arguments)

    scores = logits

    class Placed(Row):
        """A row whose uniform is given."""

        __slots__ = ("given",)
        logits = scores

        def __init__(self, uniform):
            self.tokens, self.proposal, self.given = prompt + generated, None, uniform
            self.context = RunContext()

        def uniform(self, index=0):
            return self.given

    grid = (np.arange(4000) + 0.5) / 4000
    drawn = [policy.step(None, Placed(uniform))[1] for uniform in grid]
    assert set(drawn) <= set(ids)
    counts = np.array([drawn.count(token) for token in ids]) / len(grid)
    assert np.abs(counts - expected).max() < 1 / 1000
