"""Where a model thinks is read off what its template renders, whatever the names and the marks are."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from reasonctl.backends.handle import thinking_of
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import ControllerError, Markers
from reasonctl.controller.thinking.chat_template import (
    ANSWER_CUE,
    BREAKS,
    WORDS,
    chosen_template,
    default_cues,
    read_template,
    read_templates,
    with_markers,
)


def template(answer: str, prompt: str = "<bot>", user: str = "<user>{{ m.content }}\n") -> str:
    """A template of our own: how an assistant's turn, a question and the generation prompt are written."""
    turns = f"{{%- if m.role == 'assistant' -%}}{answer}{{%- else -%}}{user}{{%- endif -%}}"
    ending = f"{{%- if add_generation_prompt -%}}{prompt}{{%- endif -%}}"
    return f"{{%- for m in messages -%}}{turns}{{%- endfor -%}}{ending}"


def said(text: str) -> str:
    """A text that a template writes as it stands."""
    return "{{ " + json.dumps(text) + " }}"


def turn(before: str, name: str, behind: str, header: str = "<bot>", when: str = "") -> str:
    """An assistant's turn with its reasoning, kept under `name`, between two texts; only `when`, if given."""
    span = said(before) + "{{ m." + name + " }}" + said(behind)
    shown = f"{{%- if m.{name}{' and ' + when if when else ''} -%}}{span}{{%- endif -%}}"
    return f"{said(header)}{shown}{{{{ m.content }}}}<eot>"


THINK = "</think>"
INLINE = (
    "<bot>{%- if '</think>' in m.content -%}"
    "<think>{{ '\\n' }}{{ m.content.split('</think>')[0].split('<think>')[-1].strip() }}{{ '\\n</think>\\n\\n' }}"
    "{{ m.content.split('</think>')[-1].strip() }}{%- else -%}{{ m.content }}{%- endif -%}"
)
PARTS = (
    "{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for p in m.content -%}{%- if p.type == 'thinking' -%}"
    "[THINK]{{ p.thinking }}[/THINK]{%- else -%}{{ p.text }}{%- endif -%}{%- endfor -%}{%- endif -%}</s>"
)
BLOCKS = (
    "<bot>{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for b in m.content.blocks -%}"
    "{{ '<|in|>' ~ b.text ~ '<|out|>' if b.type == 'thoughts' else b.text }}{%- endfor -%}{%- endif -%}"
)
CALLS = (
    "<bot>{%- if m.tool_calls -%}<|START_PLAN|>{{ m.reasoning }}<|END_PLAN|><call>{{ m.tool_calls[0].function.name }}"
)
CALLS += "{%- else -%}<say>{{ m.content }}</say>{%- endif -%}"
DROPPED = "<bot>{{ m.content.split('</think>')[-1] }}<eot>"
CHANNELS = "<|bot|>{%- if m.thinking -%}<|kind|>private<|text|>{{ m.thinking }}<|over|><|bot|>{%- endif -%}"
CHANNELS += "<|kind|>public<|text|>{{ m.content }}<|over|>"
EMPTY = "<bot>{%- if not enable_thinking -%}{{ '<think>\\n\\n</think>\\n' }}{%- endif -%}{{ m.content }}"
SYSTEM = "{%- if messages[0].role != 'system' -%}{{ raise_exception('a system message first') }}{%- endif -%}"
WORD = "{%- for p in m.content -%}{{ p.text }}{%- endfor -%}"

FORMS = {
    "line breaks on both sides": (
        template(turn("<think>\n", "reasoning_content", "\n</think>\n\n"), "<bot><think>\n"),
        ("<think>", THINK, "\n</think>\n\n", "prompt"),
    ),
    "no line breaks": (template(turn("<think>", "reasoning", THINK)), ("<think>", THINK, THINK, "model")),
    "a switch opens in the prompt": (
        template(turn("<think>", "thinking", "</think>\n"), "<bot>{%- if enable_thinking -%}<think>{%- endif -%}"),
        ("<think>", THINK, "</think>\n", "prompt"),
    ),
    "only what comes last is kept": (
        template(turn("<r>", "reasoning_content", "</r>\n", when="loop.last")),
        ("<r>", "</r>", "</r>\n", "model"),
    ),
    "only what came before is kept": (
        template(turn("<r>", "reasoning_content", "</r>\n", when="not loop.last")),
        ("<r>", "</r>", "</r>\n", "model"),
    ),
    "shown where a word is given": (
        template(turn("<r>", "reasoning_content", "</r>", when="thinking_mode == 'enabled'")),
        ("<r>", "</r>", "</r>", "model"),
    ),
    "shown where the system asks for it": (
        template(turn("<r>", "reasoning_content", "</r>", when="'thinking on' in messages[0].content")),
        ("<r>", "</r>", "</r>", "model"),
    ),
    "a system message is demanded": (
        SYSTEM + template(turn("<r>", "reasoning_content", "</r>")),
        ("<r>", "</r>", "</r>", "model"),
    ),
    "questions come in parts": (
        template(turn("<r>", "reasoning_content", "</r>"), user="<user>" + WORD),
        ("<r>", "</r>", "</r>", "model"),
    ),
    "inline text is tidied up": (template(INLINE), ("<think>", THINK, "\n</think>\n\n", "model")),
    "parts of a content": (template(PARTS, ""), ("[THINK]", "[/THINK]", "[/THINK]", "model")),
    "blocks of a content": (template(BLOCKS), ("<|in|>", "<|out|>", "<|out|>", "model")),
    "with tool calls only": (
        template(CALLS),
        ("<|START_PLAN|>", "<|END_PLAN|>", "<|END_PLAN|><say>", "model"),
    ),
    "the answer is opened too": (
        template(turn("<think>\n", "reasoning_content", "\n</think>\n<answer>\n")),
        ("<think>", THINK, "\n</think>\n<answer>\n", "model"),
    ),
    "channels": (
        template(CHANNELS, "<|bot|>", "<|user|>{{ m.content }}<|over|>"),
        ("<|kind|>private<|text|>", "<|over|>", "<|over|><|bot|><|kind|>public<|text|>", "model"),
    ),
    "a named channel": (
        template(turn("<|part>thought\n", "reasoning_content", "\n<part|>")),
        ("<|part>thought\n", "<part|>", "\n<part|>", "model"),
    ),
    "names between tokens": (
        template(turn("<|open|>think<|sep|>", "reasoning", "<|close|>think<|sep|><|open|>say<|sep|>"), "<bot>"),
        ("<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|close|>think<|sep|><|open|>say<|sep|>", "model"),
    ),
    "a sentence in the prompt": (
        template(turn("", "reasoning_content", "\n[FINAL ANSWER]\n", "<bot>\n"), "<bot>\nMy steps:\n{{ '\\n' }}"),
        ("My steps:\n", "[FINAL ANSWER]", "\n[FINAL ANSWER]\n", "prompt"),
    ),
    "a close and nothing that opens": (
        template(turn("", "reasoning_content", "\n</think>\n")),
        ("<think>", THINK, "\n</think>\n", "start"),
    ),
    "unlike names": (
        template(turn("<muse>", "thought", "<speak>")),
        ("<muse>", "<speak>", "<speak>", "model"),
    ),
    "details of a reasoning": (
        template("<bot>{%- for d in m.reasoning_details -%}<r>{{ d.text }}</r>{%- endfor -%}{{ m.content }}"),
        ("<r>", "</r>", "</r>", "model"),
    ),
    "generation blocks": (
        template("{% generation %}" + turn("◁think▷", "reasoning", "◁/think▷") + "{% endgeneration %}"),
        ("◁think▷", "◁/think▷", "◁/think▷", "model"),
    ),
    "nothing kept, the prompt opens": (
        template(DROPPED, "<bot><think>\n"),
        ("<think>", THINK, "</think>\n\n", "prompt"),
    ),
    "nothing kept, nothing opens": (template(DROPPED), ("<think>", THINK, "</think>\n\n", "start")),
    "an empty span where thinking is off": (template(EMPTY), ("<think>", THINK, "\n</think>\n", "model")),
    "told in the instructions": (
        "Think inside <thought></thought>." + template("<bot>{{ m.content }}"),
        ("<thought>", "</thought>", "</thought>\n\n", "model"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    source, expected = FORMS[form]
    found = read_template(source)
    assert found.markers is not None and found.error == ""
    assert (found.markers.open, found.markers.close, found.suffix, found.opens) == expected
    assert found.thinking.suffix == found.suffix and found.thinking.opens == found.opens


def test_a_marker_that_ends_messages_is_known():
    assert read_template(FORMS["channels"][0]).ends_messages
    assert not read_template(FORMS["unlike names"][0]).ends_messages


FAMILIES = {
    "gpt-oss": ("<|channel|>analysis commentary final", "<|channel|>analysis<|message|>", "<|end|>"),
    "Gemma 4": ("<|channel> <channel|>", "<|channel>thought\n", "<channel|>"),
    "Kimi": ("<|im_middle|> </think>", "<think>", "</think>"),
    "Kimi-VL": ("◁think▷", "◁think▷", "◁/think▷"),
    "MiniMax M3": ("mm:think", "<mm:think>", "</mm:think>"),
    "Apertus": ("<|inner_prefix|> <|inner_suffix|>", "<|inner_prefix|>", "<|inner_suffix|>"),
    "Apriel": ("[BEGIN FINAL RESPONSE] <thinking>", "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    "Granite": ("<think></think> <response></response>", "<think>", "</think>"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_known_where_rendering_shows_nothing(family):
    """The same text in a template that fails."""
    text, opening, closing = FAMILIES[family]
    found = read_template(text + "{{ raise_exception('no\nthanks') }}")
    assert found.markers == Markers(opening, closing) and found.source == "family" and found.error == "no"


PLAIN = {
    "nothing about thinking": template("<bot>{{ m.content }}<eot>"),
    "messages as data": template("<bot>{{ m | tojson }}<eot>"),
    "contents as data": template("<bot>{{ m.content | tojson if m.content is not string else m.content }}<eot>"),
    "a reasoning behind its answer": template("<bot>{{ m.content }}<note>{{ m.reasoning }}</note>"),
    "a reasoning and an answer run together": template("<bot>{{ m.reasoning }} {{ m.content }}"),
}


@pytest.mark.parametrize("form", PLAIN)
def test_templates_without_thinking(form):
    found = read_template(PLAIN[form])
    assert found.markers is None and found.suffix == ANSWER_CUE and found.source == "nothing"
    assert "--think-open" in found.lines()[1] and default_cues(found.markers) == BREAKS


HOSTILE = {
    "{% for i in range(10**9) %}{% endfor %}": "Range too big",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "processor time",
    "{{ 'x' * 10**11 }}": "MemoryError",
    "{{ 'x' * 2**21 }}": "more than 1048576 characters",
    "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}": "",
    "{% for i in range(99999) %}{{ 'xxxxxxxxxxxxxxxx' }}{% endfor %}": "more than 1048576 characters",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ messages.append(1) }}": "unsafe|not safely",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{% if %}": "Expected an expression",
    "{{ nothing.at.all }}": "undefined",
    "{{ 1 / 0 }}": "division by zero",
    "{{ messages | no_such_filter }}": "no_such_filter",
    "{{ '\\ud800' }}": "half a character",
    "{% if x %}" * 2000 + "{% endif %}" * 2000: "",
}


DOUBLING = "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
"""It takes seconds to reach the bound of memory."""


@pytest.mark.parametrize(
    "source",
    [pytest.param(one, marks=[pytest.mark.slow] if one == DOUBLING else []) for one in HOSTILE],
    ids=range(len(HOSTILE)),
)
def test_a_hostile_template_ends_in_one_line(source):
    """It costs seconds at most; what its text says is still read."""
    found = read_template(source + "{# </think> #}")
    assert found.error and "\n" not in found.error and re.search(HOSTILE[source], found.error)
    assert found.markers == Markers("<think>", "</think>") and found.source == "text"


def test_a_template_s_own_error_moves_no_cursor():
    error = read_template("{{ raise_exception('\\x1b[31mno\\x07 \\x9b \\u202e' ~ 'x' * 999) }}").error
    assert error.isprintable() and error.startswith("\\x1b[31mno\\x07 \\x9b \\u202ex") and len(error) < 300


def test_what_was_rendered_before_a_bound_counts():
    slow = (
        "{%- if 'blocks' in m.content -%}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    source = template(slow + "{%- endif -%}" + turn("<r>", "reasoning", "</r>"))
    assert read_template(source).markers == Markers("<r>", "</r>")


def test_templates_get_the_tokens():
    source = template(turn("<r>", "reasoning", "</r>"), "{{ bos_token }}<bot>")
    assert read_template(source).generation_prompt == "<bot>"
    assert read_template(source, bos_token="<s>").generation_prompt == "<s><bot>"


def test_the_users_markers_go_above_all():
    source = FORMS["line breaks on both sides"][0]
    found = read_template(source)
    assert with_markers(found, source, None, None) is found
    changed = with_markers(found, source, "<muse>", None)
    assert (changed.markers, changed.suffix, changed.source) == (Markers("<muse>", THINK), "\n</think>\n\n", "user")
    both = with_markers(read_template(None), None, "<a>", "</a>")
    assert (both.markers, both.suffix, both.opens) == (Markers("<a>", "</a>"), "</a>\n\n", "model")
    with pytest.raises(ControllerError, match="give both --think-open and --think-close"):
        with_markers(read_template(None), None, "<a>", None)


def test_several_templates_by_name():
    thinks, plain = FORMS["no line breaks"][0], PLAIN["nothing about thinking"]
    assert chosen_template({"default": plain, "rag": thinks}) == plain
    assert chosen_template({"default": plain, "rag": thinks}, "rag") == thinks
    assert chosen_template(None) is None and chosen_template({}) is None
    assert read_templates({"default": thinks, "tool_use": plain}).suffix == THINK
    assert read_templates({"default": plain, "tool_use": thinks}).suffix == THINK
    assert read_templates({"default": plain, "rag": plain}).markers is None
    assert thinking_of({"default": thinks, "rag": plain}).markers == Markers("<think>", THINK)


def test_the_bundled_model_keeps_its_format():
    """Its probe file was calibrated with these."""
    found = read_template((tiny_folder() / "chat_template.jinja").read_text())
    assert (found.markers, found.suffix, found.opens) == (Markers("<think>", THINK), "</think>\n", "prompt")
    assert default_cues(found.markers) == WORDS and found.generation_prompt.endswith("<think>\n")
    assert found.lines() == [
        "thinking markers '<think>' ... '</think>' (read off turns that the template renders)",
        "suffix '</think>\\n'",
        "the generation prompt opens the span",
    ]


@pytest.mark.skipif("REASONCTL_TEMPLATES" not in os.environ, reason="REASONCTL_TEMPLATES names no folder of templates")
def test_templates_of_others():
    """A folder of templates and what they are known to show, in expected.json; prints a table."""
    folder = Path(os.environ["REASONCTL_TEMPLATES"])
    wrong = []
    for name, expected in json.loads((folder / "expected.json").read_text()).items():
        found = read_template((folder / f"{name}.jinja").read_text())
        row = f"{name:48} {found.source:10}"
        if found.markers is None or expected is None:
            right = found.markers is None and expected is None
            row += " no thinking"
        else:
            pairs = (
                (expected["open"], found.markers.open),
                (expected["close"], found.markers.close),
                (expected["suffix"], found.suffix),
                (expected["prompt_opens"], found.opens == "prompt"),
            )
            right = pairs[0][0] == pairs[0][1] and all(one is None or one == other for one, other in pairs)
            row += f" {found.markers.open!r} {found.suffix!r} {found.opens}"
        print(f"{'right' if right else 'WRONG'} {row}")
        wrong += [] if right else [name]
    assert not wrong
