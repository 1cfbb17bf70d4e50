"""Which of a sentence's quantities it states as its answer.

A person takes the number that an answer begins with; else the last one that isn't an adjunct ("in 2 months", "for 60
people", "to travel 300 miles"). Alternatives, ranges, bounds and denials state none.
"""

from __future__ import annotations

import re

from .number_words import in_digits
from .quantities import Quantity, quantities

_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|well|then|and|the|an?|it|its|it's|this|that|is|was|are|were|be|would|must|will|"
    r"definitely|probably|exactly|only|just|simply|about|approximately|approx\.?|roughly|around|of course|we|get|have|"
    r"they|there|she|he|you|has|total|of|equals?|equal|to|answer|correct|final|maybe|perhaps|i|think|guess|believe|"
    r"say|my|actually|at|in|on)\b|[\s:=≈~,(])*",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|incorrect|wrong|impossible|except|nothing|anything but|other than)\b|n't\b|≠",
    re.IGNORECASE,
)
_TAG = re.compile(r",\s\w{2,6}n't\s(?:it|he|she|they|we|you|there)\?$", re.IGNORECASE)
_CORRECTED = re.compile(
    r"\bnot\b[^,;.]{1,80}?(?:\bbut(?: rather)?\b|[,;.]\s?(?:but|it's|it is|rather|instead)\b)", re.IGNORECASE
)
_CONTRAST = re.compile(
    r"(?<=\w)[)\s]?[,;]?\s?\(?(?:(?:and|but)\s)?\b(?:not|rather than|instead of|as opposed to)\b.*", re.IGNORECASE
)
_REASON = re.compile(r"[,;(]?\s?\b(?:because|since|given that|as (?=it|they|the|this|he|she|\d))\b", re.IGNORECASE)
_CONCLUSION = re.compile(
    r"\b(?:so|therefore|thus|hence|(?:which|that) (?:is|equals|means|gives|makes)|resulting in|"
    r"(?<!after )(?<!before )(?<!by )(?:giving|making|leaving)|"
    r"for a total of|equals|in total is|comes to|adds up to|totals)\b",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"\b(?:so|therefore|thus|hence|(?:which|that) (?:is|equals|makes|gives))\b(?=[^\d]{0,60}\d)", re.IGNORECASE
)
_OPEN_ENDED = re.compile(
    r"\s?or (?:more|less|fewer|greater|higher|above|below|over|under|later|earlier)\b", re.IGNORECASE
)
_LABELLED = re.compile(
    r"(?:\s\w+){0,2}\s(?:(?:more|less|fewer|older|younger|taller|shorter|higher|lower|greater|smaller|larger) than|"
    r"in total|altogether|each|per)\b",
    re.IGNORECASE,
)
_PURPOSE = re.compile(
    r"(?<=\w)\s(?:to (?!get|make|reach|obtain|give|find|be|yield|about|the|a)[a-z]{2,}|(?:after|before) [a-z]+ing)\b.*",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:\b(?:less|fewer|more|greater|larger|smaller|higher|lower) than|\b(?:over|under|above|below|beyond))\s"
    r"(?=[-$€£¥₹.]?\d)",
    re.IGNORECASE,
)
_ADJUNCT = re.compile(
    r"\b(?:in|for|of|after|per|from|by|at|every|each|with|within|than|to|on|between|during|until|since|before|the|these|"
    r"those|all|both|his|her|their|its|step|day|week|question|problem|part|number|chapter|equation|out of|through)\s$",
    re.IGNORECASE,
)
_NO_ADJUNCT = re.compile(
    r"\b(?:(?:total|sum|average|number|value|price|cost|amount|result|product|maximum|minimum|rate|speed|area|length|"
    r"perimeter|volume|distance|profit|age|difference|probability|quotient|mean|median|consists?) of"
    r"|(?:comes|equal|equals|amounts|adds up|up|simplifies|evaluates|rounds|reduces) to)\s$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"(?:[,;&/]|\band\b|\bor\b)\s?(?:(?:about|also|maybe|perhaps|possibly|even|an?|i\.e\.)\s)?$")
_RESTATED = re.compile(r"\(\s?(?:or|i\.e\.,?|that is,?|=|≈|about)?\s?$|[=≈]\s?$")
_RANGE = re.compile(r"\s?(?:-|:|to|\.\.|…|and)\s?")
_FORMAL = re.compile(r"[\\^_√π∞{}∪∩<>≤≥±|]|\b(?:pi|sqrt|infinity|x|y|z|n)\b|(?<=\d)[A-Za-z]{1,2}\b|(?<=\d)\(")
_OPERATION = re.compile(r"\s?[-+*×/^x]\s?\(?|\(|\s?")


def stated_quantities(phrase: str) -> list[Quantity] | None:
    """What a cleaned phrase states, in each way that it puts it: `75% (3/4)`. None if it is a formula.

    >>> [str(q.value) for q in stated_quantities("She sold 72 clips in 2 months") or ()]
    ['72']
    >>> [str(q.value) for q in stated_quantities("75% (3/4)") or ()]
    ['75', '3/4']
    >>> stated_quantities("5 or 6"), stated_quantities("it isn't 5"), stated_quantities("2x + 1")
    ([], [], None)
    """
    phrase = in_digits(claim(phrase))
    found = quantities(phrase)
    if found and is_formula(phrase, found):
        return None
    if _NEGATED.search(phrase):
        return []
    if (
        found
        and not _LATER.search(phrase, found[0].end)
        and found[0].start == _led(phrase)
        and not re.search(r"\bthe\s$", phrase[: found[0].start], re.IGNORECASE)
        and not (len(found) > 1 and re.search(r"\b(?:in|at|on)\s$", phrase[: found[0].start], re.IGNORECASE))
    ):
        return _restated(phrase, found, 0)
    phrase = _conclusion(phrase)
    found = quantities(phrase)
    chosen = _main(phrase, found)
    if chosen is None or (chosen > 0 and _alternative(phrase, found[chosen - 1], found[chosen])):
        return []
    return _restated(phrase, found, chosen)


def claim(phrase: str) -> str:
    """The phrase without its reasons and without what it denies next to what it claims.

    >>> claim("5, not 6"), claim("not 5 but 6"), claim("B because it is")
    ('5', ' 6', 'B')
    """
    phrase = _CORRECTED.sub("", _TAG.sub("", phrase))
    for aside in (_REASON, _CONTRAST):
        found = aside.search(phrase)
        if found and re.search(r"\w", phrase[: found.start()]):
            phrase = phrase[: found.start()].rstrip(" (,;")
    return phrase


def denies(phrase: str) -> bool:
    """Whether something is denied in it."""
    return bool(_NEGATED.search(phrase))


def is_formula(phrase: str, found: list[Quantity]) -> bool:
    """Letters or operators make more of the numbers than quantities."""
    rest, end = [], 0
    for one in found:
        gap = phrase[end : one.start]
        signed = phrase[one.start] in "+-"
        operation = bool(_OPERATION.fullmatch(gap)) and not _RANGE.fullmatch(gap) and bool(gap.strip() or signed)
        if end and operation:
            return True
        rest.append(gap)
        end = one.end
    return bool(_FORMAL.search("0".join([*rest, phrase[end:]])))


def stated_range(phrase: str) -> tuple[Quantity, Quantity] | None:
    """`5-10`, `5 to 10`, `between 5 and 10`; None if the phrase is anything else.

    >>> ends = stated_range("between 5 and 10 years")
    >>> ends and [str(end.value) for end in ends]
    ['5', '10']
    """
    found = quantities(phrase)
    if len(found) != 2 or not (gap := phrase[found[0].end : found[1].start]).strip() or not _RANGE.fullmatch(gap):
        return None
    between = re.search(r"\b(?:between|from)\s$", phrase[: found[0].start], re.IGNORECASE)
    return (found[0], found[1]) if between or gap.strip() != "and" else None


def _led(phrase: str) -> int:
    match = _LEAD.match(phrase)
    return match.end() if match else 0


def _conclusion(phrase: str) -> str:
    """The last clause that concludes with a number, without the purpose it serves; bounds are no values."""
    parts = [part for part in _CONCLUSION.split(phrase) if any(map(str.isdigit, part))]
    last = parts[-1] if parts else phrase
    purpose = _PURPOSE.search(last)
    if purpose and any(map(str.isdigit, last[: purpose.start()])):
        last = last[: purpose.start()]
    return _BOUND.sub("\0", last)


def _main(phrase: str, found: list[Quantity]) -> int | None:
    """The last quantity that is no adjunct; the last one if all are."""
    stated = [i for i, one in enumerate(found) if phrase[one.start - 1 : one.start] != "\0"]
    main = [i for i in stated if not _is_adjunct(phrase, found[i])]
    return next(reversed(main or stated), None)


def _is_adjunct(phrase: str, one: Quantity) -> bool:
    before = phrase[max(0, one.start - 40) : one.start]
    if re.match(r"\s\w+ than\b", phrase[one.end :]):
        return True
    return bool(_ADJUNCT.search(before)) and not _NO_ADJUNCT.search(before)


def _alternative(phrase: str, before: Quantity, after: Quantity) -> bool:
    """`5 or 6`, `5 and 6`, `5 to 6`: neither is stated alone, unless they are the same."""
    gap = re.sub(r"^[\s-]?[^\W\d_]{2,}(?=\s?(?:or|and|,|to)\b)", "", phrase[before.end : after.start])
    if _LABELLED.match(phrase, after.end) and not re.search(r"\bor\s?$", gap):
        return False
    joined = (
        not gap.strip() or bool(_RANGE.fullmatch(gap)) or (bool(_ALTERNATIVE.search(gap)) and len(gap.split()) <= 4)
    )
    return joined and (before.base != after.base or not gap.strip())


def _restated(phrase: str, found: list[Quantity], first: int) -> list[Quantity]:
    """The quantity and its restatements; [] if what follows is another alternative."""
    stated = [found[first]]
    if _OPEN_ENDED.match(phrase, found[first].end):
        return []
    for after in found[first + 1 :]:
        gap = phrase[stated[-1].end : after.start]
        equal = bool(gap.strip()) and (after.base == stated[0].base or after.value == stated[0].value)
        if equal and (_RESTATED.search(gap) or _ALTERNATIVE.search(gap)):
            stated.append(after)
            continue
        if re.search(r"\(\s?or\s?$", gap) or (not _RESTATED.search(gap) and _alternative(phrase, stated[-1], after)):
            return []
        break
    return stated
