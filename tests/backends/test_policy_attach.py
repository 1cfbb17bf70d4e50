"""Policies through attach, on both backends: what the chain adds to the libraries' own calls."""

from __future__ import annotations

import copy
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from llama_cpp import LlamaGrammar, MinTokensLogitsProcessor
from llama_cpp import LogitsProcessorList as LlamaProcessors
from transformers import LogitsProcessor, LogitsProcessorList

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.sampling import DEFAULTS, call_policy
from reasonctl.controller import (
    DRY,
    Chain,
    Constrained,
    Controller,
    ControllerError,
    Markers,
    ModelDrafter,
    PromptLookup,
    Thinking,
    parse_policy,
)
from support.hf_models import EOS, TOKENIZER, controlled
from support.hf_models import PROMPT as HF_PROMPT
from support.hf_models import Scripted as HFExit
from support.known_tokens import Known
from support.llama_models import CHAT, PROMPT, ExitAt, open_llama

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


@pytest.mark.parametrize(
    "policy",
    [
        Chain(DRY()),
        Constrained([DRY()], Chain()),
        Constrained([], Chain(DRY())),
        Constrained([], parse_policy("think: greedy; answer: greedy")),
    ],
    ids=str,
)
def test_a_policy_that_reads_text_is_refused_without_a_tokenizer(model, policy):
    with pytest.raises(ControllerError, match=r"reads text; pass the tokenizer: attach\(…, tokenizer=…\)"):
        attach(model, Controller(policy=policy, thinking=THINKING))


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
        CHAT,
        max_tokens=40,
        temperature=1.0,
        seed=1,
        response_format={
            "type": "json_object",
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "boolean"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    )["choices"][0]["message"]["content"]
    assert answer.replace(" ", "").replace("\n", "") in ('{"a":true}', '{"a":false}')


class Unmarked(ExitAt):
    """A rule for a model without markers."""

    markers = None


def test_a_grammar_that_forbids_the_exit_is_one_clear_error(llm):
    """Without markers nothing tells thoughts from the answer. llama.cpp would end the process on such a token."""
    attach(llm, Controller(exit=Unmarked(0)))
    grammar = LlamaGrammar.from_string('root ::= ("Wait" [ ,])+', verbose=False)
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
    assert (
        tokens[start]
        not in controlled(
            model, Controller(policy=parse_policy("temperature(1.5)")), max_new_tokens=30, bad_words_ids=ban
        )[0][start:]
    )


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


class Asked(LogitsProcessor):
    """Remembers the texts that it was asked about, and changes nothing."""

    stateless = True

    def __init__(self):
        self.texts = []

    def __call__(self, ids, scores):
        self.texts.append(ids[0].tolist())
        return scores


def test_a_draft_model_drafts_under_the_call_s_law_and_is_never_shown_to_the_user_s_processors(model):
    """It is the target here, under temperature, top-k and bans of the call: nothing is rejected."""
    engine, tokens = HFEngine(model), HFTokenizer(TOKENIZER)
    drafts = SimpleNamespace(name="same", engine=engine, tokenizer=tokens, context=512, can=engine.can)
    drafter = ModelDrafter(drafts, kind="chain", size=3, adaptive=False)
    asked = Asked()
    call = {"do_sample": True, "temperature": 0.7, "top_k": 9, "bad_words_ids": [[EOS]], "max_new_tokens": 30}
    _, handle = controlled(model, Controller(drafter=drafter), logits_processor=LogitsProcessorList([asked]), **call)
    trace, start = handle.trace, HF_PROMPT.input_ids.shape[1]
    assert [len(text) - start for text in asked.texts] == list(range(30))
    assert trace.accepted > 15 and trace.accepted >= trace.drafted - 3  # the last draft may be cut by the limit


def test_xgrammar_s_own_processor_works_in_a_call_and_is_refused_by_name_where_tokens_are_taken_back(model):
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.contrib.hf import LogitsProcessor as Theirs

    known = xgrammar.TokenizerInfo(
        [piece for _, piece in pieces(model)], vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[EOS]
    )
    compiled = xgrammar.GrammarCompiler(known, max_threads=1).compile_grammar('root ::= "ab" [0-9]{3} "."')
    call = {"max_new_tokens": 12, "do_sample": True, "top_k": 0, "eos_token_id": EOS}
    for seed in range(3):
        tokens, handle = controlled(
            model, Controller(), seed=seed, logits_processor=LogitsProcessorList([Theirs(compiled)]), **call
        )
        text = TOKENIZER.decode(tokens[HF_PROMPT.input_ids.shape[1] :], skip_special_tokens=True)
        assert re.fullmatch(r"ab\d{3}\.", text) and handle.trace.finish_reason == "stop"
    tokens, _ = controlled(
        model, Controller(drafter=PromptLookup()), logits_processor=LogitsProcessorList([Theirs(compiled)]), **call
    )
    text = TOKENIZER.decode(tokens[HF_PROMPT.input_ids.shape[1] :], skip_special_tokens=True)
    assert re.fullmatch(r"ab\d{3}\.", text), "drafts ask it once a row"
    with pytest.raises(ControllerError, match="logits processor LogitsProcessor may keep state"):
        controlled(
            model,
            Controller(thinking=THINKING, budget=5),
            logits_processor=LogitsProcessorList([Theirs(compiled)]),
            **call,
        )


def pieces(model):
    """(id, bytes) of every row of the model; those without a text have none."""
    spelt = dict(HFTokenizer(TOKENIZER).pieces())
    special = set(TOKENIZER.all_special_ids)
    return [(i, b"" if i in special else spelt.get(i, b"")) for i in range(model.config.vocab_size)]


class Cycle:
    """For llama-cpp-python: its n-th call lets four tokens through. With `fork` it can be copied."""

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
