"""Number words of English as digits."""

from __future__ import annotations

import re

_TO_NINETEEN = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: number for number, word in enumerate(re.split(r"\s", _TO_NINETEEN))}
_WORDS |= {word: 10 * number for number, word in enumerate(re.split(r"\s", _TENS), start=2)}
_LARGE = {"thousand": 1000, "million": 10**6}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
_NAMED = "|".join([*_WORDS, "hundred", "thousand", "million"])
_AND = r"(?:(?<=hundred)|(?<=thousand)|(?<=million))\sand\s"
_ROUND = re.compile(r"\b(?:an?|one) (?=(?:dozen|billion|trillion)\b)", re.IGNORECASE)
_HALF_OF = re.compile(r"\bhalf (?:of )?an?\s", re.IGNORECASE)
_AND_A_HALF = re.compile(r"\b(\w+)\s([^\W\d_]+) and a half\b", re.IGNORECASE)
_MINUS = re.compile(r"(?<!\d)(?<!\d\s)\b(?:minus|negative)\s(?=[$€£]?[\d.])", re.IGNORECASE)
_BELOW_ZERO = re.compile(r"(?<![\w.,-])(\d[\d.,]*)((?:\s?°\s?[cf]?|\sdegrees?)?)\sbelow (?:zero|0)\b", re.IGNORECASE)
_CHANCE = re.compile(
    r"\b(\d+) (?:in|out of) (\d+)(?=\s(?:chance|probability|odds)\b)|\b1 (?:in|out of) (?:every )?(\d+)$", re.IGNORECASE
)
_OVER = re.compile(r"(?<=\d) over (?=\d+$)")
_HOURS = re.compile(r"(?<![\w.,])(\d{1,3})\s?h\s?([0-5]\d)(?![\w.,])", re.IGNORECASE)
_IN_WORDS = re.compile(rf"\b(?:{_NAMED})(?:(?:-|\s|{_AND})(?:{_NAMED}))*\b", re.IGNORECASE)
_PART = re.compile(rf"\b(?:(\d+) and )?(an?|\d+)(?:\s|-)({'|'.join(_PARTS)})s?\b|\bhalf\b", re.IGNORECASE)


def in_digits(text: str) -> str:
    """Number words as digits, in a text that has no digits of its own; `minus` as a sign.

    >>> in_digits("minus five"), in_digits("a dozen eggs")
    ('-5', '1 dozen eggs')
    >>> in_digits("twenty-one people"), in_digits("three quarters of it"), in_digits("room 101 for two")
    ('21 people', '3/4 of it', 'room 101 for two')
    >>> in_digits("an hour and a half"), in_digits("half a foot"), in_digits("a hundred")
    ('1 1/2 hour', '1/2 foot', 'a 100')
    """
    if not any(map(str.isdigit, text)):
        text = _HALF_OF.sub("1/2 ", _AND_A_HALF.sub(_as_mixed, _ROUND.sub("1 ", text)))
        text = _PART.sub(_as_part, _IN_WORDS.sub(lambda match: str(_count(match[0])), text))
    text = _CHANCE.sub(lambda match: f"{match[1] or 1}/{match[2] or match[3]}", text)
    text = _HOURS.sub(r"\1 h \2 min", _OVER.sub("/", text))
    return _BELOW_ZERO.sub(lambda match: f"-{match[1]}{match[2]}", _MINUS.sub("-", text))


def _count(words: str) -> int:
    """
    >>> _count("two thousand three hundred and forty-five")
    2345
    """
    total = group = 0
    for word in re.findall(r"[a-z]+", words.casefold()):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word in ("thousand", "million"):
            total, group = total + max(group, 1) * _LARGE[word], 0
        else:
            group += _WORDS.get(word, 0)
    return total + group


def _as_mixed(match: re.Match[str]) -> str:
    """`an hour and a half`; in `two and a half` the first word is a number."""
    count = 1 if match[1].casefold() in ("a", "an") else _WORDS.get(match[1].casefold())
    return match[0] if count is None else f"{count} 1/2 {match[2]}"


def _as_part(match: re.Match[str]) -> str:
    if not match[3]:
        return "1/2"
    count = match[2] if match[2].isdigit() else "1"
    return f"{match[1] + ' ' if match[1] else ''}{count}/{_PARTS[match[3].casefold()]}"
