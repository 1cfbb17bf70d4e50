"""Penalties, bans, DRY and XTC against the libraries' own, on random rows and texts."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from llama_cpp import llama_cpp as C
from transformers.generation import logits_process as hf

from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import (
    DRY,
    XTC,
    BadWords,
    Candidates,
    Chain,
    ControllerError,
    Keys,
    LogitBias,
    MinNewTokens,
    Penalties,
    Row,
    RunContext,
)
from support.engines import Plain
from support.library_rows import applied
from support.llama_models import open_llama


class Letters:
    """Token i is the letter i; 0 is a line break."""

    def text(self, token: int) -> str:
        return "\n" if token == 0 else chr(96 + token)


def row(tokens, start=0, eos=(), keys=None, logits=None) -> Row:
    return Row(Plain(logits), -1, tokens, "think", keys or Keys(seed=0), RunContext(start, frozenset(eos), Letters()))


def after(stage, logits, tokens, **more) -> np.ndarray:
    _, scores = stage.step(None, Candidates(logits), row(tokens, **more))
    return scores.logits


def sampled(sampler, logits, tokens) -> np.ndarray:
    """What one of llama.cpp's samplers makes of the logits after it has read `tokens`."""
    for token in tokens:
        C.llama_sampler_accept(sampler, token)
    left, _ = applied(sampler, logits)
    C.llama_sampler_free(sampler)
    out = np.empty_like(logits)
    out[left["id"]] = left["logit"]
    return out


def test_penalties_are_llama_cpp_s():
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = (3 * rng.normal(size=30)).astype(np.float32)
        tokens = rng.integers(0, 30, size=int(rng.integers(0, 40))).tolist()
        repeat, frequency, presence = (float(rng.choice(v)) for v in ([1, 1.3, 0.8], [0, 0.4], [0, -0.5]))
        last = int(rng.choice([5, 64]))
        theirs = sampled(C.llama_sampler_init_penalties(30, last, repeat, frequency, presence), logits, tokens)
        ours = after(Penalties(repeat, frequency, presence, last_n=last), logits, tokens)
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_the_repetition_penalty_is_transformers():
    rng = np.random.default_rng(1)
    for _ in range(50):
        logits, tokens = (3 * rng.normal(size=30)).astype(np.float32), rng.integers(0, 30, size=12).tolist()
        theirs = hf.RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([tokens]), torch.tensor(logits)[None])[0].numpy()
        assert after(Penalties(repeat=1.4), logits, tokens) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BadWords(((99,),)), "bad_words's token is 99; it must be below the vocabulary's 10"),
        (lambda: BadWords(((3, -1),)), "bad_words is ((3, -1),); it must be of token ids from 0 on"),
        (lambda: LogitBias(((99, 1.0),)), "logit_bias's token is 99"),
        (lambda: Penalties(skip=-1), "penalties' skip is -1; it must be 0 or more"),
    ],
)
def test_tokens_that_the_vocabulary_lacks_are_one_line(make, words):
    with pytest.raises(ControllerError) as error:
        after(make(), np.zeros(10), [1, 2, 3])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_end_that_the_model_has_no_row_for_needs_no_ban():
    """-1 and ids beyond the row can't be drawn; they must not ban another token."""
    assert after(MinNewTokens(5), np.zeros(4), [0], eos=(-1, 2, 9)).tolist() == [0, 0, -np.inf, 0]
    assert after(MinNewTokens(5), np.zeros(4), [0], eos=(-1,)).tolist() == [0, 0, 0, 0]


def test_the_prompt_counts_only_if_asked():
    logits = np.ones(4)
    assert after(Penalties(presence=0.5, prompt=False), logits, [0, 1, 2], start=2).tolist() == [1, 1, 0.5, 1]
    assert after(Penalties(presence=0.5), logits, [0, 1, 2], start=2).tolist() == [0.5, 0.5, 0.5, 1]
    assert after(Penalties(presence=0.5, last_n=1), logits, [0, 1, 2]).tolist() == [1, 1, 0.5, 1]


def test_bans_and_biases_are_transformers():
    rng = np.random.default_rng(2)
    words = ((3,), (1, 2), (4, 4, 5))
    theirs_bad = hf.NoBadWordsLogitsProcessor([list(word) for word in words])
    theirs_bias = hf.SequenceBiasLogitsProcessor([[[7], 1.5], [[8], -2.0]])
    for _ in range(100):
        logits, tokens = rng.normal(size=9).astype(np.float32), rng.choice([1, 4, 6], size=5).tolist()
        ids, scores = torch.tensor([tokens]), torch.tensor(logits)[None]
        assert after(BadWords(words), logits, tokens).tolist() == theirs_bad(ids, scores)[0].tolist()
        ours = after(LogitBias(((7, 1.5), (8, -2.0))), logits, tokens)
        assert ours == pytest.approx(theirs_bias(ids, scores)[0].numpy(), rel=1e-6)
    with pytest.raises(ControllerError, match="token is 99"):
        after(LogitBias(((99, 1.0),)), np.zeros(9), [1])


def test_no_end_before_enough_tokens():
    logits = np.zeros(4)
    assert after(MinNewTokens(2), logits, [0, 1], start=1, eos=(2,)).tolist() == [0, 0, -np.inf, 0]
    assert after(MinNewTokens(2), logits, [0, 1, 1], start=1, eos=(2,)).tolist() == [0, 0, 0, 0]


MANY = [pytest.param(10_000, size, marks=pytest.mark.slow) for size in (3_000, 49_152, 151_936)]


@pytest.mark.parametrize(("n", "size"), [(220, 500), *MANY])
def test_dry_is_llama_cpp_s(n, size):
    """With the bundled model's tokens, texts that repeat themselves and a breaker of one token, on rows of any size.

    A difference is a rounding of at most 1e-5, or it fails; `-s` prints how many rows were penalised, and were equal.
    """
    llm = open_llama()
    tokenizer = LlamaTokenizer(llm)
    (line,) = tokenizer.encode("\n")
    alphabet, breakers = [line, *tokenizer.encode("a b c")], (ctypes.c_char_p * 1)(b"\n")
    rng, vocabulary, penalised, equal = np.random.default_rng(3), C.llama_model_get_vocab(llm.model), 0, 0
    for i in range(n):
        logits = 3 * rng.standard_normal(size, dtype=np.float32)
        if i % 5 == 0:
            logits[rng.random(size) < 0.5] = -np.inf
        tokens, stage = repeating(rng, alphabet, long=i % 11 == 0), drawn_dry(rng)
        sampler = C.llama_sampler_init_dry(
            vocabulary, stage.multiplier, stage.base, stage.allowed_length, stage.last_n, breakers, 1
        )
        theirs = sampled(sampler, logits, tokens)
        row = Row(Plain(None), -1, tokens, "think", Keys(seed=0), RunContext(0, frozenset(), tokenizer))
        _, scores = stage.step(None, Candidates(logits), row)
        # Ours stop at 1e30, theirs where float32 does.
        theirs = np.where((theirs < -1e30) & (logits > -np.inf), np.float32(-1e30), theirs)
        assert np.allclose(scores.logits, theirs, rtol=1e-5, atol=1e-5), tokens
        penalised += int((theirs != logits).any())
        equal += np.array_equal(scores.logits, theirs)
    print(f"\nllama.cpp, dry, {size} tokens: {n} rows, {penalised} penalised, {equal} equal, {n - equal} rounding")
    assert penalised > 0.4 * n
    llm.close()


def drawn_dry(rng) -> DRY:
    multiplier, base = float(rng.choice([0.8, 2.0])), float(rng.choice([1.0, 1.75, 3.0]))
    return DRY(multiplier, base, int(rng.integers(1, 5)), int(rng.choice([12, 500, 2_500])), breakers=("\n",))


def repeating(rng, alphabet, long: bool) -> list[int]:
    """A text of few different tokens that repeats its end; a long one repeats itself all over."""
    weights = [0.06, *[0.94 / (len(alphabet) - 1)] * (len(alphabet) - 1)]
    tokens = rng.choice(alphabet, size=int(rng.integers(1, 60)), p=weights).tolist()
    tokens += tokens[-int(rng.integers(1, 6)) :]
    return (tokens * 40)[:2_000] + tokens[-int(rng.integers(1, 6)) :] if long else tokens


def by_definition(tokens, allowed: int, reads) -> dict[int, int]:
    """Every earlier place of the last token, compared backwards one by one: what DRY says, in quadratic time."""
    end = len(tokens) - 1
    reach = next((n for n in range(end + 1) if reads(tokens[end - n])), end + 1)
    longest: dict[int, int] = {}
    for at in range(end):
        n = 0
        while n < reach and n <= at and tokens[at - n] == tokens[end - n]:
            n += 1
        token = tokens[at + 1]
        if n >= allowed and n > longest.get(token, 0) and not reads(token):
            longest[token] = n
    return longest if reach >= allowed else {}


def test_dry_is_what_its_definition_says_on_repetitive_texts():
    rng, found = np.random.default_rng(7), 0
    for _ in range(600):
        size, breaking = int(rng.integers(1, 4)), rng.random() < 0.5
        tokens = rng.integers(0 if breaking else 1, size + 1, size=int(rng.integers(0, 60))).tolist()
        tokens += tokens[-int(rng.integers(1, 30)) :] * int(rng.integers(1, 4))
        allowed = int(rng.integers(1, 5))
        ours = DRY(allowed_length=allowed).repeats(row(tokens))
        assert ours == by_definition(tokens, allowed, lambda token: token == 0)
        found += bool(ours)
    assert found > 300


class Counted(int):
    """A token that counts how often tokens are compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


@pytest.mark.parametrize("period", [[1], [1, 2], [1, 1, 2], [1, 2, 1, 1, 2, 1, 2]])
def test_dry_compares_as_many_tokens_as_there_are_not_their_square(period):
    tokens = [Counted(token) for token in period * (2_000 // len(period))]
    Counted.compared = 0
    longest = DRY().repeats(row(tokens))
    assert max(longest.values()) >= 1_990 - len(period)
    assert 0 < Counted.compared <= 4 * len(tokens)


def test_dry_reads_each_token_once_a_run():
    class Reading(Letters):
        read: list = []  # noqa: RUF012

        def text(self, token):
            self.read.append(token)
            return super().text(token)

    frame = RunContext(0, frozenset(), Reading())
    for end in range(1, 40):
        DRY().repeats(Row(Plain(None), -1, [1, 2, 3, 2][: end % 4 + 1] * 9, "think", Keys(seed=0), frame))
    assert sorted(Reading.read) == [1, 2, 3]
    DRY(breakers=("b",)).repeats(Row(Plain(None), -1, [1, 2, 1, 2, 1], "think", Keys(seed=0), frame))
    assert len(Reading.read) == 5  # other breakers, other answers


def test_no_penalty_forbids_the_only_token_there_is():
    """A text of 2,000 equal tokens, at a power that llama.cpp's float32 can't hold."""
    logits = np.array([-np.inf, 2.0, -np.inf], dtype=np.float32)
    scores = Chain(DRY(multiplier=5.0)).distribution(None, row([1] * 2_000, logits=logits))
    assert scores.weights.tolist() == [0.0, 1.0, 0.0]


def test_dry_by_hand():
    """a b c d a b c: d would make the repetition four long; a line break in between ends it."""
    stage = DRY(multiplier=1.0, base=2.0, allowed_length=2)
    assert stage.repeats(row([1, 2, 3, 4, 1, 2, 3])) == {4: 3}
    assert after(stage, np.zeros(6), [1, 2, 3, 4, 1, 2, 3]).tolist() == [0, 0, 0, 0, -2, 0]
    assert stage.repeats(row([1, 2, 3, 4, 1, 0, 3])) == {}
    assert stage.repeats(row([5, 5, 5, 5])) == {5: 3}
    with pytest.raises(ControllerError, match="pass the model's tokenizer"):
        stage.repeats(Row(Plain(None), -1, [1, 1], "think", Keys(seed=0)))


def test_xtc_acts_as_often_as_it_says():
    """4,000 positions, probability 0.3: a count off by more than 4.5 standard deviations has odds of 7e-6."""
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    chain, kept = Chain(XTC(0.3, 0.1)), []
    keys = Keys(seed=4)
    for position in range(4_000):
        scores = chain.distribution(None, Row(Plain(logits), -1, [0] * (position + 1), "think", keys))
        kept.append(len(scores.logits))
    assert set(kept) == {4, 2}
    assert abs(kept.count(2) - 1_200) < 4.5 * (4_000 * 0.3 * 0.7) ** 0.5
