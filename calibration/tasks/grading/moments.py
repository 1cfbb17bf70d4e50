"""Dates and times of day as people write them."""

from __future__ import annotations

import re

_MONTHS = "january february march april may june july august september october november december"
_MONTH = {name[:3]: number for number, name in enumerate(re.split(" ", _MONTHS), start=1)}
_NAME = r"(?P<{0}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)(?:[a-z]{{0,6}})\.?"
_DATE = re.compile(
    r"\b(?P<y1>\d{4})[-/.](?P<m1>\d{1,2})[-/.](?P<d1>\d{1,2})\b"
    r"|\b(?P<m2>\d{1,2})[/-](?P<d2>\d{1,2})[/-](?P<y2>\d{4})\b"
    r"|\b(?P<d5>\d{1,2})\.\s?(?P<m5>\d{1,2})\.\s?(?P<y5>\d{4})\b"
    rf"|\b{_NAME.format('n3')}\s(?:the\s)?(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)(?:(?:,|\sof)?\s?(?P<y3>\d{{4}})\b)?"
    rf"|\b(?P<d4>\d{{1,2}})(?:st|nd|rd|th)?\s(?:day\s)?(?:of\s)?{_NAME.format('n4')}(?:,?\s(?P<y4>\d{{4}})\b)?",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b(?P<hour>\d{1,2})(?::|\.(?=\d\d\s?[ap]\.?\s?m\b))(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])(?:\s?(?P<half>[ap])\.?\s?m\b\.?)?"
    r"|\b(?P<hour2>\d{1,2})\s?(?:(?P<half2>[ap])\.?\s?m\b\.?|o'clock\b)|\b(?P<word>noon|midday|midnight)\b",
    re.IGNORECASE,
)
_UNITS = "first second third fourth fifth sixth seventh eighth ninth"
_TEENS = "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
_ORDINALS = {name: day for day, name in enumerate(re.split(" ", f"{_UNITS} {_TEENS}"), start=1)}
_ORDINALS |= {f"twenty-{name}": 20 + _ORDINALS[name] for name in re.split(" ", _UNITS)}
_ORDINALS |= {"thirtieth": 30, "thirty-first": 31}
_ORDINAL = re.compile(rf"\b(?:{'|'.join(sorted(_ORDINALS, key=len, reverse=True))})\b", re.IGNORECASE)
_HOURS = re.split(" ", "one two three four five six seven eight nine ten eleven twelve")
_MINUTES = {"half": 30, "quarter": 15, "five": 5, "ten": 10, "twenty": 20, "twenty-five": 25}
_PAST = re.compile(
    rf"\b((?:{'|'.join(sorted(_MINUTES, reverse=True))}) (?:past|to)) (\d{{1,2}}|{'|'.join(_HOURS)})\b", re.IGNORECASE
)
_WEEKDAY = re.compile(r"\b(?:mon|tues?|wed(?:nes)?|thur?s?|fri|satur|sat|sun)(?:day)?\b,?", re.IGNORECASE)

Date = tuple[int | None, int, int]
"""Year, None if it isn't said; month; day."""


def dates(text: str) -> list[Date]:
    """The dates in a cleaned text; of 3/5/2024 the month comes first if it can, of 5.3.2024 the day.

    >>> dates("on Tuesday, March 5th, 2024"), dates("2024-03-05"), dates("5 of March"), dates("13/05/2024")
    ([(2024, 3, 5)], [(2024, 3, 5)], [(None, 3, 5)], [(2024, 5, 13)])
    """
    found: list[Date] = []
    for match in _DATE.finditer(_ORDINAL.sub(lambda word: str(_ORDINALS[word[0].casefold()]), text)):
        part = {name[0]: value for name, value in match.groupdict().items() if value}
        month = _MONTH[part["n"][:3].casefold()] if "n" in part else int(part["m"])
        day = int(part["d"])
        if month > 12 and match["m2"]:
            month, day = day, month
        if 1 <= month <= 12 and 1 <= day <= 31:
            found.append((int(part["y"]) if "y" in part else None, month, day))
    return found


def is_date(text: str) -> bool:
    """Nothing but one date, whose weekday may be named."""
    rest = _WEEKDAY.sub("", _DATE.sub("", text, count=1)).strip(" .,")
    return bool(dates(text)) and rest.casefold() in ("", "the", "on", "on the")


def same_date(gold: Date, answer: Date) -> bool:
    """A year that the gold answer doesn't name is free."""
    return gold[1:] == answer[1:] and gold[0] in (None, answer[0])


def times(text: str) -> list[frozenset[int]]:
    """The times of day in a cleaned text, each as the seconds since midnight that it can mean.

    >>> [sorted(time) for time in times("12:30, 3 p.m., noon, 15:30")]
    [[1800, 45000], [54000], [43200], [55800]]
    """
    found = []
    text = _PAST.sub(_on_the_clock, text)
    if re.fullmatch(r"\d{1,2}\.[0-5]\d", text):
        text = text.replace(".", ":")
    for match in _TIME.finditer(text):
        if match["word"]:
            found.append(frozenset({0 if match["word"].casefold() == "midnight" else 43200}))
            continue
        hour, half = int(match["hour"] or match["hour2"]), (match["half"] or match["half2"] or "").casefold()
        if hour > 24 or (half and hour > 12):
            continue
        seconds = 60 * int(match["minute"] or 0) + int(match["second"] or 0)
        if half:
            found.append(frozenset({3600 * (hour % 12 + 12 * (half == "p")) + seconds}))
        else:
            hours = {hour % 12, hour % 12 + 12} if 1 <= hour <= 12 else {hour % 24}
            found.append(frozenset(3600 * one + seconds for one in hours))
    return found


def _on_the_clock(match: re.Match[str]) -> str:
    hour = int(match[2]) if match[2].isdigit() else _HOURS.index(match[2].casefold()) + 1
    minute, side = match[1].casefold().split()
    if side == "past":
        return f"{hour}:{_MINUTES[minute]:02}"
    return f"{(hour - 2) % 12 + 1}:{60 - _MINUTES[minute]}"


def is_time(text: str) -> bool:
    """Nothing but one time of day."""
    return bool(times(text)) and _TIME.sub("", text, count=1).strip(" .,").casefold() in ("", "at")
