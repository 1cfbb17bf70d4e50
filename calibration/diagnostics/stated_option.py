"""Which option a stated answer means, by its letter or by its text, in the order that was shown."""

from __future__ import annotations

import re

from .choice_question import ChoiceQuestion

_LETTER = re.compile(r"(?:(?:option|answer|choice)\s+)?[(\[{]?([A-Ja-j])[)\]}]?(?:$|[.):,;]\s)", re.IGNORECASE)
"""A letter alone, or before the text of its option; `A red one` begins with a word."""
_END = re.compile(r"(?:^|[\s*:])[(\[]?([A-J])[)\]]?$")
_AROUND = " \t\r\n*_`\"'$.,;:!"


def stated_option(question: ChoiceQuestion, stated: str) -> str:
    r"""The original letter of the option that an answer states; "" where it states none.

    A letter at the beginning counts first. Then a text counts where it is an option's, or has one option's in it and no
    other's. Last comes a letter at the end.

    Args:
        question: The question as it was shown.
        stated: The answer, without what leads to it.

    >>> from .choice_question import choice_question
    >>> moved = choice_question("Capital?\nA. Delhi\nB. Boston\nC. New Delhi").rotated(1)
    >>> moved.options
    ('New Delhi', 'Delhi', 'Boston')
    >>> [stated_option(moved, text) for text in ("B", "(b)", "Option C", "C. Boston", "**Boston**", "It is Boston.")]
    ['A', 'A', 'B', 'B', 'B', 'B']
    >>> [stated_option(moved, text) for text in ("", "J", "A new one", "Delhi or Boston", "It is New Delhi.")]
    ['', '', '', '', 'C']
    >>> stated_option(moved, "It is (B).")
    'A'
    """
    text = stated.strip(_AROUND)
    if (found := _LETTER.match(text)) and (letter := found[1].upper()) in question.letters:
        return question.original[question.letters.index(letter)]
    said = _plain(text)
    options = [_plain(one) for one in question.options]
    if said in options:
        return question.original[options.index(said)]
    named = [i for i, option in enumerate(options) if option and f" {option} " in f" {said} "]
    longest = [i for i in named if not any(options[i] in options[k] for k in named if k != i)]
    if len(longest) == 1:
        return question.original[longest[0]]
    ends = _END.search(text) if not longest else None
    return question.original[question.letters.index(ends[1])] if ends and ends[1] in question.letters else ""


def _plain(text: str) -> str:
    """Words alone, in small letters."""
    return " ".join(re.findall(r"\w+", text.casefold()))
