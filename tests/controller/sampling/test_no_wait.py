"""NoWait: reflection words are never written while thinking, however they are split; the answer may hold them."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.backends import attach
from reasonctl.backends.load import tiny_folder
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Chain,
    Constrained,
    Controller,
    ControllerError,
    Cues,
    Keys,
    LogitBias,
    Markers,
    MinP,
    NoWait,
    PerPhase,
    Row,
    RunContext,
    Sampling,
    Temperature,
    Thinking,
    Trace,
    Weighed,
    parse_policy,
)
from reasonctl.controller.sampling.stages.no_wait import REFLECTION
from support.llama_models import PROMPT, open_llama
from support.scripted import RandomTree, Scripted

TEXTS = [
    "<eos>",
    " ",
    "a",
    ".",
    "Wait",
    " Wait",
    " wait,",
    "wa",
    "it",
    "t",
    "Altern",
    "ati",
    "vely",
    "ve",
    "ing",
    "HMM",
    " know",
    "now",
    "k",
    "<think>",
    "</think>",
    "w",
    "i",
    ". But b",
    "x But",
    "butter",
    "\u00e9",
    "an",
    "y",
    "other",
]
BANNED = re.compile(rf"(?<![A-Za-z\u00c0-\u024f])(?:{'|'.join(REFLECTION)})(?![A-Za-z\u00c0-\u024f])", re.IGNORECASE)
THINKING = Thinking(Markers("<think>", "</think>"), "</think> ")
TOY = ToyEngine(vocabulary=len(TEXTS), order=1, seed=9, concentration=3.0)


def texts(policy, seed: int, drafter=None) -> tuple[str, str, Trace]:
    """(thinking, answer, trace) of a toy run that opens thinking itself."""
    trace, tokenizer = Trace(), ToyTokenizer(TEXTS)
    call = Call([2, TEXTS.index("<think>")], 120, frozenset([0]), Keys(seed=seed), Sampling())
    controller = Controller(policy=policy, thinking=THINKING, drafter=drafter, budget=60)
    list(controller.stream(TOY.session(), tokenizer, call, trace))
    think, _, answer = tokenizer.decode(trace.tokens).partition("</think>")
    return think, answer, trace


@pytest.mark.parametrize("drafted", [False, True])
def test_never_while_thinking_and_allowed_in_the_answer(drafted):
    free = held = spelled = 0
    for seed in range(40):
        drafter = RandomTree(len(TEXTS)) if drafted else None
        think, answer, _ = texts(Chain(NoWait(), Temperature(1.0)), seed, drafter)
        assert not BANNED.search(think), think
        held += len(BANNED.findall(answer))
        spelled += len(re.findall("waiti|know|butter|await", think, re.IGNORECASE))
        free += len(BANNED.findall(texts(Chain(Temperature(1.0)), seed)[0]))
    # The rule is no blunt one: other words that hold a reflection word are written.
    assert free > 40 and held > 40 and spelled > 20


INNER = {" Wait", " wait,", ". But b", "x But"}
"""Banned wherever they stand: a word begins inside of them."""


@pytest.mark.parametrize(
    ("before", "also"),
    [
        (["."], {"Wait", "HMM", "now", "other"}),
        (["Wait", " "], {"Wait", "HMM", "now", "other"}),
        (["a"], set()),
        (["k"], set()),
        (["\u00e9"], set()),
        ([".", "k", "now"], set()),
        (["Altern"], set()),
        (["Altern", "ati"], {"ve", "vely"}),
        (["wa"], {"it"}),
        (["w", "a", "i"], {"t"}),
        ([" ", "an"], {"y", "other"}),
        (["k", "an"], set()),
    ],
)
def test_which_tokens_are_banned(before, also):
    step = SimpleNamespace(logits=lambda node: np.zeros(len(TEXTS)))
    tokens, frame = [TEXTS.index(text) for text in before], RunContext(0, frozenset([0]), ToyTokenizer(TEXTS))
    for phase, expected in (("think", INNER | also), ("answer", set()), ("before", set())):
        row = Row(step, -1, tokens, phase, Keys(seed=0), frame)
        logits = Chain(NoWait()).distribution(None, row).logits
        assert {TEXTS[i] for i in np.flatnonzero(np.isneginf(logits))} == expected


BYTES = [bytes([i]) for i in range(256)]


@pytest.mark.parametrize(
    ("before", "banned"),
    [
        ("v", b""),
        ("x v\u00e1r", b"jJ"),
        ("V\u00c1R", b"jJ"),
        ("\u4f60\u597dv\u00e1r", b"jJ"),
        ("xv\u00e1r", b""),
        ("\u00e1v\u00e1r", b""),
        (" n\u00e9".encode()[:-1], b"\xa9\x89"),
        ("an\u00e9".encode()[:-1], b""),
        (b"n" + b"\xe2\x80", b""),
        (b"\xc3", b"\xb6\x96"),
        (b"x\xc3", b""),
    ],
)
def test_words_are_read_where_tokens_split_their_characters(before, banned):
    """A vocabulary of single bytes: no token of "v\u00e1rj" decodes to its second letter."""
    before = before.encode() if isinstance(before, str) else before
    step = SimpleNamespace(logits=lambda node: np.zeros(256))
    row = Row(step, -1, list(before), "think", Keys(seed=0), RunContext(0, frozenset([0]), ToyTokenizer(BYTES)))
    logits = Chain(NoWait(("v\u00e1rj", "n\u00e9", "\u00f6"))).distribution(None, row).logits
    assert np.flatnonzero(np.isneginf(logits)).tolist() == sorted(banned)


def test_tokens_that_complete_a_letter_and_go_on():
    pieces = [b"v\xc3", b"\xa1rj", b"\xa1rj.", b"\xa1rja", b"\xa1 v", b"r", b"\x96 V\xc3\xa1rj", b"\xa1"]
    step = SimpleNamespace(logits=lambda node: np.zeros(len(pieces)))
    for before, banned in (([0], [1, 2, 6]), ([5, 0], [6]), ([], [6]), ([4, 5], [6])):
        row = Row(step, -1, before, "think", Keys(seed=0), RunContext(0, frozenset(), ToyTokenizer(pieces)))
        logits = Chain(NoWait(("v\u00e1rj",))).distribution(None, row).logits
        assert np.flatnonzero(np.isneginf(logits)).tolist() == banned


def test_an_end_of_sequence_is_never_banned():
    step = SimpleNamespace(logits=lambda node: np.zeros(3))
    frame = RunContext(0, frozenset([1]), ToyTokenizer(["a", "now", "now"]))
    row = Row(step, -1, [], "think", Keys(seed=0), frame)
    assert np.isneginf(Chain(NoWait()).distribution(None, row).logits).tolist() == [False, False, True]


WRAPPED = {
    "chain": lambda chain: chain,
    "greedy": lambda chain: parse_policy("no_wait | greedy"),
    "phases": lambda chain: PerPhase(chain, Chain(Temperature(1.0))),
    "behind constraints": lambda chain: Constrained((LogitBias(((1, 1.0),)),), chain),
    "a constraint": lambda chain: Constrained(chain.stages[:1], Sampling()),
    "phases behind constraints": lambda chain: Constrained((), PerPhase(chain, Chain(Temperature(1.0)))),
    "weighed": Weighed,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_cue_words_and_their_suppression_exclude_each_other(wrapper):
    policy = WRAPPED[wrapper](Chain(NoWait(), Temperature(0.8)))
    waits, other = (
        Scripted(lambda at: False),
        Scripted(lambda at: False, "</think> ", cues=Cues(["sentence", "every(8)"])),
    )
    with pytest.raises(ControllerError, match="suppresses cue words and the exit rule waits for them"):
        Controller(exit=waits, policy=policy)
    call = Call([2, TEXTS.index("<think>")], 30, frozenset([0]), Keys(seed=1), policy)
    with pytest.raises(ControllerError, match="would never be asked"):
        list(Controller(exit=waits).stream(TOY.session(), ToyTokenizer(TEXTS), call))
    list(Controller(exit=other, policy=policy).stream(TOY.session(), ToyTokenizer(TEXTS), call))
    with pytest.raises(ControllerError, match="say how thinking is marked"):
        list(Controller().stream(TOY.session(), ToyTokenizer(TEXTS), call))


def test_the_text_form():
    assert parse_policy("no_wait") == Chain(NoWait()) and str(Chain(NoWait())) == "no_wait"
    policy = parse_policy('no_wait(["Wait","hmm"]) | temperature(0.6) | min_p(0.1)')
    assert policy == Chain(NoWait(("Wait", "hmm")), Temperature(0.6), MinP(0.1)) == parse_policy(str(policy))
    for text, words in (
        ('no_wait(["so what"])', "words of letters"),
        ("no_wait([])", "words of letters"),
        ("min_p(0.1) | no_wait", "put it before min_p"),
        ("no_wait(3)", "a list"),
    ):
        with pytest.raises(ControllerError, match=words):
            parse_policy(text)


POLICY = 'no_wait(["wait","hmm","alternatively"]) | temperature(0.6)'
WORDS = re.compile(r"(?<![a-z])(wait|hmm+|alternatively)(?![a-z])", re.IGNORECASE)


def test_llama_writes_none_of_its_words():
    llm = open_llama(n_ctx=1024)
    assert WORDS.search(llm(PROMPT, max_tokens=120, seed=1, temperature=0.6)["choices"][0]["text"])
    with attach(llm, Controller(policy=parse_policy(POLICY))) as handle:
        for seed in range(3):
            text = llm(PROMPT, max_tokens=120, seed=seed)["choices"][0]["text"]
            assert not WORDS.search(text.partition("</think>")[0]) and len(handle.trace.tokens) > 10


def test_transformers_writes_none_of_its_words():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_folder()), AutoTokenizer.from_pretrained(tiny_folder())
    inputs = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    torch.manual_seed(1)
    assert WORDS.search(tokenizer.decode(model.generate(**inputs, max_new_tokens=120, do_sample=True, top_k=0)[0]))
    with attach(model, Controller(policy=parse_policy(POLICY)), tokenizer=tokenizer):
        for _ in range(3):
            text = tokenizer.decode(model.generate(**inputs, max_new_tokens=120)[0][inputs["input_ids"].shape[1] :])
            assert not WORDS.search(text.partition("</think>")[0])
    with pytest.raises(ControllerError, match="reads text; pass the tokenizer"):
        attach(model, Controller(policy=parse_policy(POLICY)))
