"""KL-guided temperature: what its second decode is fed, on both backends, and what it compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import (
    ROOT,
    Chain,
    Constrained,
    Controller,
    ControllerError,
    Decode,
    Keys,
    KLGuided,
    LogitBias,
    MinP,
    Penalties,
    Row,
    parse_policy,
)
from reasonctl.controller.sampling.policy import WrapperState
from reasonctl.controller.sampling.stages.kl_guided import source_spans
from support.engines import Plain
from support.hf_models import EOS, TOKENIZER, controlled
from support.hf_models import PROMPT as HF_PROMPT
from support.hf_models import Scripted as HFExit
from support.known_tokens import Known
from support.llama_models import CHAT, F32, PROMPT, open_llama

SOURCE = " the cat"


class Recording(KLGuided):
    """Also keeps the logits of the second decode and the tokens they belong to."""

    seen: list = []  # noqa: RUF012

    def step(self, state, scores, row: Row):
        self.seen.append((list(row.tokens), row.raw.copy(), state[1].copy()))
        return super().step(state, scores, row)


def test_kl_guided_on_transformers_reads_the_prompt_without_its_source(model):
    Recording.seen = []
    policy = Chain(Recording(SOURCE, sigma=0.5), MinP(0.05))
    tokens, handle = controlled(model, Controller(policy=policy), max_new_tokens=12)
    prompt = HF_PROMPT.input_ids[0].tolist()
    removed = TOKENIZER.encode(SOURCE)
    at = next(i for i in range(len(prompt)) if prompt[i : i + len(removed)] == removed)
    assert len(Recording.seen) == 12 == handle.trace.forwards
    with torch.no_grad():
        for seen, given, without in Recording.seen:
            less = seen[:at] + seen[at + len(removed) :]
            for ids, logits in ((seen, given), (less, without)):
                assert np.abs(model(torch.tensor([ids])).logits[0, -1].numpy() - logits).max() < 1e-4
    drafted, handle = controlled(model, Controller(policy=policy, drafter=Known(tokens)), max_new_tokens=12)
    assert drafted == tokens and handle.trace.accepted > 3


def test_kl_guided_survives_exits_and_trials(model):
    policy = Chain(KLGuided(SOURCE, sigma=0.5, t0=1.5))
    call = {
        "max_new_tokens": 60,
        "bad_words_ids": [[EOS]],
        "sequence_bias": [[[TOKENIZER.convert_tokens_to_ids(" Wait")], 3.0]],
    }
    plain, _ = controlled(model, Controller(policy=policy), **call)
    stayed, handle = controlled(model, Controller(policy=policy, exit=HFExit(None, trials=True)), **call)
    assert stayed == plain and handle.trace.decisions
    rule = HFExit(1, trials=True)
    left, handle = controlled(model, Controller(policy=policy, exit=rule), **call)
    start, length = handle.trace.forced
    n = HF_PROMPT.input_ids.shape[1]
    assert left[: n + start] == plain[: n + start]
    assert rule.answers[-1] == left[n + start + length :][:6]


def test_kl_guided_on_llama_cpp(llm):
    policy = Chain(KLGuided("52 a+3", sigma=0.5), MinP(0.02))
    handle = attach(llm, Controller(policy=policy))
    free = len(handle_engine(llm, handle).sequences.free)
    for _ in range(20):  # more calls than sequences: each gives its own back
        first = llm(PROMPT, max_tokens=6, seed=2)["choices"][0]["text"]
    assert len(handle_engine(llm, handle).sequences.free) == free
    assert llm.create_chat_completion(CHAT, max_tokens=6, seed=2)["choices"][0]["message"]["content"] is not None
    assert isinstance(first, str)


def handle_engine(llm, handle):
    return llm.generate.__self__.engine


def test_a_source_that_is_not_there_is_named(llm, model):
    policy = Chain(KLGuided("no such text"))
    handle = attach(llm, Controller(policy=policy))
    with pytest.raises(ControllerError, match="isn't in the prompt"):
        llm(PROMPT, max_tokens=3)
    assert handle.runs == 0  # said before any forward
    with pytest.raises(ControllerError, match="pass the tokenizer"):
        attach(model, Controller(policy=policy))


def test_source_spans_are_whole_tokens(llm):
    tokenizer = LlamaTokenizer(llm)
    prompt = tokenizer.encode("Q: 52 a+3 b-6 c+8\n<think>\n")
    for source, count in (("52 a+3", 1), ("b-6", 1), ("Q: 52 a+3 b-6 c+8\n", 1), ("\n", 2)):
        spans = source_spans(tokenizer, prompt, source)
        assert len(spans) == count
        first, end = spans[0]
        assert source in tokenizer.decode(prompt[first:end])
        assert source not in tokenizer.decode(prompt[first + 1 : end]) and source not in tokenizer.decode(
            prompt[first : end - 1]
        )


def test_kl_guided_on_llama_cpp_reads_the_prompt_without_its_source(tmp_path):
    """Both rows of every token against fresh decodes of the same tokens, in float32 caches; drafts change nothing."""
    plain, drafted, fresh = (open_llama(type_k=F32, type_v=F32) for _ in range(3))
    source, texts, accepted = "52 a+3", [], 0
    for one in (plain, drafted):
        Recording.seen = []
        policy = Chain(Recording(source, sigma=0.5), MinP(0.02))
        drafter = None if one is plain else Known(texts[0])
        handle = attach(one, Controller(policy=policy, drafter=drafter))
        one(PROMPT, max_tokens=12, seed=2)
        prompt = LlamaTokenizer(one).encode(PROMPT)
        texts.append(Recording.seen[0][0] + handle.trace.tokens)
        accepted = handle.trace.accepted
        engine, tokenizer = LlamaEngine(fresh, hidden=False), LlamaTokenizer(one)
        ((first, end),) = source_spans(tokenizer, Recording.seen[0][0], source)
        assert prompt[-4:] == Recording.seen[0][0][-4:]
        for seen, given, without in Recording.seen:
            for ids, logits in ((seen, given), (seen[:first] + seen[end:], without)):
                session = engine.session()
                (step,) = engine.forward((Decode(session, ids),))
                assert np.abs(step.logits(ROOT) - logits).max() < 0.05  # kernels differ by the batch's shape
                session.close()
        engine.close()
    assert texts[0] == texts[1] and accepted > 3
    for one in (plain, drafted, fresh):
        one.close()


def test_the_second_sequence_counts_in_the_context():
    """A call without a limit of its own ends where both sequences fill the context, and not in an error."""
    llm, source = open_llama(n_ctx=256, n_batch=64), "52 a+3"
    policy = Constrained([LogitBias(((llm.token_eos(), -np.inf),))], Chain(KLGuided(source)))
    handle = attach(llm, Controller(policy=policy))
    context = handle_engine(llm, handle).context.size
    for padding in (0, 1, 30):
        text = PROMPT + "7 " * padding
        prompt = llm.tokenize(text.encode(), special=True)
        ((first, end),) = source_spans(LlamaTokenizer(llm), prompt, source)
        room = (context - 2 * len(prompt) + end - first) // 2
        assert llm.create_completion(prompt, max_tokens=None)["choices"][0]["finish_reason"] == "length"
        assert len(handle.trace.tokens) == room and handle.trace.finish_reason == "length"
    with pytest.raises(ControllerError, match=r"more on the policy's second sequence.*shorten it or raise n_ctx"):
        llm(PROMPT + "7 " * 110)
    llm.close()


def test_phases_of_their_own_sources_are_both_counted(llm):
    tokenizer = LlamaTokenizer(llm)
    prompt = tokenizer.encode(PROMPT)
    text = 'think: kl_guided("52 a+3") ; answer: kl_guided("b-6") | min_p(0.1)'
    one, other = (
        len(prompt) - sum(end - first for first, end in source_spans(tokenizer, prompt, source))
        for source in ("52 a+3", "b-6")
    )
    assert parse_policy(text).extra_sequences(tokenizer, prompt) == (one, other)
    assert Constrained([Penalties(2.0)], parse_policy(text)).extra_sequences(tokenizer, prompt) == (one, other)
    assert parse_policy("min_p(0.1)").extra_sequences(tokenizer, prompt) == ()


WITH, WITHOUT = np.array([4.0, 1.0, 0.5, 0.0]), np.array([1.0, 1.5, 0.5, 0.2])


def temperature_behind(*constraints, call: bool) -> float:
    """What the stage sets behind constraints, of the chain or of a call."""
    stage, told = KLGuided("source"), []

    class Told(KLGuided):
        def temperature(self, scores, without):
            told.append(super().temperature(scores, without))
            return told[-1]

    stage = Told("source")
    row = Row(Plain(WITH), -1, [0, 0, 1], "think", Keys(seed=0))
    if call:
        policy = Constrained(constraints, Chain(stage))
        policy.step(WrapperState(((None, WITHOUT),), tuple(c.start() for c in constraints)), row)
    else:
        chain = Chain(*constraints, stage)
        chain.candidates((*(None for _ in constraints), (None, WITHOUT)), row)
    return told[0]


@pytest.mark.parametrize("call", [False, True], ids=["in the chain", "of the call"])
def test_penalties_and_biases_are_no_dependence_on_the_source(call):
    """The model's own two laws are compared; a ban counts for both."""
    assert temperature_behind(call=call) == pytest.approx(0.5280, abs=5.1e-5)
    for stage in (Penalties(repeat=2.0, presence=1.0), LogitBias(((1, 3.0), (2, -2.0)))):
        assert temperature_behind(stage, call=call) == pytest.approx(0.5280, abs=5.1e-5)
    three = KLGuided("source")
    row = Row(Plain(WITH[:3]), -1, [0], "think", Keys(seed=0))
    chain = Chain(three)
    scores = chain.distribution(((None, WITHOUT[:3]),), row)
    cooled = float(scores.logits[1] / (WITH[1] - WITH[0]))
    assert temperature_behind(LogitBias(((3, -np.inf),)), call=call) == pytest.approx(1 / cooled, rel=1e-4)


def test_every_occurrence_of_the_source_is_left_out(model):
    Recording.seen = []
    inputs = TOKENIZER("so the cat and the cat<think>", return_tensors="pt")
    controlled(model, Controller(policy=Chain(Recording(SOURCE))), inputs=inputs, max_new_tokens=3)
    less = TOKENIZER("so and<think>", return_tensors="pt").input_ids[0].tolist()
    with torch.no_grad():
        for seen, _, without in Recording.seen:
            ids = less + seen[inputs.input_ids.shape[1] :]
            assert np.abs(model(torch.tensor([ids])).logits[0, -1].numpy() - without).max() < 1e-4


@pytest.mark.parametrize("text", ["the cat", "a", "e ca", "aa"])
def test_spans_never_overlap_and_hold_all_of_the_source(text):
    prompt = TOKENIZER("aaaa the cat, the cat ate a caaat the cat").input_ids
    handle_tokens = HFTokenizer(TOKENIZER)
    spans = source_spans(handle_tokens, prompt, text)
    assert all(end <= after for (_, end), (after, _) in zip(spans, spans[1:], strict=False))
    left = [t for i, t in enumerate(prompt) if not any(first <= i < end for first, end in spans)]
    assert len(spans) == handle_tokens.decode(prompt).count(text)
    assert len(handle_tokens.decode(left)) <= len(handle_tokens.decode(prompt)) - len(spans) * len(text)
