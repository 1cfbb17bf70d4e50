"""Units of measurement and currency: their names, dimensions and factors."""

from __future__ import annotations

import re
from fractions import Fraction

_TABLE = """
percent 1/100 % percent percentage pct
length 1/1000 mm millimeter millimetre
length 1/100 cm centimeter centimetre
length 1 m meter metre
length 1000 km kilometer kilometre
length 0.0254 in inch inches '' "
length 0.3048 ft foot feet '
length 0.9144 yd yard
length 1609.344 mi mile
mass 1/1000 mg milligram
mass 1 g gram
mass 1000 kg kilogram kilo
mass 1000000 t tonne
mass 28.349523125 oz ounce
mass 453.59237 lb
pound 453.59237 pound
mass 907184.74 ton
time 1/1000 ms millisecond
time 1 s sec second
time 60 min minute
time 3600 h hr hour
time 86400 day
time 604800 week
clock 1 o'clock
months 1 month
months 12 year yr
months 120 decade
months 1200 century centuries
length^3 1/1000000 ml cc milliliter millilitre
length^3 1/100000 cl
length^3 1/10000 dl
length^3 1/1000 l liter litre
cups 1 cup
cups 2 pint
cups 4 quart
cups 16 gallon gal
dollar 1 $ dollar usd buck
dollar 1/100 cent ¢
euro 1 € euro eur
sterling 1 £ gbp
sterling 1/100 pence penny
yen 1 ¥ yen jpy
rupee 1 ₹ rupee inr
angle 1 ° degree deg
celsius 1 °c celsius
fahrenheit 1 °f fahrenheit
era 1 ad ce
era -1 bc bce
energy 1 j joule
energy 1000 kj kilojoule
power 1 w watt
power 1000 kw kilowatt
force 1 n newton
voltage 1 v volt
current 1 ampere amp
current 1/1000 ma milliampere milliamp
resistance 1 ω ohm
resistance 1000 kω
amount 1 mol mole
frequency 1 hz hertz
frequency 1000 khz
frequency 1000000 mhz
bytes 1 byte
bytes 1000 kb
bytes 1000000 mb
bytes 1000000000 gb
speed 1397/3125 mph
temperature 1 k kelvin
speed 5/18 kph kmh
"""
"""Dimension, factor to its base unit, names; a plural s may follow any name."""

Unit = tuple[str, Fraction]
"""Dimension, and how many of its base units this one is."""

NAMES: dict[str, Unit] = {
    name: (row[0], Fraction(row[1])) for row in map(str.split, _TABLE.split("\n")[1:-1]) for name in row[2:]
}
_ONE = "|".join(map(re.escape, sorted(NAMES, key=len, reverse=True)))
NAMES["a"] = NAMES["ampere"]  # written large: else it is an article
_UNIT = re.compile(
    rf"(?:\sof\s(?:an?|one)\s|\s?-?\s?)(?:(?P<prefix>square|sq\.?|cubic|cu\.?)\s)?"
    rf"(?P<name>{_ONE}|(?-i:A)(?!\.))s?\.?(?![^\W\d_])"
    rf"(?:(?:\^[({{]?|(?<=m))(?P<power>[23])[)}}]?(?![\d.])|\s(?P<word>squared|cubed)\b)?"
    rf"(?:\s?(?:/|per|an?)\s?(?:(?P<area>square|cubic)\s)?(?P<per>{_ONE})s?(?![^\W\d_])"
    r"(?:\^[({]?(?P<below>[23])[)}]?(?![\d.])|\s(?P<squared>squared)\b)?)?",
    re.IGNORECASE,
)
_QUOTES = ("'", '"')


def unit_at(text: str, start: int) -> tuple[Unit | None, int]:
    """The unit that follows, and where it ends; `in` counts as inches only where nothing follows."""
    match = _UNIT.match(text, start)
    if match and match["name"] in _QUOTES and text.count(match["name"]) % 2 == 0:
        return None, start
    if not match or (match["name"].casefold() == "in" and not match["power"] and text[match.end() :].strip(" .,;)")):
        return None, start
    dimension, factor = NAMES[match["name"].casefold()]
    power = _power(match["power"], match["prefix"] or match["word"])
    per = NAMES[match["per"].casefold()] if match["per"] else None
    if per:
        below = _power(match["below"], match["area"] or match["squared"])
        dimension = f"{dimension}/{per[0]}" + (f"^{below}" if below > 1 else "")
        factor /= per[1] ** below
    if dimension in ("length/time", "speed"):
        return ("speed", factor), match.end()
    return (dimension if power == 1 else f"{dimension}^{power}", factor**power), match.end()


def _power(digit: str | None, word: str | None) -> int:
    """2 for `square` and `squared`, 3 for `cubic` and `cubed`."""
    return int(digit or (1 if not word else 2 if word.casefold().startswith("s") else 3))
