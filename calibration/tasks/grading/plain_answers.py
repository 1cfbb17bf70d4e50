"""Whether an answer says what the gold answer says, as a person would read both; mathematics is left to others.

The gold answer's kind decides how the answer is read: option, yes or no, date, time of day, ratio, range, list,
quantity, words. Everything is linear in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reasonctl.controller.thinking import last_side, stated_answer

from .brackets import parts_of, same_brackets
from .mathematics import is_mathematical
from .moments import dates, is_date, is_time, same_date, times
from .number_words import in_digits
from .quantities import Quantity, quantities, same
from .statements import claim, denies, is_formula, stated_quantities, stated_range
from .typesetting import clean, words
from .word_answers import names

LONGEST = 2000
"""Characters up to which an answer is read for its meaning; longer ones are compared as texts."""

MOST_UNORDERED = 30
"""Parts of a list in any order that are compared by meaning; longer lists are compared as texts."""

FEWEST_WORDS = 4
"""Words that make a sentence, which is the same answer as another one if they state the same quantity."""

_GSM8K = re.compile(r"####[ \t]*(?=\S)")
_VARIABLE = re.compile(r"^\s*([A-Za-z](?:_\{?\w\}?)?(?:\([a-z]\))?)\s?=\s?(?=[^=]*$)")
_IS = re.compile(r"\b([A-Za-z]) (?:equals|is equal to) ")
_BOTH_SIGNS = re.compile(r"((?:[a-z]\s?=\s?)?)(?:±|\+/-|\+-)\s?([^\s,;]+)", re.IGNORECASE)
_TRUTH = {"yep": True, "yeah": True, "nope": False}
_TRUTH |= {"yes": True, "true": True, "correct": True, "no": False, "false": False}
_TO_WORK_OUT = re.compile(r"[\w)}]\s{0,4}(?:[-+*\u00d7\u00f7\u2212]|\\times|\\cdot|\\div)\s{0,4}[\w({\\]")
"""Two terms with an operation between them. A fraction is a value."""
_SUM = re.compile(r"\d[\d.]{0,40}(?:[-+*\u00d7\u00f7\u2212]\d[\d.]{0,40}){1,200}")
_SPACING = re.compile(r"\s|\\[()\[\],;! ]|\$|\\left|\\right")
_TRUTHS = re.compile(r"\b(?:not (?:true|correct)|untrue|incorrect|yep|yeah|nope|yes|true|no|false)\b", re.IGNORECASE)
_OPTION = re.compile(r"[(\[]?([A-Z])[)\].:]?|[(\[]?([a-z])[)\]]")
_CHOICE = re.compile(
    r"(?:(?:the|so|thus|therefore|hence|correct|best|right|final|answer|option|choice|letter|is|it|it's|my|i|choose|"
    r"pick|would|be|must)\b[\s:=]*)*"
    r"(?:[(\[](?P<in>[A-Za-z])[)\]]|(?P<out>[A-Za-z])(?=[).:,;\-]|$|\s(?:is|because|since|as|\()))(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_WEIGHED = re.compile(
    r"\b(?:so|therefore|thus|hence)\b,?\s((?:the (?:answer|choice) is |it(?:'s| is) )?[(\[]?[A-Z][)\]]?[.!]?)$"
    r"|\b(?:but|while|though)\s((?:option )?[(\[]?[A-Z][)\]]?\s(?:is|fits|works)\s(?:the\s)?"
    r"(?:best|better|correct|right)\b.*)"
)
_OTHER_CHOICE = re.compile(r"^[\s,;&/]*(?:(?:and|or|nor|,|&|/)\s*)+[(\[]?[A-Za-z][)\]]?(?![\w'])", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?:\s?(?:h|hrs?|hours?))?")
_FACTORIAL = re.compile(r"\d{1,2}!")  # or a number with an exclamation mark
_REFUTED = re.compile(
    r"[)\].]?\s(?:is|are|was)\s(?:not|wrong|incorrect|false|too|out)\b|[)\].]?\sisn't\b", re.IGNORECASE
)
_LETTER = re.compile(r"(?<![\w'])(?:[(\[]([A-Z])[)\]]|([B-HJ-Z]|A(?=\s(?:is|was)\b|[).:,]|$)))(?![\w'])")
_CHOICES = re.compile(r"\b[A-Z][)\]]?\s?(?:,|and|or|&|/)\s?[(\[]?[A-Z]\b")
_NOT = re.compile(r"\b(?:not|neither|or)\b|n't\b", re.IGNORECASE)
_TRUTH_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|well|the|answer|is|it|that's|that|statement|indeed)\b[\s,:]*)*", re.IGNORECASE
)
_ALL_TRUTH = re.compile(
    r"(?:(?:that's|that|this|it|it's|the|statement|claim|is|yes|no|most|almost)\b[\s,]*){0,6}"
    r"(?:(?P<yes>correct|right|indeed|absolutely|definitely|certainly|of course|sure)"
    r"|(?:(?:definitely|certainly|absolutely|of course|probably|surely) )?(?P<no>not))[.!]*",
    re.IGNORECASE,
)
_TRUTH_OR = re.compile(r"\s?(?:and|or|/)\s?(?:yes|no|true|false)\b", re.IGNORECASE)
_DENIED = re.compile(r"(?:\b(?:not|never|cannot)|n't)\s(?:\w+\s){0,2}$", re.IGNORECASE)
_ANY_ORDER = re.compile(
    r"\bany order\b|\border (?:does not|doesn't|is not|isn't) (?:matter|important)|\bregardless of (?:the )?order",
    re.IGNORECASE,
)
_LIST_LEAD = re.compile(
    r"^[^(\[{]*(?<!\w)(?:is|are|was|were|equals?)(?: the| at)? (?=\S)|^[^:(\[{]*[a-z]{3,}:\s"
    r"|^(?:the )?(?:point|pair|set|interval|vector|coordinates|tuple|list) (?=[(\[{])"
)
_INCLUSIVE = re.compile(r"(?:from|between) (\S+) (?:to|and) (\S+?),? inclusive\.?")
SameFormula = Callable[[str, str], bool | None]
"""Whether the gold formula and the answer's are equal. None: it can't tell."""


def undecided(gold: str, answer: str) -> None:
    """Leaves every formula open."""


@dataclass(frozen=True)
class Context:
    """What a reading may need besides the two answers."""

    question: str = ""
    """Says whether a list may have any order, and which unit is asked for."""
    same_formula: SameFormula = undecided
    """Compares formulas."""


def agree(gold: str, answer: str, context: Context = Context()) -> bool | None:
    """Whether the stated answer is the gold one; None where only mathematics can tell, and it doesn't.

    Args:
        gold: The gold answer, which may end a worked solution as GSM8K's do: `... #### 5`.
        answer: What a text states as its answer, without its reasoning.
        context: The question, and who compares formulas.

    >>> agree("5", "5 people"), agree("Paris", "Pairs"), agree("B", "(B) because"), agree("2x", "x + x")
    (True, False, True, None)
    """
    gold = _final(gold)
    if max(len(gold), len(answer)) > LONGEST:
        return " ".join(gold.split()).casefold() == " ".join(answer.split()).casefold()
    wanted, said = clean(gold), clean(answer)
    if not wanted or not said:
        return False
    if wanted.casefold().rstrip(". ") == said.casefold().rstrip(". "):
        return True
    if not is_mathematical(gold) and words(wanted) == words(said) != "":
        return True
    for reading in (_option, _truth, _date, _time, _ratio, _range, _sequence, _quantity):
        verdict = reading(wanted, said, context)
        if verdict is not None:
            return verdict
    if is_mathematical(gold):
        answer = answer if "=" in gold else last_side(answer)
        return not _restates(gold, answer, context.question) and context.same_formula(gold, answer)
    return names(wanted, said)


def _restates(gold: str, answer: str, question: str) -> bool:
    """The answer is a formula of the question, still to be worked out to a gold value.

    >>> _restates("66", "22 + 44.", "What is 22 + 44?"), _restates("66", "60 + 6", "What is 22 + 44?")
    (True, False)
    """
    if _TO_WORK_OUT.search(gold) or not _TO_WORK_OUT.search(answer):
        return False
    said, asked = (_SPACING.sub("", text).rstrip(".") for text in (answer, question))
    sums = _SUM.findall(said)
    if len(sums) == 1 and not any(map(str.isdigit, said.replace(sums[0], ""))):
        said = sums[0]
    return said in asked


def alike(a: str, b: str, context: Context = Context()) -> bool:
    """Whether two stated answers are the same, whichever of them is the plainer one.

    >>> alike("She sold 72 clips in total", "72"), alike("The total is 72 clips", "She sold 72 clips in total")
    (True, True)
    """
    if agree(a, b, context) or agree(b, a, context):
        return True
    if max(len(a), len(b)) > LONGEST or min(len(a.split()), len(b.split())) < FEWEST_WORDS:
        return False
    both = [stated_quantities(last_side(clean(text))) or [] for text in (a, b)]
    return any(same(one, other, context.question) for one in both[0] for other in both[1])


def _final(gold: str) -> str:
    """What a worked gold solution ends with."""
    return stated_answer(gold) if "\\boxed" in gold else _GSM8K.split(gold)[-1]


def _option(gold: str, answer: str, context: Context) -> bool | None:
    wanted = _OPTION.fullmatch(gold) or (_OPTION.fullmatch(gold + ")") if _OPTION.fullmatch(answer) else None)
    if not wanted:
        return None
    right = (wanted[1] or wanted[2]).upper()
    weighed = _WEIGHED.search(answer)
    answer = claim((weighed[1] or weighed[2]) if weighed else answer)
    led = _CHOICE.match(answer)
    if led and not _REFUTED.match(led["rest"]):
        letter = led["in"] or led["out"]
        return letter.upper() == right and not _OTHER_CHOICE.match(led["rest"])
    if re.search(r"[\d^*/=\\]", answer) and is_mathematical(answer):
        return None
    named = {m[1] or m[2] for m in _LETTER.finditer(answer) if not _REFUTED.match(answer, m.end())}
    return named == {right} and not _NOT.search(answer) and not _CHOICES.search(answer)


def _truth(gold: str, answer: str, context: Context) -> bool | None:
    wanted = _TRUTH.get(gold.strip(" .!").casefold())
    if wanted is None:
        return None
    led = _TRUTH_LEAD.match(answer)
    first = _TRUTHS.match(answer, led.end()) if led else None
    if first and not _TRUTH_OR.match(answer, first.end()):
        return _is_true(first[0]) is wanted
    alone = _ALL_TRUTH.fullmatch(answer)
    if alone:
        return bool(alone["yes"]) is wanted
    found = set()
    for match in _TRUTHS.finditer(answer):
        denied = _DENIED.search(answer, max(0, match.start() - 30), match.start())
        if not denied or match[0].casefold() in ("true", "false"):
            found.add(_is_true(match[0]) is not bool(denied))
    return found == {wanted}


def _is_true(word: str) -> bool:
    return word.casefold() in ("yes", "yep", "yeah", "true")


def _date(gold: str, answer: str, context: Context) -> bool | None:
    if not is_date(gold):
        return None
    numbers = re.fullmatch(r"(\d{1,2})/(\d{1,2})", answer)
    if numbers:
        return dates(gold)[0] == (None, int(numbers[1]), int(numbers[2]))
    found = set(dates(claim(answer)))
    return len(found) == 1 and not denies(claim(answer)) and same_date(dates(gold)[0], found.pop())


def _time(gold: str, answer: str, context: Context) -> bool | None:
    if not is_time(gold):
        return None
    found = times(claim(answer))
    return len(found) == 1 and not denies(claim(answer)) and bool(found[0] & times(gold)[0])


def _ratio(gold: str, answer: str, context: Context) -> bool | None:
    """`3:4` is `3 to 4` and 3/4."""
    wanted = re.fullmatch(r"(\d+)\s?(:|to|/)\s?(\d+)", gold)
    if not wanted or (wanted[2] != ":" and not re.search(r"\d\s?(?::\s?|out of )\d", answer)):
        return None
    found = re.findall(r"(\d+)\s?(?::|to|/|out of)\s?(\d+)", answer)
    return not denies(answer) and found == [(wanted[1], wanted[3])]


def _range(gold: str, answer: str, context: Context) -> bool | None:
    wanted = stated_range(gold)
    if wanted is None or not gold[0].isdigit() or " and " in gold:
        return None
    found = stated_range(claim(answer))
    return found is not None and not denies(answer) and all(map(same, wanted, found))


def _sequence(gold: str, answer: str, context: Context) -> bool | None:
    """Lists, tuples, sets and intervals, part by part; in any order where they are sets or the question says so."""
    gold, answer = (
        _BOTH_SIGNS.sub(r"\1\2 or -\2", text) if _BOTH_SIGNS.fullmatch(text) else text for text in (gold, answer)
    )
    answer = _INCLUSIVE.sub(r"[\1, \2]", answer)
    wanted = parts_of(gold)
    if wanted is None:
        return None
    kind, parts = wanted
    found = parts_of(_LIST_LEAD.sub("", last_side(claim(answer))))
    if found is None:
        quoted = re.fullmatch(r"(\d+),(\d+)", gold)
        if quoted and answer == f"{quoted[1]}.{quoted[2]}":
            return True
        return None if is_mathematical(answer) else False
    if not same_brackets(kind, found[0], len(parts)) or len(parts) != len(found[1]):
        return False
    if kind == "{}" or " or " in gold or _ANY_ORDER.search(context.question):
        return _match(parts, found[1], context)
    verdict: bool | None = True
    for part, other in zip(parts, found[1], strict=True):
        same_part = _same_part(part, other, context)
        if not same_part:
            return same_part
    return verdict


def _match(wanted: Sequence[str], found: Sequence[str], context: Context) -> bool | None:
    """Part by part in any order; the formulas that are left are compared as one set."""
    if len(wanted) > MOST_UNORDERED:
        return sorted(map(words, wanted)) == sorted(map(words, found))
    left, formulas = list(found), []
    for part in wanted:
        hit = next((i for i, other in enumerate(left) if _same_part(part, other, Context())), None)
        if hit is None:
            formulas.append(part)
        else:
            del left[hit]
    if not formulas:
        return True
    if not all(map(is_mathematical, [*formulas, *left])):
        return False
    return context.same_formula(rf"\{{{', '.join(formulas)}\}}", rf"\{{{', '.join(left)}\}}")


def _same_part(gold: str, answer: str, context: Context) -> bool | None:
    return agree(_VARIABLE.sub("", gold), _VARIABLE.sub("", answer), replace(context, question=""))


def _quantity(gold: str, answer: str, context: Context) -> bool | None:
    wanted = _gold_quantity(gold)
    if wanted is None:
        return None
    variable, other = _VARIABLE.match(gold), _VARIABLE.match(answer)
    if variable and other and variable[1] != other[1]:
        return False
    clock = _CLOCK.fullmatch(answer)
    if clock and wanted.unit and wanted.unit[0] == "time":
        answer = f"{clock[1]} h {clock[2]} min"
    found = stated_quantities(last_side(claim(_IS.sub(r"\1 = ", answer))))
    if found is None or (not found and not quantities(answer) and is_mathematical(answer)):
        return None
    right = any(same(wanted, one, context.question) for one in found)
    return None if not right and _FACTORIAL.fullmatch(answer) else right


def _gold_quantity(gold: str) -> Quantity | None:
    """The one number that the gold answer is, with at most three words after it."""
    text = in_digits(_VARIABLE.sub("", gold)).strip().rstrip(".")
    found = quantities(text)
    if len(found) != 1 or found[0].start or is_formula(text, found):
        return None
    rest = text[found[0].end :]
    return found[0] if re.fullmatch(r"(?:[\s-]?[^\W\d_]{2,}){0,4}", rest) else None
