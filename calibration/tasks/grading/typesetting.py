r"""What an answer says apart from how it is set in type: LaTeX, Markdown and Unicode variants become plain text.

Owns the characters; what they mean is said in quantities.py and plain_answers.py. Every step is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—−﹣－", "-"),
        **dict.fromkeys("‘’ʼ′", "'"),
        **dict.fromkeys("“”„«»″", '"'),
        **dict.fromkeys("·⋅∙", "*"),
        "⁄": "/",
        "∕": "/",
        "÷": "/",
        "✕": "×",
        "º": "°",
        "\u200b": "",
        "\ufeff": "",
    }
)
_DOLLAR, _OPEN, _CLOSE = "\ue000", "\ue001", "\ue002"  # what was escaped, and so is no delimiter
_UP = "\ue003"  # the next character is raised
_RAISED = re.compile(f"(?:{_UP}.)+")
_COMMANDS = {
    **dict.fromkeys([",", "!", "(", ")", "[", "]", "left", "right", "displaystyle", "bigl", "bigr", "therefore"], ""),
    **dict.fromkeys([";", ":", " ", "quad", "qquad", "newline", "\\"], " "),
    **{sign: sign for sign in "%&#_"},
    **{"$": _DOLLAR, "{": _OPEN, "}": _CLOSE, "lbrace": _OPEN, "rbrace": _CLOSE, "euro": "€", "pounds": "£"},
    **{"times": "×", "cdot": "*", "div": "/", "pm": "±", "infty": "∞", "pi": "π", "cup": "∪", "to": " to "},
    **{"le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "sim": "≈"},
    **{"circ": "°", "degree": "°", "dots": "…", "ldots": "…", "cdots": "…", "percent": "%"},
    **{"tfrac": r"\frac", "dfrac": r"\frac", "cfrac": r"\frac"},
}
_COMMAND = re.compile(r"\\([A-Za-z]+|[^A-Za-z])")
_WRAPPED = re.compile(
    r"\\(?:text|mathrm|textbf|textit|mathbf|mathit|mathsf|mbox|operatorname|boxed|fbox|emph|bm|textrm|underline|"
    r"textsf|texttt|mathtt|rm|bf)\s{0,4}\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\frac\s{0,4}(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s{0,4}(?:\{\s*([\d.,]+)\s*\}|(\d))")
_MATHEMATICS = re.compile(r"\$\$([^$]+)\$\$|\$(?=[^\s$])([^$]*[^\s$])\$(?!\d)")
_VULGAR = {
    character: unicodedata.normalize("NFKC", character).replace("⁄", "/")
    for character in map(chr, [*range(0xBC, 0xBF), *range(0x2150, 0x215F)])
}


_ARTICLE = re.compile(r"\bthe\s+(?=\w)|\ban?\s+(?=[^\W_]{2})")
_ABBREVIATED = {"mt": "mount", "st": "saint", "dr": "doctor", "vs": "versus", "jr": "junior", "sr": "senior"}
_ABBREVIATED |= {"mon": "monday", "tue": "tuesday", "tues": "tuesday", "fri": "friday"}
_ABBREVIATED |= dict.fromkeys(["thu", "thur", "thurs"], "thursday")  # wed, sat and sun are words
_ABBREVIATED |= {"grey": "gray", "colour": "color", "centre": "center", "favourite": "favorite", "theatre": "theater"}


def clean(text: str) -> str:
    r"""The text as one would type it, on one line; case, punctuation and words stay.

    >>> clean(r"**$\dfrac{3}{4}$**"), clean(r"\$1,000\text{ each}"), clean("$5 to $10"), clean("1½ − 10³")
    ('3/4', '$1,000 each', '$5 to $10', '1 1/2 - 10^3')
    >>> clean(r"45^\circ"), clean(r"\left\{1, 2\right\}"), clean(r"\text{(B)}"), clean(r"5\,\mathrm{cm}^2")
    ('45°', '{1, 2}', '(B)', '5cm^2')
    """
    text = text if text.isascii() else "".join(map(_typed, text))
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = _RAISED.sub(lambda match: "^" + match[0].replace(_UP, ""), text)
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match[1], match[0]), text.replace("{,}", ",").replace("~", " "))
    text = _FRACTION.sub(_as_fraction, text)
    for _ in range(3):
        text = _WRAPPED.sub(lambda match: match[1], text)
    text = _MATHEMATICS.sub(lambda match: match[1] or match[2], text)
    text = text.translate({ord(_DOLLAR): "$", ord(_OPEN): "{", ord(_CLOSE): "}"})
    text = re.sub(r"\^\s?(?:\{°\}|°)", "°", text)
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(])", "^", text)
    text = re.sub(r"\*{2,3}|(?<!_)__(?!_)|`+", "", text)
    text = re.sub(r"^\s*(?:#{1,6}|[*>•]|-(?!\s*[\d.$]))\s+", "", text)
    text = re.sub(r"\bdegrees?\s([cf])(?:elsius|ahrenheit)?\b", r"°\1", text, flags=re.IGNORECASE)
    return " ".join(text.split())


def words(text: str) -> str:
    """A cleaned text as bare words: no case, articles, or punctuation that isn't part of a word.

    >>> words("The U.S.A.!"), words("C++"), words("well-known “Dr. No”"), words("cafe\u0301") == words("Café")
    ('usa', 'c++', 'well known doctor no', True)
    """
    text = _ARTICLE.sub("", unicodedata.normalize("NFC", text).casefold())
    text = re.sub(r"(?<=[^\W\d_])\.(?=[^\W\d_](?:\.|\b))|(?<=\w)'(?=\w)", "", text).replace("&", " and ")
    text = re.sub(r"(?<!\d)[.](?!\d)|[.](?!\d)|(?<!\d),|,(?!\d)|(?<![\d])-|-(?!\d)|[^\w\s.,+#%$€£°/:*^=<>-]", " ", text)
    return " ".join(_ABBREVIATED.get(word, word) for word in text.split())


def without_marks(text: str) -> str:
    """Letters without their diacritics, as on a keyboard that lacks them.

    >>> without_marks("são paulo")
    'sao paulo'
    """
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _typed(character: str) -> str:
    """Superscripts, vulgar fractions and digits of any script, which normalising would take for other numbers."""
    if character in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻":
        return _UP + character.translate(_SUPERSCRIPT)
    if character in _VULGAR:
        return " " + _VULGAR[character]
    return str(unicodedata.digit(character)) if character.isdigit() else character


def _as_fraction(match: re.Match[str]) -> str:
    """`1\frac{1}{2}` is a mixed number."""
    before = match.string[match.start() - 1 : match.start()]
    return f"{' ' if before.isdigit() else ''}{match[1] or match[2]}/{match[3] or match[4]}"
