"""Problems for the bundled reasoner: chains of small additions and subtractions on two-digit values.

Owns questions, answers and the split into training and held-out; the written traces are examples/tiny/traces.py.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from itertools import accumulate, count, islice

from .problem import Problem

LOWEST, HIGHEST = 20, 89  # every value of a chain stays two-digit, so each one is a single token
HIGHEST_MISREAD = 99  # likewise where one '-' is taken for a '+', which raises every later value
OPERANDS = range(2, 10)
STEPS = (3, 4, 5)
MINUS_SHARES = (0.35, 0.5, 0.65, 0.8)  # varies by problem: a '-' is what the model may misread, so difficulty varies
LETTERS = "abcde"
HELD_OUT_MODULUS = 8


EXAMPLE = "48 a-9 b+6 c-3"
"""A question as the model was trained on."""

_CHAIN = re.compile(r"[2-8][0-9] a[-+][2-9] b[-+][2-9] c[-+][2-9](?: d[-+][2-9](?: e[-+][2-9])?)?")


def understands(question: str) -> bool:
    """Whether a question has the form of those that the model was trained on.

    >>> understands(EXAMPLE), understands("80 a-3 b-6 c-5 d+8"), understands("What is 2+2?"), understands("48 a-9")
    (True, True, False, False)
    """
    return _CHAIN.fullmatch(question.strip()) is not None


def is_held_out(question: str) -> bool:
    """Whether a question is kept from training, by a hash that needs no list of questions.

    >>> is_held_out("80 a-3 b-6 c-5 d+8")
    False
    """
    return zlib.crc32(question.encode()) % HELD_OUT_MODULUS == 0


def fresh_problems(n: int, seed: int, start: int = 0) -> list[Problem]:
    """Problems `start` to `start + n` of the stream `seed`: all distinct, none of them ever trained on.

    >>> fresh_problems(2, seed=0) == fresh_problems(5, seed=0)[:2]
    True
    >>> fresh_problems(2, seed=0, start=3) == fresh_problems(5, seed=0)[3:]
    True
    >>> all(is_held_out(problem.question) for problem in fresh_problems(20, seed=1))
    True
    """
    if n < 0 or start < 0:
        raise ValueError(f"n and start count problems and must be >= 0, got n={n}, start={start}")
    return list(islice(_stream(seed), start, start + n))


def training_problem(rng: random.Random) -> Problem:
    """A problem of the training side of the split; repeats are possible."""
    while is_held_out((problem := _draw(rng)).question):
        pass
    return problem


def _stream(seed: int) -> Iterator[Problem]:
    """The endless stream of a seed. It always starts at 0, as distinctness is against all earlier ones."""
    seen: set[str] = set()
    for index in count():
        rng = random.Random(f"tiny {seed} {index}")
        while not is_held_out((problem := _draw(rng)).question) or problem.question in seen:
            pass
        seen.add(problem.question)
        yield problem


def _draw(rng: random.Random) -> Problem:
    """One problem of either side. Only rng.random() is used: its stream is the same in every Python version."""
    length = STEPS[_below(rng, len(STEPS))]
    minus_share = MINUS_SHARES[_below(rng, len(MINUS_SHARES))]
    while True:
        value = LOWEST + _below(rng, HIGHEST - LOWEST + 1)
        signs = ["-" if rng.random() < minus_share else "+" for _ in range(length)]
        operands = [OPERANDS[_below(rng, len(OPERANDS))] for _ in range(length)]
        steps = [operand if sign == "+" else -operand for sign, operand in zip(signs, operands, strict=True)]
        if "-" in signs and _stays_two_digit(value, steps):
            break
    question = " ".join([str(value)] + [f"{a}{s}{o}" for a, s, o in zip(LETTERS, signs, operands, strict=False)])
    return Problem(question, str(value + sum(steps)), f"{length} steps")


def _stays_two_digit(value: int, steps: list[int]) -> bool:
    """Whether every value stays two-digit, also in a chain where one '-' is misread as '+'."""
    values = list(accumulate(steps, initial=value))[1:]
    misread = [max(values[at:]) - 2 * step for at, step in enumerate(steps) if step < 0]
    return min(values) >= LOWEST and max(values) <= HIGHEST and max(misread) <= HIGHEST_MISREAD


def _below(rng: random.Random, limit: int) -> int:
    return int(rng.random() * limit)
