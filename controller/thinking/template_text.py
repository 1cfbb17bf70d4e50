"""What a template's text names, for what its renderings don't show: known families first, then pairs of tags."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .finding import Finding, closer, openers
from .markers import Markers, Opens

_PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_TAG = re.compile(r"[<\[◁]/?(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reflection)[>\]▷]", re.IGNORECASE)
"""Other tags that are named after thinking."""
_BREAKS = r"(?:\\n|\n)"


@dataclass(frozen=True)
class Family:
    """Models whose templates do not show the form of their turns."""

    name: str
    """As its makers call it."""
    signs: tuple[str, ...]
    """Texts that its templates contain, all of them."""
    finding: Finding
    """How these models think."""


def _family(name: str, signs: tuple[str, ...], pair: tuple[str, str], suffix: str, opens: Opens = "model") -> Family:
    return Family(name, signs, Finding(Markers(*pair), suffix, opens, ends_messages=pair[1] == "<|end|>"))


_FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
FAMILIES = (
    _family("gpt-oss", ("<|channel|>", "analysis", "final"), ("<|channel|>analysis<|message|>", "<|end|>"), _FINAL),
    _family("Gemma 4", ("<|channel>", "<channel|>"), ("<|channel>thought\n", "<channel|>"), "\n<channel|>"),
    _family("Kimi", ("◁think▷",), ("◁think▷", "◁/think▷"), "◁/think▷"),
    _family("Kimi", ("<|im_middle|>", "</think>"), ("<think>", "</think>"), "</think>"),
    _family("MiniMax M3", ("mm:think",), ("<mm:think>", "</mm:think>"), "</mm:think>"),
    _family(
        "Apertus",
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        "<|inner_suffix|>",
    ),
    _family(
        "Apriel",
        ("[BEGIN FINAL RESPONSE]",),
        ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        "\n[BEGIN FINAL RESPONSE]\n",
    ),
    _family("Granite", ("<think></think>", "<response></response>"), ("<think>", "</think>"), "</think><response>"),
)
"""By what their templates contain."""


def known_family(template: str) -> Family | None:
    """The family that a template belongs to, if it is one of those."""
    return next((family for family in FAMILIES if all(sign in template for sign in family.signs)), None)


def named_markers(template: str) -> Finding | None:
    r"""The first pair of tags named after thinking that the text names, by one of them.

    >>> named_markers("{{ '<think>\\n' }}").opens, named_markers("{{ c.split('</think>')[-1] }}").opens
    ('model', 'start')
    """
    pairs = [pair for pair in _PAIRS if pair[0] in template or pair[1] in template]
    pairs += [pair for tag in _TAG.findall(template) if (pair := _pair(tag)) is not None]
    if not pairs:
        return None
    markers = Markers(*pairs[0])
    # A text that names the closing marker alone belongs to a model that thinks from its first token.
    return Finding(markers, written_suffix(template, markers), "model" if markers.open in template else "start")


def written_suffix(template: str, markers: Markers) -> str | None:
    r"""The closing marker with the line breaks that the text has around it; None without a line break after it.

    >>> written_suffix(r"'<think>\n' + r + '\n</think>\n\n' + m", Markers("<think>", "</think>"))
    '\n</think>\n\n'
    """
    found = re.findall(f"({_BREAKS}?){re.escape(markers.close)}({_BREAKS}+)", template)
    if not found:
        return None
    before, after = max(found, key=lambda pair: len(pair[1]))
    return f"{before}{markers.close}{after}".replace("\\n", "\n")


def _pair(tag: str) -> tuple[str, str] | None:
    """The tag and its partner."""
    if "/" not in tag:
        close = closer(tag)
        return None if close is None else (tag, close)
    return next(((opening, tag) for opening in openers(tag)), None)
