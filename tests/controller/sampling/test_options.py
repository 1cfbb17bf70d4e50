"""Debiased options: nothing depends on their order, the letters' mass stays, and PriDe divides by its prior."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    ROOT,
    Call,
    Chain,
    Controller,
    ControllerError,
    Decode,
    Greedy,
    Keys,
    Pure,
    Row,
    RunContext,
    Temperature,
    Trace,
    parse_draft,
    parse_policy,
)
from reasonctl.controller.sampling import letter_tokens, option_spans, with_contents
from reasonctl.controller.sampling.draw import CopiedStep
from reasonctl.controller.sampling.stages.options import CyclicOptions, OptionLetter, OptionPrior, rotations

WORDS = ("cat", "dog", "eel", "fox")
TOKENIZER = ToyTokenizer(["A", "B", "C", "D", " A", ". ", "\n", "Q?\n", "So ", "Answer:", *WORDS, "<eos>"])
ANSWER = 9
LETTER_IDS = (0, 1, 2, 3, 4)


class Reader(ToyEngine):
    """A toy model whose next token depends on every token before it."""

    def probs(self, tokens: Sequence[int]) -> np.ndarray:
        return np.random.default_rng([7, *tokens]).dirichlet([0.7] * self.vocabulary)


ENGINE = Reader(vocabulary=15)


@dataclass(frozen=True)
class Opening(Pure):
    """Writes `Answer:`, then a letter."""

    name = "opening"
    kind = "constraint"

    def apply(self, candidates, row):
        allowed = [ANSWER] if len(row.tokens) == row.context.start else list(LETTER_IDS)
        logits = np.full_like(candidates.logits, -np.inf)
        logits[allowed] = candidates.logits[allowed]
        return type(candidates)(logits)


def prompt_of(order: Sequence[str]) -> list[int]:
    lines = "".join(f"{letter}. {word}\n" for letter, word in zip("ABCD", order, strict=True))
    return TOKENIZER.encode(f"Q?\n{lines}")


def letter_row(order: Sequence[str]) -> Row:
    """The row where the letter is drawn."""
    prompt = prompt_of(order)
    tokens = [*prompt, ANSWER]
    (step,) = ENGINE.forward((Decode(ENGINE.session(), tokens),))
    context = RunContext(len(prompt), frozenset({14}), TOKENIZER, ENGINE)
    return Row(CopiedStep(step, 0, ()), ROOT, tokens, "after", Keys(seed=0), context)


def prepared(part: Chain | CyclicOptions, row: Row):
    """The state after the forwards that a policy or a stage asks for."""
    asking, reply = part.prepare(part.start(), row), None
    try:
        while True:
            (reply,) = ENGINE.forward((asking.send(reply),))
    except StopIteration as ended:
        return ended.value


def shares(policy: Chain, order: Sequence[str]) -> dict[str, float]:
    """The probability of each word where the letter is drawn."""
    row = letter_row(order)
    probs = policy.distribution(prepared(policy, row), row).dense(15)
    return dict(zip(order, [probs[0] + probs[4], *probs[1:4]], strict=True))


def answers(policy: Chain, order: Sequence[str], seed: int = 0, **settings) -> str:
    """The word that a run chooses."""
    trace = Trace()
    call = Call(prompt_of(order), 2, frozenset({14}), Keys(seed=seed), policy)
    for _ in Controller(**settings).stream(ENGINE.session(), TOKENIZER, call, trace):
        pass
    letter = TOKENIZER.decode(trace.tokens).removeprefix("Answer:").strip()
    return order["ABCD".index(letter)]


def test_no_order_of_the_options_changes_an_options_probability() -> None:
    """Bit by bit, for all 24 orders; without the stage it changes."""
    policy = Chain(Opening(), CyclicOptions(), Temperature(1.0))
    averaged = [prepared(CyclicOptions(), letter_row(order)) for order in permutations(WORDS)]
    exact = [dict(zip(order, one, strict=True)) for order, one in zip(permutations(WORDS), averaged, strict=True)]
    assert all(one == exact[0] for one in exact)
    every = [shares(policy, order) for order in permutations(WORDS)]
    assert all(one == pytest.approx(exact[0], abs=1e-12) for one in every)
    plain = [shares(Chain(Opening()), order)["cat"] for order in permutations(WORDS)]
    assert max(plain) - min(plain) > 0.3
    assert len({answers(Greedy(Opening(), CyclicOptions()), order) for order in permutations(WORDS)}) == 1
    assert len({answers(Greedy(Opening()), order) for order in permutations(WORDS)}) > 1


def test_rotations_of_the_shown_order_would_not_do(monkeypatch) -> None:
    """The negative control: without the alphabetical order only cyclic moves leave the probabilities alone."""

    def shown(tokenizer, prompt):
        text = tokenizer.decode(prompt)
        spans = option_spans(text)
        contents = [text[a:b] for a, b in spans]
        turned = [contents[-by:] + contents[:-by] if by else contents for by in range(4)]
        return [tokenizer.encode(with_contents(text, spans, one)) for one in turned], [0, 1, 2, 3]

    monkeypatch.setattr("reasonctl.controller.sampling.stages.options.rotations", shown)
    policy = Chain(Opening(), CyclicOptions())
    cyclic = [shares(policy, WORDS[i:] + WORDS[:i])["cat"] for i in range(4)]
    every = [shares(policy, order)["cat"] for order in permutations(WORDS)]
    assert max(cyclic) - min(cyclic) < 1e-12 and max(every) - min(every) > 0.05


def test_the_average_is_over_the_options_not_the_letters() -> None:
    """By hand: the model is asked under each rotation of the alphabetical order, and the options are followed."""
    order = ("eel", "cat", "fox", "dog")
    by_word = dict.fromkeys(WORDS, 0.0)
    for by in range(4):
        turned = WORDS[-by:] + WORDS[:-by] if by else WORDS
        probs = ENGINE.probs([*prompt_of(turned), ANSWER])
        letters = np.array([probs[0] + probs[4], *probs[1:4]])
        for word, share in zip(turned, letters / letters.sum(), strict=True):
            by_word[word] += share / 4
    found = shares(Chain(Opening(), CyclicOptions()), order)
    assert found == pytest.approx(by_word) and sum(found.values()) == pytest.approx(1.0)


def test_a_prior_is_divided_out_and_other_tokens_stay() -> None:
    probs = ENGINE.probs([*prompt_of(WORDS), ANSWER])
    letters = np.array([probs[0] + probs[4], *probs[1:4]])
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    wanted = letters / prior / (letters / prior).sum() * letters.sum()
    policy = Chain(OptionPrior(tuple(prior.tolist())))
    found = shares(policy, WORDS)
    assert list(found.values()) == pytest.approx(wanted.tolist())
    assert shares(Chain(OptionPrior((0.25,) * 4)), WORDS) == pytest.approx(shares(Chain(), WORDS))
    assert shares(Chain(OptionPrior(tuple(prior.tolist()), after="Reply:")), WORDS) == shares(Chain(), WORDS)


def test_only_the_place_of_the_letter_is_corrected() -> None:
    """A run's first token isn't a letter's place: the word before it is free."""
    prompt = prompt_of(WORDS)
    context = RunContext(len(prompt), frozenset({14}), TOKENIZER, ENGINE)
    for tokens, expected in (
        (prompt, False),
        ([*prompt, ANSWER], True),
        ([*prompt, ANSWER, 8], False),
        ([*prompt, 8, ANSWER], True),
    ):
        (step,) = ENGINE.forward((Decode(ENGINE.session(), tokens),))
        row = Row(step, ROOT, tokens, "after", Keys(seed=0), context)
        assert OptionPrior((0.7, 0.3)).at_answer(row, "Answer:") is expected


def test_an_opening_is_followed_by_a_letter_and_its_spellings_count_together() -> None:
    """`A` and ` A` are one candidate with the mass of both; what comes before is the opening's own tokens."""
    stage = OptionLetter(4)
    row = letter_row(WORDS)
    probs = ENGINE.probs([*prompt_of(WORDS), ANSWER])
    letters = np.array([probs[0] + probs[4], *probs[1:4]])
    found = Chain(stage).distribution(Chain(stage).start(), row).dense(15)
    best = 0 if probs[0] > probs[4] else 4
    assert found[[best, 1, 2, 3]] == pytest.approx(letters / letters.sum()) and np.count_nonzero(found) == 4
    assert len({answers(Chain(stage, Temperature(1.0)), WORDS, seed) for seed in range(40)}) > 1
    drafter = parse_draft("ngram(4)", lambda name: None)
    cyclic = Chain(stage, CyclicOptions(), Temperature(1.0))
    for seed in range(8):
        assert answers(cyclic, WORDS, seed, drafter=drafter) == answers(cyclic, WORDS, seed)


def test_a_template_behind_the_last_option_stays_where_it_is() -> None:
    """Chat templates write their marker into the last option's line; an option's further lines move with it."""
    text = "A. x\n   y\nB. z<|im_end|>\n<|im_start|>assistant\n"
    spans = option_spans(text)
    moved = with_contents(text, spans, [text[a:b] for a, b in reversed(spans)])
    assert moved == "A. z\nB. x\n   y<|im_end|>\n<|im_start|>assistant\n"
    assert len(option_spans("  A. x\n  B. y\n  C. z")) == 3
    assert option_spans("A. x\n" + "\n" * 100_000 + " " * 100_000 + "\nC. y") == []


@pytest.mark.parametrize(
    "role", [" ASSISTANT:", " GPT: ", "\n### Response:\n", " ### Assistant:", "\n\nAssistant:", "</s>"]
)
def test_a_role_in_plain_text_is_no_part_of_the_last_option(role: str) -> None:
    text = f"A chat. USER: Which? Note:\nA. Rome\nB. New York{role}"
    spans = option_spans(text)
    assert [text[a:b] for a, b in spans] == ["Rome", "New York"]
    assert with_contents(text, spans, ["New York", "Rome"]).endswith(f"A. New York\nB. Rome{role}")


@pytest.mark.parametrize(
    "ends",
    ["<turn|>\n<|turn>model\n", "<seed:eos><seed:bos>assistant\n", "<end_of_sentence>\n<beginning_of_sentence>ai\n"]
    + ["[e~[\n]~b]ai\n<think>\n", "<sep>assistant:", "<end_of_turn>\n", "<\uff5cAssistant\uff5c><think>\n", "[/INST]"],
)
def test_what_templates_write_is_no_part_of_the_last_option(ends: str) -> None:
    """The ends of messages of Gemma 4, Seed, MiniMax 1 and 2, Reka, Gemma 3, DeepSeek and Mistral."""
    text = f"Which?\nA. <b>Rome</b>\nB. a<b or <div>{ends}"
    assert [text[a:b] for a, b in option_spans(text)] == ["<b>Rome</b>", "a<b or <div>"]


def test_what_only_looks_like_a_role_stays() -> None:
    for last in ("he said:", "Thus:", "a Note: x", "x:", "a: b"):
        text = f"A. x\nB. {last}"
        assert [text[a:b] for a, b in option_spans(text)] == ["x", last]


@pytest.mark.parametrize(("ends", "refused"), [(" ASSISTANT:", False), ("<|im_end|>\n", False), (" [END]", True)])
def test_a_template_that_hides_where_the_last_option_ends_is_refused(ends: str, refused: bool) -> None:
    tokenizer = ToyTokenizer(list(map(chr, range(32, 127))) + ["\n"])
    model = SimpleNamespace(tokenizer=tokenizer, prompt=lambda text: tokenizer.encode(f"USER: {text}{ends}"))
    policy = parse_policy("cyclic_options | greedy")
    with pytest.raises(ControllerError, match="template writes") if refused else nullcontext():
        assert policy.check(model) == []


def test_drafted_and_plain_runs_agree() -> None:
    policy = Chain(Opening(), OptionPrior((0.4, 0.3, 0.2, 0.1)), Temperature(1.0))
    cyclic = Chain(Opening(), CyclicOptions(), Temperature(1.0))
    for chain in (policy, cyclic):
        for seed in range(8):
            drafter = parse_draft("ngram(4)", lambda name: None)
            assert answers(chain, WORDS, seed, drafter=drafter) == answers(chain, WORDS, seed)


def test_options_are_found_in_each_form_and_the_last_list_counts() -> None:
    for text in (
        "A. x\nB. y\n\nThen:\nA. cat\nB. dog \nC. eel",
        "### Options\n- **A.** cat\n- **B.** dog\n- **C.** eel",
        'Reply as {"answer": "A"}: {"options": {"A": "cat", "B": "dog", "C": "eel"}}',
        "(A) cat\n(B) dog\n(C) eel",
    ):
        assert [text[a:b] for a, b in option_spans(text)] == ["cat", "dog", "eel"]
    assert option_spans("A. one\nC. three") == [] and option_spans("A. " + " " * 100_000 + "\nB") == []


def test_policies_are_read_and_what_means_nothing_is_refused() -> None:
    text = 'option_letter(options=2,opening="Answer:") | '
    text += 'option_prior(prior=[0.5,0.5],after="\\"answer\\":") | cyclic_options | greedy'
    policy = parse_policy(text)
    assert parse_policy(str(policy)) == policy
    for wrong, why in (
        ("option_letter(options=1)", "from 2 to 10"),
        ('option_letter(opening=" ")', "a text"),
        ("option_prior(prior=[1])", "2 to 10 positive"),
        ("option_prior(prior=[0.5,0])", "2 to 10 positive"),
        ('cyclic_options(after=" ")', "the text before the letter"),
        ("temperature(1) | cyclic_options", "own logits"),
    ):
        with pytest.raises(ControllerError, match=why):
            parse_policy(wrong)
    with pytest.raises(ControllerError, match="finds no options"):
        rotations(TOKENIZER, TOKENIZER.encode("Q?\ncat"))
    with pytest.raises(ControllerError, match="has no token"):
        letter_tokens(TOKENIZER, 5)
