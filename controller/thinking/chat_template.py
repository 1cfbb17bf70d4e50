"""What a chat template says about thinking: the markers, what closes it, and who opens it.

A template is a program, so it is run. A turn with a marked reasoning and a marked answer is rendered, and the text
around the marks is read off. What no rendering shows is read from the template's text. What the user sets wins over
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ..core.errors import ControllerError
from .finding import Finding
from .markers import Markers, Opens, Thinking
from .rendering import render
from .template_text import known_family, named_markers, written_suffix
from .turns import Shown, after_question, empty_suffix, opened_by_prompt, read_turns, requests, shown

ANSWER_CUE = "\n\nThe final answer is"
"""Suffix for models without markers."""

WORDS = ("wait", "hmm", "alternatively")
BREAKS = ("paragraph", "sentence")

Source = Literal["rendering", "family", "text", "user", "nothing"]

_WHERE = {
    "rendering": "read off turns that the template renders",
    "family": "known of this family of templates",
    "text": "read from the template's text",
    "user": "given by the user",
    "nothing": "the template names no thinking",
}
_WHO = {
    "prompt": "the generation prompt opens the span",
    "model": "the model opens the span itself",
    "start": "nothing opens the span: the model thinks from its first token",
}


@dataclass(frozen=True)
class Format:
    """How a model's turns mark its thinking."""

    markers: Markers | None
    """The texts that open and close thinking; None: the template names none, the whole completion is the span."""
    suffix: str
    """The exact text that closes thinking and opens the answer."""
    opens: Opens
    """Who opens the span where thinking is switched on."""
    generation_prompt: str
    """What the template writes after a question where thinking is switched on; empty if it can't be rendered."""
    source: Source
    """How markers were found."""
    ends_messages: bool = False
    """The closing marker ends other messages too, as gpt-oss's `<|end|>` does."""
    error: str = ""
    """What went wrong when the template was rendered, in one line; empty if nothing is missing for it."""

    @property
    def thinking(self) -> Thinking:
        """The same as a controller takes it."""
        return Thinking(self.markers, self.suffix, self.opens, self.ends_messages)

    def lines(self) -> list[str]:
        """What was found, for people."""
        if self.markers is None:
            found = [
                f"no thinking markers ({_WHERE[self.source]}): the whole completion counts as thinking",
                "a model that reasons without saying so in its template needs --think-open and --think-close",
            ]
        else:
            found = [
                f"thinking markers {self.markers.open!r} ... {self.markers.close!r} ({_WHERE[self.source]})",
                f"suffix {self.suffix!r}",
                _WHO[self.opens],
            ]
        return [*found, f"the template can't be rendered: {self.error}"] if self.error else found


@lru_cache(maxsize=64)
def read_template(template: str | None, **tokens: str) -> Format:
    """How a template marks thinking. It never fails, whatever the template does.

    Args:
        template: The template's source; None if the model has none.
        tokens: Further variables for the template, e.g. `bos_token` and `eos_token`; empty texts if left out.

    >>> read_template(None).lines()[0]
    'no thinking markers (the template names no thinking): the whole completion counts as thinking'
    """
    if template is None:
        return Format(None, ANSWER_CUE, "start", "", "nothing")
    rendered = render(template, requests(tokens))
    settings = shown(rendered.texts)
    found = read_turns(settings)
    error = "" if any(text is not None for text in rendered.texts) else rendered.error
    if found is not None:
        return _format(template, found, settings, "rendering", error)
    family = known_family(template)
    if family is not None:
        return _format(template, family.finding, settings, "family", error)
    named = named_markers(template)
    if named is not None:
        shows = empty_suffix(settings, named.markers)
        return _format(template, replace(named, suffix=shows or named.suffix), settings, "text", error)
    return Format(None, ANSWER_CUE, "start", _generation_prompt(settings), "nothing", error=error)


def with_markers(found: Format, template: str | None, opening: str | None, closing: str | None) -> Format:
    """The format with markers that the user gives; None keeps what was found.

    Raises:
        ControllerError: One is given and the template has no other.
    """
    if opening is None and closing is None:
        return found
    if found.markers is None and (opening is None or closing is None):
        raise ControllerError(
            "this model's template names no thinking markers; give both --think-open and --think-close"
        )
    old = found.markers
    markers = Markers(opening or (old.open if old else ""), closing or (old.close if old else ""))
    if markers == old:
        return found
    same = found.suffix if old is not None and markers.close == old.close else None
    suffix = same or written_suffix(template or "", markers) or _usual_suffix(markers)
    ends = found.generation_prompt.rstrip().endswith(markers.open.rstrip())
    return replace(found, markers=markers, suffix=suffix, opens="prompt" if ends else "model", source="user")


def default_cues(markers: Markers | None) -> tuple[str, ...]:
    """Reflection words (LYNX) inside a thinking span; paragraph and sentence ends where there is none."""
    return WORDS if markers else BREAKS


def chosen_template(template: str | Mapping[str, str] | None, name: str | None = None) -> str | None:
    """The template that a call uses. A model may have several, by name.

    Args:
        template: The tokenizer's: one, or several by name.
        name: The call's own choice; where it makes none, transformers and llama.cpp take "default".
    """
    if template is None or isinstance(template, str):
        return template
    ordered = sorted(template, key=lambda one: (one != name, one != "default", one))
    return template[ordered[0]] if ordered else None


def read_templates(template: str | Mapping[str, str] | None) -> Format:
    """How a model with several templates marks its thinking.

    The default template decides. If only another one ("tool_use", "rag") names thinking, that one decides: calls with
    the default write no marker then, and calls with the other are followed.
    """
    found = read_template(chosen_template(template))
    if found.markers is not None or template is None or isinstance(template, str):
        return found
    others = (read_template(template[name]) for name in sorted(template))
    return next((other for other in others if other.markers is not None), found)


def _format(template: str, found: Finding, settings: list[Shown], source: Source, error: str) -> Format:
    """The format of a finding; what the finding leaves open is filled in."""
    opens = found.opens or "model"
    if source != "rendering" and opened_by_prompt(settings, found.markers):
        opens = "prompt"
    suffix = found.suffix or written_suffix(template, found.markers) or _usual_suffix(found.markers)
    prompt = _generation_prompt(settings)
    return Format(found.markers, suffix, opens, prompt, source, found.ends_messages, error)


def _usual_suffix(markers: Markers) -> str:
    """A closing marker and a paragraph's break."""
    return markers.close + "\n\n"


def _generation_prompt(settings: list[Shown]) -> str:
    return next((after_question(setting.prompt) for setting in settings if setting.prompt is not None), "")
