"""Grammars in the chain: nothing outside of them is written, drafted or not, on every backend."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from llama_cpp import LlamaGrammar

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.grammar import Grammar as NativeGrammar
from reasonctl.backends.llama.tokenizer import LlamaTokenizer, end_tokens
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    ROOT,
    Call,
    Candidates,
    Chain,
    Controller,
    ControllerError,
    Draft,
    Grammar,
    Keys,
    Markers,
    PromptLookup,
    Row,
    RunContext,
    Stateless,
    Temperature,
    Thinking,
    Trace,
    parse_policy,
)
from support.hf_models import EOS, TOKENIZER, Twigs, controlled, small
from support.llama_models import PROMPT, open_llama

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "n": {"enum": [3, 14]}},
        "required": ["a", "n"],
        "additionalProperties": False,
    }
)
TEXTS = ToyTokenizer(["a", "b", "c", "ab", "<end>", "d"])
TOY = ToyEngine(vocabulary=6, order=2, seed=3, concentration=1.0)
END = frozenset({4})
EBNF = 'root ::= "a" ("b" | "c")* "ab"'


class Bushy(Stateless):
    """Every token as a child of the root, and two of them go on."""

    def propose(self, tokens, room):
        return Draft((*range(6), *range(6), 1, 3), (*[ROOT] * 6, *[0] * 6, 1, 2)) if room > 2 else Draft()
        yield


def written(policy, run: int, drafter=None, length: int = 12) -> tuple[str, Trace]:
    trace = Trace()
    call = Call([0, 5, 2], length, END, Keys(seed=1, run=run), policy)
    for _ in Controller(drafter=drafter).stream(TOY.session(), TEXTS, call, trace):
        pass
    return TEXTS.decode([token for token in trace.tokens if token not in END]), trace


def test_every_text_is_one_of_the_grammar_drafted_or_not():
    policy, texts, accepted = Chain(Grammar(EBNF), Temperature(1.5)), set(), 0
    for run in range(60):
        text, trace = written(policy, run)
        drafted, other = written(policy, run, Bushy())
        assert drafted == text and other.tokens == trace.tokens
        accepted += other.accepted
        if trace.finish_reason == "stop":
            assert re.fullmatch("a[bc]*ab", text)
        else:
            assert re.fullmatch("a[bc]*a?", text)
        texts.add(text)
    assert len(texts) > 5 and accepted > 60


def test_without_the_grammar_other_texts_are_written():
    assert any(not re.match("a[bc]*", written(Chain(Temperature(1.5)), run)[0]) for run in range(10))


def test_a_place_is_a_value():
    """Going on from a place twice, in any order, leaves it as it was."""
    start = TEXTS.matcher(EBNF, "ebnf", END)
    behind = start.after(0)
    before = behind.allowed().tolist()
    assert before == [True, True, True, True, False, False]
    assert behind.after(3).allowed().tolist() == [False] * 4 + [True, False]
    assert behind.after(1).after(2) is not None and behind.after(5) is None and behind.after(4) is None
    assert behind.allowed().tolist() == before and start.allowed().tolist() == [True, False, False, True, False, False]


def test_rows_longer_or_shorter_than_the_vocabulary():
    """Padding rows of a model are no token of the grammar; the tokenizer may know tokens that the model hasn't."""
    for size in (5, 40):
        row = Row(None, ROOT, [0], "answer", Keys(seed=0), RunContext(1, END, TEXTS))
        _, scores = Grammar(EBNF).step(None, Candidates(np.zeros(size, np.float32)), row)
        assert np.flatnonzero(scores.logits > -np.inf).tolist() == [0, 3] and scores.logits.dtype == np.float32


def test_the_grammar_of_an_answer_begins_behind_the_close():
    """Thinking is free; a budget's suffix is not the grammar's business."""
    policy = parse_policy('think: temperature(1) ; answer: grammar("root ::= \\"cc\\"")')
    thinking = Thinking(Markers("d", "ab"), "ab")
    trace = Trace()
    call = Call([0, 5], 12, END, Keys(seed=2), policy)
    controller = Controller(thinking=thinking, budget=3)
    for _ in controller.stream(TOY.session(), TEXTS, call, trace):
        pass
    assert trace.closed_by in ("budget", "model") and TEXTS.decode(trace.tokens).endswith("cc<end>")


def test_a_forced_token_outside_of_the_grammar_is_one_clear_error():
    call = Call([0, 2], 12, END, Keys(seed=2), parse_policy(r'grammar("root ::= [ab]{40}")'))
    controller = Controller(thinking=Thinking(Markers("c", "d"), "d"), budget=3)
    with pytest.raises(ControllerError, match="doesn't admit the forced token 5"):
        list(controller.stream(TOY.session(), TEXTS, call))


GRAMMARS = [
    'root ::= "52" (" a"|" b") [0-9]{1,3} "\\n"',
    'root ::= [a-c ]+ "=" ("-"? [1-9] [0-9]*)',
    "root ::= [^0-9]*",
]


@pytest.mark.parametrize("text", GRAMMARS)
def test_the_sets_are_llama_cpp_s_own(text):
    """xgrammar on the bytes of the tokens against llama.cpp's GBNF sampler, along sampled texts."""
    llm = open_llama()
    tokenizer, eos = LlamaTokenizer(llm), end_tokens(llm)
    grammar = LlamaGrammar.from_string(text, verbose=False)
    (theirs, _), ours = NativeGrammar.of(grammar, llm.model, 0).start(), tokenizer.matcher(text, "ebnf", eos)
    # llama.cpp ends a text at NUL and lets bytes pass that no UTF-8 holds.
    spelt = np.array([token for token, piece in tokenizer._spellings() if 0 < piece[0] < 0xF5])
    rng, ids = np.random.default_rng(0), np.arange(llm.n_vocab(), dtype=np.intc)
    for _ in range(12):
        mine = np.zeros(llm.n_vocab(), bool)
        mine[: len(ours.allowed())] = ours.allowed()
        native = theirs.allowed(ids)
        assert mine[spelt].tolist() == native[spelt].tolist()
        assert mine[list(eos)].any() == native[list(eos)].any()
        choices = [int(token) for token in spelt[mine[spelt]] if token not in eos]
        if not choices:
            break
        token = int(rng.choice(choices))
        ours, theirs = ours.after(token), theirs.after(token, None)
    llm.close()


@pytest.mark.parametrize("temperature", ["greedy", "temperature(6)"])
def test_a_schema_on_llama_cpp_drafted_or_not(temperature, tmp_path):
    file = tmp_path / "answer.json"
    file.write_text(SCHEMA)
    policy, texts = parse_policy(f"grammar({file}) | {temperature}"), []
    for drafter in (None, PromptLookup(longest=2, size=4)):
        llm = open_llama(type_k=0, type_v=0)
        with attach(llm, Controller(policy=policy, drafter=drafter)) as handle:
            texts.append([llm(PROMPT, max_tokens=150, seed=seed)["choices"][0]["text"] for seed in range(9)])
            assert handle.trace.tokens
        llm.close()
    assert texts[0] == texts[1]
    ended = [text for text in texts[0] if text.endswith("}")]
    assert all(set(json.loads(text)) == {"a", "n"} and json.loads(text)["n"] in (3, 14) for text in ended)
    assert all(re.match(r'\s*\{\s*("a"|$)', text) for text in texts[0]) and (ended or temperature == "greedy")


def test_on_transformers_drafted_or_not():
    torch.set_num_threads(1)
    model, policy = (
        small(),
        parse_policy(r'grammar("root ::= (\" the\" | \" so\" [0-9]{1,3})+ \".\"") | temperature(2)'),
    )
    for seed in range(3):
        arguments = {"max_new_tokens": 30, "eos_token_id": EOS, "seed": seed}
        plain, _ = controlled(model, Controller(policy=policy), **arguments)
        drafted, handle = controlled(model, Controller(policy=policy, drafter=Twigs(plain)), **arguments)
        assert drafted == plain and handle.trace.accepted > 0
        text = TOKENIZER.decode([token for token in handle.trace.tokens if token != EOS])
        assert re.fullmatch(r"( the| so\d{0,3})*\.?", text)


def test_control_tokens_are_no_text():
    """The characters <eos> can't be written by the token that ends the sequence; its own bytes are not in a text."""
    place = HFTokenizer(TOKENIZER).matcher('root ::= "<eos>" | "so"', "ebnf", frozenset({EOS}))
    assert not place.allowed()[EOS] and place.allowed()[TOKENIZER.convert_tokens_to_ids("s")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("grammar", "needs a|must be"),
        ("grammar(nowhere.gbnf)", "'nowhere.gbnf' can't be read as a file"),
        ('grammar("x ::= y")', "no rule named root"),
        (r'grammar("{\"type\":")', "broken JSON schema"),
        ('temperature(1) | grammar("root ::= [a]")', "put it before temperature"),
    ],
)
def test_visible_mistakes_are_told_when_the_text_is_read(text, why):
    with pytest.raises(ControllerError, match=why) as error:
        parse_policy(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("root ::= foo", '"foo" is not defined'),
        ('root ::= "a', "string literal"),
        ('{"type": "foo"}', 'Unsupported type "foo"'),
        ('{"type": "string", "pattern": "("}', "parenthesis is not closed"),
    ],
)
def test_a_broken_grammar_is_one_line_before_any_forward(source, why):
    call, before = Call([0], 5, END, Keys(seed=0), Chain(Grammar(source))), TOY.forwards
    with pytest.raises(ControllerError, match=re.escape(why)) as error:
        list(Controller().stream(TOY.session(), TEXTS, call))
    assert TOY.forwards == before and "\n" not in str(error.value) and ".cc" not in str(error.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "g.gbnf").write_bytes(b"root ::= \xff")
    with pytest.raises(ControllerError, match="is not UTF-8 text"):
        Grammar(str(tmp_path / "g.gbnf"))


def test_without_xgrammar_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xgrammar", None)
    with pytest.raises(ControllerError, match=re.escape("pip install 'reasonctl[grammar]'")):
        TEXTS.matcher(EBNF, "ebnf", END)


def test_a_grammar_that_the_vocabulary_can_t_spell():
    with pytest.raises(ControllerError, match="no token is allowed here"):
        written(Chain(Grammar('root ::= "x"')), 0)


def test_transformers_without_a_tokenizer():
    with pytest.raises(ControllerError, match="pass the tokenizer"):
        attach(small(), Controller(policy=Chain(Grammar(EBNF))))


def test_the_text_form_round_trips(tmp_path):
    for source in (EBNF, SCHEMA):
        policy = Chain(Grammar(source), Temperature(0.5))
        assert parse_policy(str(policy)) == policy
