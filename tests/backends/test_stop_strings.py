"""Stop strings under a controller: a match counts where it lies wholly in what the model wrote."""

from __future__ import annotations

import pytest

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import Controller, Markers, Thinking
from support.hf_models import PROMPT as HF_PROMPT
from support.hf_models import TOKENIZER, small
from support.llama_models import PROMPT, Scripted, open_llama

MARKERS = Markers("<think>", "</think>")
THOUGHT = "52 a+3 55 b-6 49 c+8 57 "
CASES = {
    "within": ("</think>\n\n", "is 57\n\n 4 5", "\n\n", "is 57"),
    "marker": ("</think>\n\n", "is 57 ink 4 5", "ink", "is 57 "),
    "across": ("</think>.", ". 57. 4", ". ", ""),
    "across, then own": ("</think>.", " 57. 4 5", ". ", " 57"),
    "own match behind one that begins earlier": ("</think> 5", " 5 5 5 7", " 5 5", ""),
}
"""Suffix, what the model would write behind it, stop string, and what it has written when that ends the call."""


@pytest.fixture(scope="module")
def llm():
    made = open_llama()
    yield made
    made.close()


def controller(tokenizer, suffix, answer):
    policy = Scripted(tokenizer, THOUGHT, answer + " 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9")
    return Controller(policy=policy, thinking=Thinking(MARKERS, suffix), budget=4)


@pytest.mark.filterwarnings("ignore:the controller's own policy")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", list(CASES))
def test_llama_cpp_passes_over_fed_text(llm, case, stream):
    suffix, answer, stop, written = CASES[case]
    with attach(llm, controller(LlamaTokenizer(llm), suffix, answer)) as handle:
        whole = llm(PROMPT, max_tokens=24, temperature=0.0)["choices"][0]["text"]
        found = llm(PROMPT, max_tokens=24, temperature=0.0, stop=[stop], stream=stream)
        chunks = list(found) if stream else [found]
        assert handle.trace.forced is not None and handle.trace.closed_by == "budget"
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    thought, _ = whole.split(suffix, 1)
    assert text == thought + suffix + written
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("case", list(CASES))
def test_transformers_passes_over_fed_text(case):
    suffix, answer, stop, written = CASES[case]
    model = small()
    tokenizer = HFTokenizer(TOKENIZER)
    with attach(model, controller(tokenizer, suffix, answer), tokenizer=TOKENIZER) as handle:
        ids = model.generate(**HF_PROMPT, max_new_tokens=40, do_sample=True, stop_strings=[stop])[0].tolist()
        assert handle.trace.closed_by == "budget" and handle.trace.finish_reason == "stop"
    text = tokenizer.decode(ids[HF_PROMPT["input_ids"].shape[1] :])
    _, behind = text.split(suffix, 1)
    assert behind == written + stop


def test_a_match_in_the_thought_still_ends_the_call(llm):
    with attach(llm, controller(LlamaTokenizer(llm), "</think>\n\n", "is 57")):
        assert llm(PROMPT, max_tokens=24, temperature=0.0, stop=["2 a"])["choices"][0]["text"] == "5"
