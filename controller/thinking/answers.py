"""Finds the answer that a text states. Graders and the agreement of trial answers read it the same way.

Every reading is linear in the text and sees at most its last `LONGEST` characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .markers import Markers

LONGEST = 1 << 16
"""Characters that are read, from the end: an answer that is followed by more than this is not found."""

_CUE = re.compile(
    r"<answer>|\b(?:answer|ans)\b[*_`\"']{0,4}\s{0,4}"
    r"(?::|=|[-–—](?=\s)|\b(?:is|was|would\ be|should\ be|must\ be|equals)\b(?!n['’]t)|"
    r"\b(?:to|for|of)\b[^\n]{0,300}?\bis\b)",
    re.IGNORECASE,
)
_SOUGHT = re.compile(
    r"\b(?:find|get|check|verify|compute|reach|know|need|want|calculate|determine|see|if|whether)"
    r"(?: (?:the|an|our|my|your|that|this|final|correct|right)){0,3} $",
    re.IGNORECASE,
)
_GSM8K = re.compile(r"^[ \t]*####[ \t]*(?=\S)|(?<=\S)[ \t]####[ \t]*(?=\S)", re.MULTILINE)
_VALUE = re.compile(r"[-+$€£.(\\*\d]")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")
_BETWEEN_BOXES = re.compile(r"(?:\s|[,;&$=]|\\[a-z]{1,5}|[{}]|\b(?:and|or|[a-z])\b){0,24}", re.IGNORECASE)
_SUBSTANCE = re.compile(r"[^\W_]|[∞∅√π]")
_SENTENCE_END = re.compile(r"[.!?]+[*_`\"'”’)\]$]{0,4}\s+(?=\S)")
_ABBREVIATED = re.compile(
    r"(?:^|[\s(.*_`\"'])(?:[A-Z]|mr|mrs|ms|dr|st|mt|ft|vs|approx|no|jr|sr|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|prof|fig|eq|ca|etc|e\.g|i\.e|[ap]\.m)$",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"\b(?:hope|let me know|feel free|helps?|thanks?|thank you|any questions?|enjoy|good luck|cheers|welcome|"
    r"glad|happy to|would you like|great (?:job|work|question)|well done|have a|makes? sense|"
    r"that'?s (?:it|all)|and done|all done|qed|easy|voil[aà])\b|^\s*(?:right|ok|okay|correct|see|got it)\?",
    re.IGNORECASE,
)
_TURN = re.compile(r"\b(?:wait|actually|but|however|wrong|correction|instead|rather|hmm|no,)\b", re.IGNORECASE)
_TRUTH = re.compile(r"\W*(?:yes|no|true|false)\W*", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"(?:sure|okay|ok|certainly|great|first|firstly|step|well|solution|explanation|given|alright|absolutely|hello|hi|"
    r"let|next|now|consider|note|hmm|right|of course|here|the|we|so)\b",
    re.IGNORECASE,
)
_TRUTH_FIRST = re.compile(r"\W{0,8}(?:yes|no|true|false)\s{0,4}[,;:.–—]", re.IGNORECASE)
"""What comes next is a reason."""
_REASON = re.compile(
    r"(?:because|since|it|its|it's|this|that|as|the|explanation|reason|reasoning|here|they|he|she|we)\b", re.IGNORECASE
)
_BECAUSE = re.compile(r"[,;(]?\s{0,4}\b(?:because|since)\b", re.IGNORECASE)
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)")
_FIELD = re.compile(r"\s*\"?([^\"{}]{1,200}?)\"?\s*(?:,\s*\"[^\n]*)?\}")  # of a JSON object
_SEVERAL = re.compile(r"[,;]|\b(?:and|or)\b")
_LETTER = re.compile(r"\W{0,4}[A-J]\W{0,4}")
_POSTSCRIPT = re.compile(
    r"\W{0,4}(?:p\.?\s?s|best regards|kind regards|regards|sincerely|note|check|verification|confidence)\b\W{0,4}[:.,]",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"\s{0,8}(?:[-*•]|(\d{1,2})[.)])\s{1,8}([^\s=:.]+(?:\s[^\s=:.]+){0,3})[.,;]?\s*")
_DECORATION = "*_` \t"


def after_thinking(text: str, markers: Markers | None) -> str:
    """The text after the last closing marker.

    It is empty if thinking never closed, and the whole text if there are no markers.

    >>> after_thinking("1 + 1 = 2</think> 2. ", Markers("<think>", "</think>"))
    '2.'
    """
    if markers is None:
        return text.strip()
    _, closed, answer = text.rpartition(markers.close)
    return answer.strip() if closed else ""


def stated_answer(text: str) -> str:
    r"""The answer that a text ends with, as it stands there; the last side of an equation.

    >>> stated_answer("So 3. The answer is 74."), stated_answer(r"= \boxed{\frac{1}{2}} done"), stated_answer("")
    ('74', '\\frac{1}{2}', '')
    >>> stated_answer("First,\n15 - 3 = **12**."), stated_answer("x =")
    ('12', 'x =')
    >>> stated_answer("The final answer to the problem 7 - 4 + 2 is 5."), stated_answer("No; 91 = 7 * 13.")
    ('5', 'No; 91 = 7 * 13')
    """
    boxed, stated = _stated(text)
    return stated if boxed or _TRUTH_FIRST.match(stated) else last_side(stated)


def statement(text: str) -> str:
    r"""`stated_answer` with all sides of an equation.

    The first of these that exists:

    1. the last \boxed{...}, unless a later statement gives a value;
    2. the last "answer is ..." or "#### ...", up to the end of its sentence;
    3. a short first sentence that the rest explains;
    4. the last sentence that is more than a courtesy.

    >>> statement("So **540** meters.\n\nHope this helps!"), statement("Paris. It is the capital."), statement("x = 5.")
    ('So **540** meters', 'Paris', 'x = 5')
    """
    return _stated(text)[1]


def last_side(text: str) -> str:
    """What an equation comes to.

    >>> last_side("2 + 2 = 4"), last_side("x = 2 or x = -2"), last_side("x >= 3")
    ('4', 'x = 2 or x = -2', 'x >= 3')
    """
    sides = _EQUALS.split(text)
    whole = not sides[-1].strip(_DECORATION + "$.") or any(map(_SEVERAL.search, sides[1:-1]))
    return _plain(text if whole else sides[-1])


def _stated(text: str) -> tuple[bool, str]:
    """(whether it is from a box, what is stated)."""
    text = text[-LONGEST:]
    at, stated = _statement(text)
    boxed_at, boxed = _boxes(text)
    if boxed and (boxed_at > at or not any(map(str.isdigit, stated))):
        return True, boxed
    return False, stated or _plain(_conclusion(text))


def _statement(text: str) -> tuple[int, str]:
    """(where the last statement of an answer begins, what it states); (-1, '') if there is none."""
    found = [
        match.end()
        for match in _CUE.finditer(text)
        if not _SOUGHT.search(text, max(0, match.start() - 60), match.start())
    ]
    last_line = text.rstrip().rfind("\n")
    # `#### 5` states 5; `#### Step 2` with more lines after it is a heading.
    values = [
        match.end() for match in _GSM8K.finditer(text) if _VALUE.match(text, match.end()) or match.end() > last_line
    ]
    for start in sorted(found + values, reverse=True)[:8]:
        for line in _entries(list(_lines(text[start:].lstrip(":= \t")))):
            stated = _plain(next(_sentences(line)))
            if stated and not stated.endswith(":"):
                return start, stated
    return -1, ""


def _boxes(text: str) -> tuple[int, str]:
    """(where the last box begins, what it holds). Boxes with only `and`, `or` or a comma between are one answer."""
    found = [(match.start(), match.end(), _closing(text, match.end())) for match in list(_BOXED.finditer(text))[-8:]]
    found = [box for box in found if text[box[1] : box[2]].strip()]
    if not found:
        return -1, ""
    first = last = len(found) - 1
    while (
        first
        and found[first - 1][2] < found[first][0]
        and _BETWEEN_BOXES.fullmatch(text, found[first - 1][2] + 1, found[first][0])
    ):
        first -= 1
    start, inside, end = found[first]
    return start, (text[inside:end] if first == last else text[start : found[last][2] + 1]).strip()


def _closing(text: str, start: int) -> int:
    """Where the brace that opened before `start` closes; the end of the text if it never does."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.start()
    return len(text)


def _conclusion(text: str) -> str:
    lines = _entries(list(_lines(text)))
    if not lines:
        return ""
    lines = lines[: next((i for i, line in enumerate(lines) if i and _POSTSCRIPT.match(line)), None)]
    lead, *rest = _sentences(lines[0])
    if len(lines) > 1 and _is_explained_below(lines):
        return lead
    if len(lines) == 1 and rest and _is_explained(lead, rest[0]):
        return lead
    for line in reversed(lines):
        for sentence in reversed(list(_sentences(line))):
            if any(map(str.isdigit, sentence)) or not _is_courtesy(sentence):
                return sentence
    return lines[-1]


def _is_explained_below(lines: list[str]) -> bool:
    """Whether the first line is an option and the rest, in sentences, is about the options."""
    rest = " ".join(lines[1:])
    return bool(_LETTER.fullmatch(lines[0])) and len(lines[-1].split()) > 3 and not _TURN.search(rest)


def _is_explained(lead: str, rest: str) -> bool:
    """Whether the first sentence answers and the rest explains it, as in `Paris. It is the capital.`"""
    if _TRUTH.fullmatch(lead):
        return not _TURN.search(rest)
    words = lead.split()
    named = len(words) == 1 or (len(words) <= 3 and all(word[0].isupper() or word[0].isdigit() for word in words))
    return (
        named
        and not lead.rstrip().endswith("?")
        and not _NO_ANSWER.match(lead)
        and bool(_REASON.match(rest))
        and not _TURN.search(rest)
    )


def _is_courtesy(sentence: str) -> bool:
    return bool(_COURTESY.search(sentence)) or (sentence.rstrip().endswith("?") and len(sentence.split()) > 3)


def _lines(text: str) -> Iterator[str]:
    """The lines that say something: white space, rules and bare math delimiters don't."""
    return (line for line in text.splitlines() if _SUBSTANCE.search(line))


def _entries(lines: list[str]) -> list[str]:
    """The lines, with bullets that hold no more than a few words as the one list that they are.

    >>> _entries(["They are:", "- red", "- dark green", "Enjoy!"]), _entries(["1. 7", "2. 9"]), _entries(["- red"])
    (['They are:', 'red, dark green', 'Enjoy!'], ['7, 9'], ['- red'])
    """
    made: list[str] = []
    entries: list[re.Match[str]] = []
    for line in [*lines, ""]:
        entry = _ENTRY.fullmatch(line)
        if entry and (not entry[1] or int(entry[1]) == len(entries) + 1):
            entries.append(entry)
            continue
        made.extend([", ".join(one[2] for one in entries)] if len(entries) > 1 else [one[0] for one in entries])
        made.append(line)
        entries = []
    return made[:-1]


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(line):
        if not (line[end.start()] == "." and _ABBREVIATED.search(line, max(start, end.start() - 8), end.start())):
            if _SUBSTANCE.search(line, start, end.end()):
                yield line[start : end.end()]
            start = end.end()
    if not start or _SUBSTANCE.search(line, start):
        yield line[start:]


def _plain(text: str) -> str:
    """The statement without its reason and without typesetting; a currency stays.

    >>> _plain("**$x = 4$.**"), _plain("B, because x = 3"), _plain("$0.50.")
    ('x = 4', 'B', '$0.50')
    """
    claim = _BECAUSE.split(text.partition("</answer>")[0], maxsplit=1)[0]
    text = claim if claim.strip(_DECORATION + "$") else text
    field = _FIELD.match(text) if text.count("}") > text.count("{") else None
    text = field[1] if field else text
    text = text.strip().strip(_DECORATION).rstrip(".").strip(_DECORATION)
    closed = text.endswith("$") or not re.match(r"\$\s?[-.\d]", text)
    return text.strip("$").strip(_DECORATION) if closed else text
