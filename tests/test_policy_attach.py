"""Policies through attach, on both backends: what the chain adds to the libraries' own calls."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from attached import CHAT, PROMPT, ExitAt, open_llama
from hf_small import EOS, TOKENIZER, Twigs, controlled, small
from hf_small import PROMPT as HF_PROMPT
from hf_small import Scripted as HFExit
from llama_cpp import LlamaGrammar, MinTokensLogitsProcessor
from llama_cpp import LogitsProcessorList as LlamaProcessors
from reasonctl.backends.attach import attach
from reasonctl.backends.llama_sampling import DEFAULTS, call_policy
from reasonctl.backends.llama_tokenizer import LlamaTokenizer
from reasonctl.controller import (
    Chain,
    Controller,
    ControllerError,
    KLGuided,
    Markers,
    MinP,
    PromptLookup,
    Row,
    Stateless,
    Temperature,
    Thinking,
    parse_policy,
)
from transformers import LogitsProcessor, LogitsProcessorList

MARKERS = Markers("<think>", "</think>")
THINKING = Thinking(MARKERS, MARKERS.close + "\n")

CHAINS = [
    "edt(t0=0.9,theta=0.3) | top_h(0.5)",
    "penalties(repeat=1.2) | dry(multiplier=1) | min_p(0.05) | temperature(1.2)",
    "top_n_sigma(1.2) | dynatemp(t=0.9,range=0.4)",
    "mirostat_v2(tau=3,eta=0.3)",
    "think: mirostat(tau=2) ; answer: ead(d=20)",
    "typical(0.8) | temperature(0.9)",
]


@pytest.fixture
def llm():
    made = open_llama()
    yield made
    made.close()


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return small()


class Known(Stateless):
    """Drafts what an earlier run wrote."""

    def __init__(self, tokens):
        self.lookup = Twigs(tokens)

    def propose(self, tokens, room):
        return (yield from self.lookup.propose(tokens, room))


@pytest.mark.parametrize("text", CHAINS)
def test_a_chain_runs_on_transformers_and_drafting_changes_no_token(model, text):
    policy = parse_policy(text)
    plain, _ = controlled(model, Controller(policy=policy, thinking=THINKING), max_new_tokens=40)
    both = Controller(policy=policy, thinking=THINKING, drafter=Known(plain))
    drafted, handle = controlled(model, both, max_new_tokens=40)
    assert drafted == plain and handle.trace.accepted > 5


@pytest.mark.parametrize("text", CHAINS)
def test_a_chain_runs_on_llama_cpp_and_drafting_changes_no_token(text):
    """A near-tie may flip with the batch's shape: float32 caches, and at most one of six chains may split."""
    plain, drafted = open_llama(type_k=0, type_v=0), open_llama(type_k=0, type_v=0)
    policy, written = parse_policy(text), []
    for one, drafter in ((plain, None), (drafted, PromptLookup(size=4))):
        handle = attach(one, Controller(policy=policy, drafter=drafter, thinking=THINKING))
        one(PROMPT, max_tokens=40, seed=3)
        written.append(list(handle.trace.tokens))
    common = next((i for i, pair in enumerate(zip(*written, strict=False)) if pair[0] != pair[1]), len(written[0]))
    assert common == len(written[0]) or common > 10
    assert written[0]
    plain.close()
    drafted.close()


@pytest.mark.parametrize("more", [{"typical_p": 0.5}, {"mirostat_mode": 1}, {"mirostat_mode": 2, "mirostat_tau": 2.0}])
def test_sampling_arguments_that_the_chain_brings_are_honoured(llm, more):
    attach(llm, Controller())
    texts = [llm(PROMPT, max_tokens=20, temperature=1.5, seed=seed, **more)["choices"][0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1]


def test_the_call_s_chain_can_be_shown(llm):
    """In the order of llama-cpp-python, whatever its stages hold."""
    grammar = LlamaGrammar.from_string(GRAMMAR, verbose=False)
    arguments = DEFAULTS | {"logits_processor": [print], "grammar": grammar, "repeat_penalty": 1.2, "typical_p": 0.9}
    policy = call_policy(arguments, prompt=3, window=64, model=llm.model)
    names = ["logits_processor", "penalties", "grammar", "top_k", "typical", "top_p", "min_p", "temperature"]
    assert [stage.name for stage in policy.stages] == names
    assert all(name in repr(policy) for name in names)
    assert str(call_policy(DEFAULTS | {"mirostat_mode": 2}, prompt=3, window=64)) == "mirostat_v2(feedback=llama)"
    assert str(call_policy(DEFAULTS | {"temp": 0.0}, prompt=3, window=64)) == "greedy"


def test_typical_narrows_a_call(llm):
    """With so small a share one token is left at each step, whatever the seed."""
    attach(llm, Controller())
    arguments = {"max_tokens": 20, "temperature": 2.0, "typical_p": 1e-6, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert len({llm(PROMPT, seed=seed, **arguments)["choices"][0]["text"] for seed in range(5)}) == 1


GRAMMAR = 'root ::= "52" (" a"|" b") [0-9]{1,3} "\\n"'


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("drafter", [None, PromptLookup(longest=2, size=4)])
def test_a_grammar_is_kept_as_in_stock(temperature, drafter):
    stock, ours = open_llama(), open_llama()
    handle = attach(ours, Controller(drafter=drafter))
    grammar = LlamaGrammar.from_string(GRAMMAR, verbose=False)
    arguments = {"max_tokens": 30, "temperature": temperature, "grammar": grammar}
    for seed in range(3):
        text = ours(PROMPT, seed=seed, **arguments)["choices"][0]["text"]
        assert text.startswith("52 ") and text.endswith("\n") and len(text) <= 9
        if temperature == 0.0:
            assert text == stock(PROMPT, seed=seed, **arguments)["choices"][0]["text"]
    assert handle.runs == 3
    stock.close()
    ours.close()


def test_json_answers_in_chat(llm):
    attach(llm, Controller())
    answer = llm.create_chat_completion(
        CHAT, max_tokens=40, temperature=1.0, seed=1,
        response_format={"type": "json_object", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}},
                                                            "required": ["a"], "additionalProperties": False}},
    )["choices"][0]["message"]["content"]  # fmt: skip
    assert answer.replace(" ", "").replace("\n", "") in ('{"a":true}', '{"a":false}')


def test_a_grammar_that_forbids_the_exit_is_one_clear_error(llm):
    """llama.cpp would end the process on a token that its grammar doesn't admit."""
    attach(llm, Controller(exit=ExitAt(0)))
    grammar = LlamaGrammar.from_string('root ::= ("Wait" | " " | ",")+', verbose=False)
    with pytest.raises(ControllerError, match="grammar doesn't admit the forced token"):
        for seed in range(40):
            llm(PROMPT, max_tokens=60, temperature=1.0, seed=seed, grammar=grammar)


def test_constraints_of_the_call_stay_under_a_policy_of_the_controller(llm, model):
    """transformers' and llama.cpp's calls alike: the law is the controller's, bans are the call's."""
    handle = attach(llm, Controller(policy=parse_policy("temperature(1.5)")))
    free = llm(PROMPT, max_tokens=20, seed=1)
    banned = handle.trace.tokens[0]
    llm(PROMPT, max_tokens=20, seed=1, logit_bias={banned: -1e9})
    assert free["choices"][0]["text"] and banned not in handle.trace.tokens
    tokens, _ = controlled(model, Controller(policy=parse_policy("temperature(1.5)")), max_new_tokens=30)
    start = HF_PROMPT.input_ids.shape[1]
    ban = [[tokens[start]]]
    assert tokens[start] not in controlled(
        model, Controller(policy=parse_policy("temperature(1.5)")), max_new_tokens=30, bad_words_ids=ban
    )[0][start:]  # fmt: skip


class Counts(LogitsProcessor):
    """Remembers how often it was asked, and lets token number `count` through only."""

    def __init__(self):
        self.count = 0

    def __call__(self, ids, scores):
        self.count += 1
        out = torch.full_like(scores, -math.inf)
        out[0, self.count % 30 : self.count % 30 + 4] = scores[0, self.count % 30 : self.count % 30 + 4]
        return out

    def fork(self):
        return copy.deepcopy(self)


@pytest.mark.parametrize("exit_at", [None, 0])
def test_a_stateful_processor_with_a_copy_of_its_own_is_never_corrupted(model, exit_at):
    call = {"max_new_tokens": 40, "do_sample": True, "top_k": 0}
    processor = Counts()
    plain, _ = controlled(model, Controller(), logits_processor=LogitsProcessorList([processor]), **call)
    assert processor.count == 0  # each token has its own copy
    drafted, handle = controlled(
        model, Controller(drafter=Known(plain)), logits_processor=LogitsProcessorList([Counts()]), **call
    )
    assert drafted == plain and handle.trace.accepted > 5
    rule = HFExit(exit_at, trials=True)
    exited, handle = controlled(model, Controller(exit=rule), logits_processor=LogitsProcessorList([Counts()]), **call)
    cut = handle.trace.forced[0] if handle.trace.forced else len(exited)
    assert exited[: HF_PROMPT.input_ids.shape[1] + cut] == plain[: HF_PROMPT.input_ids.shape[1] + cut]


class Cycle:
    """The same for llama-cpp-python: its n-th call lets four tokens through. With `fork` it can be copied."""

    def __init__(self):
        self.count = 0

    def __call__(self, ids, logits):
        self.count += 1
        at = 40 * self.count % 300 + 20
        out = np.full_like(logits, -np.inf)
        out[at : at + 4] = logits[at : at + 4]
        return out


class Forking(Cycle):
    def fork(self):
        return copy.copy(self)


REWRITING = {
    "exit": lambda: Controller(exit=ExitAt(0, trials=True)),
    "budget": lambda: Controller(thinking=THINKING, budget=3),
    "drafts": lambda: Controller(drafter=PromptLookup(size=3)),
}


@pytest.mark.parametrize("name", REWRITING)
def test_a_processor_that_may_keep_state_is_refused_by_name_on_llama_cpp(llm, name):
    attach(llm, REWRITING[name]())
    call = {"max_tokens": 8, "seed": 1}
    with pytest.raises(ControllerError, match="logits processor Cycle may keep state, which"):
        llm(PROMPT, logits_processor=LlamaProcessors([Cycle()]), **call)
    with pytest.raises(ControllerError, match="logits processor keep may keep state"):
        llm(PROMPT, logits_processor=LlamaProcessors([keep]), **call)
    stateless = Cycle()
    stateless.stateless = True
    for known in (stateless, Forking(), MinTokensLogitsProcessor(2, llm.token_eos())):
        llm(PROMPT, logits_processor=LlamaProcessors([known]), **call)
    llm(PROMPT, logit_bias={60: 1.0}, **call)  # the library's own closure


def keep(ids, logits):
    return logits


def test_a_stateful_processor_with_a_copy_is_never_corrupted_on_llama_cpp(llm):
    """Its mask depends on how many tokens were drawn before: what an exit or a draft made of it would show."""
    call = {"max_tokens": 24, "seed": 1, "temperature": 1.0}

    def run(controller, processor):
        with attach(llm, controller) as handle:
            llm(PROMPT, logits_processor=LlamaProcessors([processor]), **call)
            return list(handle.trace.tokens), handle.trace

    kept = Forking()
    plain, _ = run(Controller(), kept)
    assert kept.count == 0  # each token has its own copy
    start = len(llm.tokenize(PROMPT.encode(), special=True))
    drafted, trace = run(Controller(drafter=Known([0] * start + plain)), Forking())
    assert drafted == plain and trace.accepted > 5
    cut, trace = run(Controller(thinking=THINKING, budget=5), Forking())
    first, length = trace.forced
    # Behind the forced tokens the count goes on from the tokens that were drawn.
    for i, token in enumerate(cut[first + length :]):
        at = 40 * (first + i + 1) % 300 + 20
        assert at <= token < at + 4


# KL-guided: a second decode without the source.
SOURCE = " the cat"


class Recording(KLGuided):
    """Also keeps the logits of the second decode and the tokens they belong to."""

    seen: list = []  # noqa: RUF012

    def step(self, state, scores, row: Row):
        self.seen.append((list(row.tokens), scores.whole.logits.copy(), state[1].copy()))
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
    free = len(handle_engine(llm, handle).free)
    for _ in range(20):  # more calls than sequences: each gives its own back
        first = llm(PROMPT, max_tokens=6, seed=2)["choices"][0]["text"]
    assert len(handle_engine(llm, handle).free) == free
    assert llm.create_chat_completion(CHAT, max_tokens=6, seed=2)["choices"][0]["message"]["content"] is not None
    handle.detach()
    handle = attach(llm, Controller(policy=Chain(Temperature(1.0), MinP(0.02))))
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
    from reasonctl.controller.guided import source_spans

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
