"""Numbers as people write them: thousands, decimal commas, fractions, percent, currencies, units.

Owns reading and comparing single quantities; which of a sentence's numbers is its answer is said in plain_answers.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from .units import NAMES, Unit, unit_at

LARGEST_EXPONENT = 400
"""Powers of ten beyond it are not compared by value."""

_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "k": 1000,  # next to its number: 300 k is a temperature
    "bn": 10**9,
}
_BODY = (
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d|,\d)"  # 1,234,567.8
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"  # 12,34,567 as in India
    r"|\d{1,3}(?:\.\d{3})+,\d+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d)"  # 1.234,5 and 1.234.567
    r"|[1-9]\d{0,2}(?:[ '’_]\d{3})+(?:[.,]\d+)?(?![\d/])"  # 1 234 567,8
    r"|\d+,\d+(?![\d,])"  # 3,5: a comma that parts no thousands
    r"|\d+(?:\.\d+)?|\.\d+"
)
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]}%])[-+]\s?)?(?P<money>(?:US)?[$€£¥₹]\s?(?P<inner>-)?)?"
    r"(?:(?P<whole>\d{1,9})(?:\s|\s?and\s|-)(?P<over>\d{1,9})\s?/\s?(?P<under>\d{1,9})(?![\d.,]*\d)"
    rf"|(?P<body>{_BODY})(?:\s?/\s?(?P<denominator>\d+(?:\.\d+)?)(?![\d.]*[\d/]))?)"
    r"(?P<ordinal>(?:st|nd|rd|th)\b)?"
    r"(?P<ten>e[-+]?\d{1,9}\b|\s?[×x*]\s?10\s?\^\s?[({]?[-+]?\d{1,9}[)}]?|\^[({]?-?\d{1,9}[)}]?)?"
    rf"(?:\s?(?P<scale>(?:{'|'.join(_SCALES)}))\b(?<!\sk))?(?(money)(?P<large>(?-i:[MB])\b)?)(?P<dots>(?:\.\.\.|…))?",
    re.IGNORECASE,
)
_NOUN = re.compile(
    r"[\s-]?(?!(?:of|in|for|to|per|from|by|at|on|with|after|before|and|or|is|are|was|were|which|that|because|since|as|"
    r"each|every|more|less|fewer|total|altogether|times|over|out|he|she|they|it|we|you|the|so|left)\b)"
    r"([^\W\d_]{2,})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Quantity:
    """A number with what it counts."""

    value: Fraction
    """In its own unit: 50 for 50 %."""
    unit: Unit | None
    """None if no unit of the table follows."""
    noun: str
    """The word that follows, if it is no unit."""
    start: int
    """Where it begins in its text, currency and sign included."""
    end: int
    """Where it ends, the unit included."""
    decimals: int | None
    """Digits after the point; None for whole numbers and fractions."""
    parts: tuple[Fraction, ...] = ()
    """Factors of the units of a compound, as of 2 h 30 min: each may have been asked for."""

    @property
    def base(self) -> Fraction:
        """The value in the base unit of its dimension."""
        return self.value * (self.unit[1] if self.unit else 1)


def quantities(text: str) -> list[Quantity]:
    """All quantities of a cleaned text, in order; compounds such as 2 hours 30 minutes are one.

    >>> [(str(q.value), q.unit and q.unit[0]) for q in quantities("$1,000.50, 1 1/2 cups and 3 thousand")]
    [('2001/2', 'dollar'), ('3/2', 'cups'), ('3000', None)]
    >>> [str(q.value) for q in quantities("2 hours 30 minutes")]
    ['150']
    """
    found: list[Quantity] = []
    end = 0
    while match := _NUMBER.search(text, end):
        start, end, value = match.start(), match.end(), _value(match)
        if value is None:
            continue
        unit, end = unit_at(text, end)
        if unit == NAMES["€"] and re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", match["body"] or ""):
            value *= 1000  # no price has thousandths
        if match["money"] and unit is None:
            unit = NAMES[match["money"].strip(" -").upper().removeprefix("US")]
        noun = _NOUN.match(text, end) if unit is None else None
        one = Quantity(value, unit, noun[1].casefold() if noun else "", start, end, _decimals(match))
        if found and _continues(found[-1], one, text[found[-1].end : start]):
            one = _joined(found.pop(), one)
        found.append(one)
    return found


def same(gold: Quantity, answer: Quantity, question: str = "") -> bool:
    """Whether the answer states the gold quantity; where one of them names no unit, the number decides."""
    dozens = re.search(rf"\bhow many ({'|'.join(_SCALES)})s?\b", question, re.IGNORECASE)
    if dozens and close(gold, answer.value / _SCALES[dozens[1].casefold()], answer.decimals):
        return True
    if gold.noun and answer.noun and gold.noun.rstrip("s") != answer.noun.rstrip("s"):
        return False
    if gold.unit and answer.unit:
        return _same_units(gold, answer)
    if answer.unit and answer.unit[0] == "percent":
        of_hundred = abs(gold.value) > 1 or "percent" in question or "%" in question
        return close(gold, answer.base, answer.decimals) or (of_hundred and close(gold, answer.value, answer.decimals))
    if answer.unit:
        asked = _asked(question, answer.unit[0])
        if asked is not None:
            return close(gold, answer.base / asked, answer.decimals)
        return any(close(gold, answer.base / part, answer.decimals) for part in answer.parts or (answer.unit[1],))
    of_hundred = gold.unit is not None and gold.unit[0] == "percent"
    if of_hundred and (
        gold.base == answer.value or (answer.decimals is None and close(gold, 100 * answer.value, None))
    ):
        return True
    return any(close(replace(gold, value=gold.base / part), answer.value, answer.decimals) for part in gold.parts) or (
        close(gold, answer.value, answer.decimals)
    )


def close(gold: Quantity, value: Fraction, decimals: int | None) -> bool:
    """Equal, or one is a fraction without end and the other is it, rounded to at least three decimals."""
    if gold.value == value:
        return True
    if (gold.decimals is None) == (decimals is None):
        return False
    digits, rounded, exact = (
        (decimals, value, gold.value) if gold.decimals is None else (gold.decimals, gold.value, value)
    )
    least = 3 if gold.decimals is None else 2
    return digits is not None and digits >= least and abs(rounded - exact) * 2 * 10**digits <= 1


def _same_units(gold: Quantity, answer: Quantity) -> bool:
    assert gold.unit and answer.unit
    if gold.unit[0] == answer.unit[0]:
        return close(replace(gold, value=gold.base), answer.base, answer.decimals)
    dimensions = {gold.unit[0], answer.unit[0]}
    if dimensions == {"pound", "sterling"}:
        return close(gold, answer.value, answer.decimals)
    return dimensions == {"pound", "mass"} and close(replace(gold, value=gold.base), answer.base, answer.decimals)


def _asked(question: str, dimension: str) -> Fraction | None:
    """The factor of the unit that a question asks for: `how many minutes`, `in cm`."""
    for match in reversed(
        list(re.finditer(r"\b(?:how many|how much|in)\s([a-z$°²]+)", question[-2000:], re.IGNORECASE))
    ):
        unit = NAMES.get(match[1].casefold()) or NAMES.get(match[1].casefold().removesuffix("s"))
        if unit and unit[0] == dimension:
            return unit[1]
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    if match["whole"]:
        whole, over, under = Fraction(match["whole"]), Fraction(match["over"]), Fraction(match["under"])
    else:
        whole, over, under = Fraction(), Fraction(_plain_digits(match["body"])), Fraction(match["denominator"] or 1)
    if not under:
        return None
    value = whole + over / under
    power = match["ten"]
    if power:
        exponent = int(re.sub(r".*[\^e]|[^-\d]", "", power, flags=re.IGNORECASE))
        base = value if power.startswith("^") else Fraction(10)
        if abs(exponent) > LARGEST_EXPONENT or base.numerator.bit_length() * abs(exponent) > 4000 or not base:
            return None
        value = base**exponent if power.startswith("^") else value * base**exponent
    value *= _SCALES[match["scale"].casefold()] if match["scale"] else 1
    value *= {"M": 10**6, "B": 10**9}[match["large"]] if match["large"] else 1
    return -value if "-" in (match["sign"] or "") + (match["inner"] or "") else value


def _plain_digits(body: str) -> str:
    """Python's way to write it.

    >>> [_plain_digits(body) for body in ("1,234.5", "1.234,5", "3,5", "0,125", "1 000", "12,34,567", "1.000")]
    ['1234.5', '1234.5', '3.5', '0.125', '1000', '1234567', '1.000']
    """
    body = re.sub(r"[ '’_]", "", body)
    comma, point = body.rfind(","), body.rfind(".")
    if comma >= 0 and point >= 0:
        return body.replace(",", "") if point > comma else body.replace(".", "").replace(",", ".")
    if body.count(".") > 1:
        return body.replace(".", "")
    grouped = re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}", body)
    return body.replace(",", "" if grouped else ".")


def _decimals(match: re.Match[str]) -> int | None:
    if match["whole"] or match["denominator"]:
        return None
    return len(_plain_digits(match["body"]).partition(".")[2]) or None


def _continues(before: Quantity, after: Quantity, gap: str) -> bool:
    """`30 minutes` after `2 hours`: the same dimension in a smaller unit."""
    if after.unit == NAMES["pence"] and before.unit == NAMES["pound"]:
        before = replace(before, unit=NAMES["£"])  # in "3 pounds 20 pence" no mass is meant
    same = before.unit and after.unit and before.unit[0] == after.unit[0] and before.unit[1] > after.unit[1]
    return bool(same) and after.value >= 0 and gap.strip() in ("", ",", "and", ", and", "&")


def _joined(before: Quantity, after: Quantity) -> Quantity:
    before = replace(before, unit=NAMES["£"]) if after.unit == NAMES["pence"] else before
    assert before.unit and after.unit
    value = (before.base + after.base) / after.unit[1]
    parts = (*(before.parts or (before.unit[1],)), after.unit[1])
    return Quantity(value, after.unit, "", before.start, after.end, after.decimals, parts)
