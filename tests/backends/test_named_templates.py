"""Tokenizers and GGUF files with several chat templates by name: markers are found in the one that calls use."""

from __future__ import annotations

import pytest

from reasonctl.backends import attach
from reasonctl.backends.hf.load import templates_of as of_tokenizer
from reasonctl.backends.hf.load import wrap_transformers
from reasonctl.backends.llama.load import templates_of as of_llama
from reasonctl.controller import Controller
from support.hf_models import GREEDY, PROMPT, TEMPLATE, byte_level, small
from support.llama_models import open_llama

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("templates", "used"),
    [
        ({"default": TEMPLATE, "tool_use": PLAIN}, TEMPLATE),
        ({"default": PLAIN, "rag": TEMPLATE}, PLAIN),
        ({"tool_use": TEMPLATE}, TEMPLATE),
    ],
)
def test_a_budget_holds_under_templates_by_name(templates, used):
    tokenizer, model = byte_level(), small()
    tokenizer.chat_template = templates
    assert wrap_transformers("this model", model, tokenizer).template == used
    with attach(model, Controller(budget=5), tokenizer=tokenizer) as handle:
        model.generate(**PROMPT, **GREEDY)
    assert handle.trace.closed_by == "budget" and handle.trace.thinking == (0, 5)


def test_a_tokenizer_without_a_template_has_none():
    tokenizer = byte_level()
    tokenizer.chat_template = None
    assert of_tokenizer(tokenizer) is None and of_tokenizer(object()) is None


def test_the_templates_of_a_gguf_file():
    llm = open_llama()
    (only,) = of_llama(llm).values()
    assert of_llama(llm) == {"default": only} and "<think>" in only
    llm.metadata.update({"tokenizer.chat_template.rag": PLAIN, "tokenizer.chat_templates": "[rag]"})
    assert of_llama(llm) == {"default": only, "rag": PLAIN}
    del llm.metadata["tokenizer.chat_template"]
    assert of_llama(llm) == {"rag": PLAIN}
