"""An exit's answer ends with its line or its box under both libraries, as it did when it was tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.backends import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.load import tiny_folder
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.worker import Collect, one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Controller, Cues, Markers
from reasonctl.probes.fixed_exits import FixedExit
from support.llama_models import PROMPT, Scripted, open_llama
from support.recipes import RECIPE

THINK = "52 a+3 55\nWait, b-6 49\nWait, c+8 57\n\nok</think>\n"
ANSWERS = {"line": "\n 49\nso b is 6<eos>", "box": "4 9}, as\n b is 6<eos>"}
SHOWN = {"line": "\n 49\n", "box": "4 9}"}
SUFFIXES = {"line": "</think>\nanswer is", "box": "</think>\n{"}


def controller(tokenizer, ends):
    cues, markers = Cues(["wait"]), Markers("<think>", "</think>")
    rule = FixedExit(index=0, cues=cues, suffix=SUFFIXES[ends], markers=markers, answer_ends=ends)
    return Controller(exit=rule, policy=Scripted(tokenizer, THINK, ANSWERS[ends]))


@pytest.mark.parametrize("ends", SHOWN)
def test_llama_cpp_says_stop_and_gives_the_text_up_to_there(ends):
    llm = open_llama(n_ctx=1024)
    with attach(llm, controller(LlamaTokenizer(llm), ends)) as handle:
        made = llm(PROMPT, max_tokens=200)["choices"][0]
        streamed = list(llm(PROMPT, max_tokens=200, stream=True))
        assert made["text"].endswith(SUFFIXES[ends] + SHOWN[ends]) and made["finish_reason"] == "stop"
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == made["text"]
        assert streamed[-1]["choices"][0]["finish_reason"] == "stop"
        assert handle.trace.closed_by == "exit" and handle.trace.finish_reason == "stop"


@pytest.mark.parametrize("ends", SHOWN)
def test_transformers_gives_the_tokens_up_to_there(ends):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    inputs = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    with attach(model, controller(HFTokenizer(tokenizer), ends), tokenizer=tokenizer) as handle, torch.inference_mode():
        out = model.generate(**inputs, do_sample=True, max_new_tokens=200)
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
        assert text.endswith(SUFFIXES[ends] + SHOWN[ends])
        assert handle.trace.closed_by == "exit" and handle.trace.finish_reason == "stop"


HOT: Recipe = replace(RECIPE, policy="temperature(1.2)", answer_tokens=60, max_new_tokens=110)
"""So hot that answers differ in length and hold braces and line breaks."""


@pytest.mark.parametrize("ends", ["model", "line", "box"])
@pytest.mark.parametrize("backend", ["llama.cpp", pytest.param("transformers", marks=pytest.mark.slow)])
def test_what_was_tried_is_what_the_exit_gives(backend, ends):
    suffix = {"model": "</think>\n", "line": "</think>\nThe answer is", "box": "</think>\n{"}[ends]
    recipe = replace(HOT, backend=backend, suffix=suffix, answer_ends=ends)
    model, whole = recipe.load(), 0
    for i, problem in enumerate(load_task("tiny").problems(3, stream=6)):
        tries = Collect(recipe, model)
        one_run(recipe, model, i, problem.question, tries)
        for k, tried in enumerate(tries.seen[:3]):
            rule = FixedExit(
                index=k, cues=Cues(recipe.cues), suffix=suffix, markers=Markers(*recipe.markers), answer_ends=ends
            )
            trace, _ = one_run(recipe, model, i, problem.question, rule)
            answer = model.tokenizer.decode([t for t in trace.tokens[sum(trace.forced) :] if t not in model.eos])
            shown = tried.answer[len(suffix.partition("</think>")[2].strip()) :]
            if trace.finish_reason == "stop" and trace.cost == tried.tokens:
                assert answer.strip() == shown.strip()
                whole += 1
            assert (suffix + answer).partition("</think>")[2].strip().startswith(tried.answer)
    assert whole >= 2
