r"""Whether two formulas are equal, by math-verify under limits.

math-verify's own limits use SIGALRM: outside the main thread they raise ValueError, on Windows they start a process
per call, and nowhere do they interrupt one long operation on big integers. So formulas that are known to explode
(towers of exponents, factorials, deep nesting) are not computed at all, and the others are in a limited process.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod
from typing import Any

from .limited import LIMITED

SECONDS = 2.0
"""Processor time of one comparison; most take a twentieth of it."""

LONGEST = 400
"""Characters of a formula that is computed; a longer one equals nothing but itself."""

DEEPEST = 12
"""Brackets inside one another."""

MOST_DIGITS = 100
HIGHEST_POWER = 2000
HIGHEST_POWER_OF_SUM = 64
"""Powers of a bracket, all multiplied; a bracket with three letters or more is raised to a sixth of it."""

_FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|max|min|mod|gcd|lcm|pi|inf|infinity|det|lim|arcsin|arccos|arctan"
_WORD = re.compile(
    rf"(?<![\\A-Za-z])(?<!\\begin{{)(?<!\\end{{)(?!(?:{_FUNCTIONS})(?![A-Za-z]))[^\W\d_]{{2,}}", re.IGNORECASE
)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox|operatorname)\s?\{([^{}]*)\}")
_SIGNS = {"π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "*": r"\cdot "}
_SIGNS |= {"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm "}
_SIGNS |= {"÷": "/", "−": "-", "–": "-", "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}", "**": "^", "∅": r"\emptyset "}
_SIGNS |= {r"\varnothing": r"\emptyset"}
_SIGN = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))
_ROOT = re.compile(r"√\s?(?:\(([^()]*)\)|(\w+))|(?<!\\)\bsqrt\s?\(([^()]*)\)")
_NAMED = re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])")
_DELIMITER = re.compile(r"\\[()\[\]]|(?<!\\)\$|`|(?<=\s)\*\*|\*\*(?=\s|$)|^\*\*")
_UNIT = re.compile(r"(?<=[\w})])\s+([A-Za-z])\.?$")
_CALCULATED = re.compile(r"\d|\\|[√π∞∅]|\|.+\||(?:^\s*|[\w)}\]]\s*)[-+*/^=<>]+\s*[\w({]|\b(?:pi|infinity)\b")
_AREA = re.compile(r"(?<=[\w})])\s*(?:mm|cm|dm|km|in|ft|yd|mi|\sm)(?:\^\{?[23]\}?|[²³])")
_OR = re.compile(r"\bor\b|\beither\b|\bnot\b|n't\b", re.IGNORECASE)

_EXPONENT = re.compile(r"([)}\]]?)\s*(?:\^|\*\*)\s*(?:[{(]([^{}()]{0,60})|(\d+|))")
_TOWER = re.compile(r"\d\s*[)}]*\s*(?:\^|\*\*)[\s{(]*[-+]?\s*\d+\s*(?:\^|\*\*)")
_FACTORIAL = re.compile(r"\d{3}\s*!|[)}\]]\s*!|!\s*!")


def equal(gold: str, answer: str) -> bool:
    r"""Whether an answer states the gold formula, which words and units may surround; False past the limits.

    >>> equal(r"5\sqrt{2}", r"The length is $\sqrt{50}$ cm"), equal("2x + 1", "2x - 1"), equal("9", "9^{9^{9}}")
    (True, False, False)
    """
    wanted, stated = (formula(_AREA.sub("", text)) for text in (gold, answer))
    if not wanted or not stated:
        return False
    bases = [re.findall(r"\d_\{?(\d+)", text) for text in (wanted, stated)]
    if all(bases) and bases[0] != bases[1]:
        return False
    unit = _UNIT.search(stated)
    if unit and unit[1] not in wanted:
        stated = stated[: unit.start()]
    return "".join(wanted.split()) == "".join(stated.split()) or _computed(wanted, stated)


@lru_cache(maxsize=4096)
def _computed(gold: str, answer: str) -> bool:
    if not (is_bounded(gold) and is_bounded(answer)):
        return False
    return LIMITED.call(f"{__name__}:compare", gold, answer, seconds=SECONDS) is True


def formula(text: str) -> str:
    r"""The last formula in a text, as LaTeX; empty if there is none, or if it is only one of several or denied.

    >>> formula(r"The area is $2\pi$ square units."), formula("2√3 meters"), formula("x or y"), formula("none")
    ('2\\pi', '2\\sqrt{3}', '', '')
    """
    if len(text) > 4 * LONGEST or _OR.search(text):
        return ""
    text = _TEXT.sub(lambda match: f" {match[1]} ", _DELIMITER.sub(" ", text))
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    text = _SIGN.sub(lambda match: _SIGNS[match[0]], text).replace("{bmatrix}", "{pmatrix}")
    pieces = [
        piece.strip(" \t\n.,;:!?") if not piece.strip().endswith("!") else piece.strip() for piece in _WORD.split(text)
    ]
    stated = [piece for piece in pieces if re.search(r"[\w\\]", piece) and piece not in ("a", "I")]
    if not stated:
        return ""
    return _NAMED.sub(lambda match: rf"\{'infty' if match[1].startswith('inf') else match[1]}", stated[-1])


def is_mathematical(text: str) -> bool:
    r"""No words but functions and units, and something to calculate with.

    >>> [is_mathematical(text) for text in (r"2\sqrt{3}", "x", "x-y", r"5\text{ cm}", "ABCD", "Apollo 11", "C++")]
    [True, True, True, True, False, False, False]
    """
    bare = re.sub(r"\\(?:(?:begin|end)\{[a-z]+\}|[A-Za-z]+)", r" \\ ", _TEXT.sub("", text))
    return not _WORD.search(bare) and (len(re.sub(r"[\s$.]", "", bare)) == 1 or bool(_CALCULATED.search(bare)))


def is_bounded(text: str) -> bool:
    r"""Whether it is known to be computed soon: short, flat, with small exponents and factorials.

    >>> [is_bounded(text) for text in (r"\frac{x^2}{3!}", "2^{100}", "(x+1)^{20}")]
    [True, True, True]
    >>> [is_bounded(text) for text in ("9^{9^{9}}", "1000000!", "(x+1)^{5000}", "{" * 2000, "((9^99)^99)^99")]
    [False, False, False, False, False]
    """
    if len(text) > LONGEST or _depth(text) > DEEPEST or _TOWER.search(text) or _FACTORIAL.search(text):
        return False
    if re.search(rf"\d{{{MOST_DIGITS}}}|\d[eE][-+]?\d{{4}}", text):
        return False
    highest = of_groups = 1
    for group, *power in _EXPONENT.findall(text):
        size = prod(max(int(number), 1) for number in re.findall(r"\d+", "".join(power)))
        highest = max(highest, size)
        of_groups *= size if group else 1
    letters = set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)))
    most = HIGHEST_POWER if not letters else HIGHEST_POWER_OF_SUM // (6 if len(letters) > 2 else 1)
    return highest <= HIGHEST_POWER and highest * of_groups <= HIGHEST_POWER and of_groups <= most


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def compare(gold: str, answer: str) -> bool:
    """Run in the limited process: the formulas are equal, or one is the other rounded to at least three decimals."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    wanted, stated = parse(f"${gold}$", parsing_timeout=None), parse(f"${answer}$", parsing_timeout=None)
    if verify(wanted, stated, timeout_seconds=None, allow_set_relation_comp=True):
        return True
    decimals = re.fullmatch(r"-?\d*\.(\d{3,})", answer.strip())
    value: Any = wanted[0] if wanted else None
    if not decimals or not getattr(value, "is_number", False) or not value.is_real or value.is_rational:
        return False
    return bool(abs(float(value) - float(answer)) <= 0.5 * 10.0 ** -len(decimals[1]))
