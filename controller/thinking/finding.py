"""The result of reading a template: how a model marks its thinking. And how tags of models are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import commonprefix

from .markers import LONGEST_MARKER, Markers, Opens

TAG = re.compile(r"<[^<>\n]{1,60}>|\[[A-Z/][^\[\]\n]{0,60}\]|◁[^◁▷\n]{1,60}▷|〈[^〈〉\n]{1,60}〉")
"""A tag as models write them: <think>, <|end|>, [/THINK], ◁think▷; brackets with capital letters only."""

NAMED_TAG = re.compile(r"<\|[^<>\n]{1,30}\|>(?P<name>\w+)(?P<end><\|[^<>\n]{1,30}\|>)")
"""A tag spelled by three tokens, its name between two that say what it is: <|open|>think<|sep|>."""

_NAME = re.compile(r"[\w-]+\n")
"""A channel's name after a tag, with the line that it ends."""
_OPENERS = (
    (r"^(<\|?|\[|◁)/", r"\1"),
    (r"^<(.+)\|>$", r"<|\1>"),
    (r"END_", "START_"),
    (r"END_", "BEGIN_"),
    (r"end_of_", "begin_of_"),
    (r"end_of_", "start_of_"),
    (r"▁end▁of▁", "▁begin▁of▁"),
    (r"_end\b", "_begin"),
    (r"_end\b", "_start"),
    (r"suffix", "prefix"),
)
"""How opening tags are named after closing ones, as replacements."""


@dataclass(frozen=True)
class Finding:
    """How a model marks its thinking, as one way of reading the template found it."""

    markers: Markers
    """The texts that open and close thinking."""
    suffix: str | None
    """What closes thinking and opens the answer; None: unknown."""
    opens: Opens | None = None
    """Who opens the span; None: unknown."""
    ends_messages: bool = False
    """The closing marker ends other messages as well."""


def openers(close: str) -> list[str]:
    """The opening tags that a closing tag may belong to, by its name; empty where the name says nothing.

    >>> openers("</think>"), openers("<|END_THINKING|>")[0], openers("<channel|>"), openers("<|end|>")
    (['<think>'], '<|START_THINKING|>', ['<|channel>'], [])
    """
    made = [re.sub(old, new, close) for old, new in _OPENERS if re.search(old, close)]
    return [text for text in made if TAG.fullmatch(text) and "||" not in text]


def closer(opening: str) -> str | None:
    """The closing tag of an opening one that is named like one in XML.

    >>> closer("<think>"), closer("[THINK]"), closer("◁think▷"), closer("<|x|>")
    ('</think>', '[/THINK]', '◁/think▷', None)
    """
    found = re.fullmatch(r"([<\[◁])([\w:]+)([>\]▷])", opening)
    return f"{found[1]}/{found[2]}{found[3]}" if found else None


def as_marker(text: str) -> str:
    r"""A text without the white space around it; a line of prose keeps the break that ends it.

    >>> as_marker("\n<think>\n"), as_marker("<|channel>thought\n"), as_marker("My steps:\n")
    ('<think>', '<|channel>thought\n', 'My steps:\n')
    """
    bare = text.strip()
    tagged = not bare or any(match.end() == len(bare) for match in TAG.finditer(bare))
    return bare if tagged or not text[text.rindex(bare) + len(bare) :].startswith("\n") else bare + "\n"


def from_tag(text: str, tag: str) -> str:
    """The opening marker in `text` that begins with its last `tag`: with a channel's name, if one follows."""
    rest = text[text.rindex(tag) + len(tag) :]
    named = _NAME.match(rest)
    return tag + named[0] if named and named.end() == len(rest) else tag


def fits(marker: str) -> bool:
    """Whether the text is short enough for a marker, and not empty."""
    return 0 < len(marker) <= LONGEST_MARKER


def common_start(one: str, other: str) -> str:
    """What both texts begin with, up to a place where neither is inside a tag."""
    length = len(commonprefix((one, other)))
    for text in (one, other):
        for tag in TAG.finditer(text):
            if tag.start() < length < tag.end():
                length = tag.start()
    return one[:length]
