"""Whether a sentence names some words as its answer."""

from __future__ import annotations

import re

from .statements import claim, denies
from .typesetting import without_marks, words

_COPULA = re.compile(r"\b(?:is|are|was|were|be|equals|called|named|by|es|est|ist|è|é)\s", re.IGNORECASE)
_AFTER_PREPOSITION = re.compile(
    r"\b(?:by|in|on|from|at|to|with|called|named|as|the|an?|facing|towards?|into|says|reads|becomes|remains|choose|get|:)\s$",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"\s?[,;:(]|\s-\s|\s(?:by|is|are|was|were|has|have|had|did|does|can|will|which|who|that|because|since|as|won|wrote|made|"
    r"built|led|gave|became|took|began|ran|sang|[a-z]+ed)\b"
)
_MANNER = re.compile(r"(?:.* )?in (.+) (?:direction|manner|way|order|fashion)")
_SURNAME_FIRST = re.compile(r"([A-Z][\w'-]+), ([A-Z][\w'-]+)")
_SYMBOL = re.compile(r"\((?=\w*\d|[A-Z]*[A-Z]{2})([A-Z]\w{0,7})\)\W*$")  # carbon dioxide (CO2)
_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_LEADING_WORDS = (
    "so thus therefore hence well then and it its this that is was are were be would must will answer correct final "
    "definitely probably of course maybe perhaps i think believe guess say my actually "
    "sir mr mrs ms dr doctor professor president "
    "city country state town planet word name number"
)
_LEADING = frozenset(_LEADING_WORDS.split())


def names(gold: str, answer: str) -> bool:
    """The same words, alone or as what a sentence is about or says of it; what it denies or leaves open is not said."""
    claimed = claim(answer)
    wanted, said = words(gold), words(claimed)
    if _same_words(wanted, said) or _same_words(wanted, words(answer)):
        return True
    if not wanted or denies(claimed) or re.search(r"\b(?:or|either|but)\b|\?", claimed, re.IGNORECASE):
        return False
    manner = _MANNER.fullmatch(said)
    leading = (manner[1] if manner else said).split()
    while leading and leading[0] in _LEADING:
        leading.pop(0)
    if _same_words(wanted, " ".join(leading)):
        return True
    turned = _SURNAME_FIRST.fullmatch(claimed.strip(" ."))
    if turned and _same_words(wanted, words(f"{turned[2]} {turned[1]}")):
        return True
    symbol = _SYMBOL.search(claimed)
    if symbol and _same_words(wanted, words(symbol[1])):
        return True
    return any(_same_words(wanted, words(part)) for part in _complements(claimed, gold))


def _complements(sentence: str, gold: str) -> list[str]:
    """What a sentence names: its subject, if it is the gold answer; what follows its last copula or preposition."""
    last = list(_COPULA.finditer(sentence))
    tail = sentence[last[-1].end() :] if last else sentence
    named = [tail, re.split(r"[,;:(]| (?:which|who|where|with|as|in|on|that)\b", tail)[0]]
    at = sentence.casefold().rfind(gold.casefold())
    if at >= 0:
        rest = sentence[at + len(gold) :].lstrip("\"'*_")
        if not re.search(r"\w", sentence[:at]) and _PREDICATE.match(rest):
            named.append(gold)
        if not re.search(r"\w", rest) and _AFTER_PREPOSITION.search(sentence[:at]):
            named.append(gold)
    return named


def _same_words(gold: str, said: str) -> bool:
    """Marks on letters may be left out altogether, or written as Germans do."""
    plain = (without_marks(gold), without_marks(gold.translate(_GERMAN)))
    return bool(gold) and (gold == said or (said.isascii() and said in plain))
