"""A warning, a loop's close and an end inside thinking: plain, drafted and batched on both libraries, on `tiny`.

The runs of a batch are the runs alone, and nobody is shown what is taken back.
"""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.backends import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import end_tokens
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import (
    Call,
    Controller,
    Ended,
    Keys,
    Markers,
    PromptLookup,
    Scheduler,
    Thinking,
    Trace,
    drive,
)
from support.hf_models import Shown
from support.llama_models import PROMPT, Scripted, open_llama

LINE = "52 a+3 55\nWait, b-6 49\nWait, c+8 57\n"
WARNING = "\nok 4\n"
MARKED = Thinking(Markers("<think>", "</think>"), "</think>\n", opens="prompt")
ANSWER = "answer is 57<eos>"
CASES = {
    "warning": (LINE * 9, {"budget": 60, "warn_before": 24, "warning": WARNING}),
    "loop": (LINE * 9, {"stop_loops": 3}),
    "end": ("52 a+3 55\n<eos>", {"always_answer": True}),
}
EACH = [pytest.param(case, marks=() if case == "warning" else pytest.mark.slow) for case in CASES]
DRAFTERS = {"plain": None, "drafted": PromptLookup(size=4)}


def check(case, text, trace, tokenizer):
    closers = {"warning": "budget", "loop": "loop", "end": "end"}
    assert trace.closed_by == closers[case] and text.count("</think>") == 1
    assert text.endswith(ANSWER.removesuffix("<eos>")) or text.endswith(ANSWER)
    if case == "warning":
        (place,) = trace.warned
        assert text.count(WARNING) == 1 and tokenizer.decode(trace.tokens[:place]) + WARNING in text
        assert 60 - 24 <= place <= 60 - 24 + 4 and trace.thinking_tokens <= 60


def controller(case, tokenizer, drafter):
    script, settings = CASES[case]
    policy = Scripted(tokenizer, script, ANSWER)
    return Controller(policy=policy, drafter=DRAFTERS[drafter], **settings)


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("case", EACH)
def test_streams_of_llama_cpp(case, drafter):
    llm = open_llama(n_ctx=512)
    tokenizer = LlamaTokenizer(llm)
    with attach(llm, controller(case, tokenizer, drafter)) as handle:
        made = llm.create_completion(PROMPT, max_tokens=300, stream=True)
        text = "".join(chunk["choices"][0]["text"] for chunk in made)
        check(case, text, handle.trace, tokenizer)


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("case", EACH)
def test_shared_forwards_of_llama_cpp(case, drafter):
    engine = LlamaEngine(open_llama(n_ctx=2048), hidden=False, batch=2)
    tokenizer, scheduler = LlamaTokenizer(engine.context.llm), Scheduler()
    made = controller(case, tokenizer, drafter)
    made = Controller(policy=made.policy, drafter=made.drafter, thinking=MARKED, **CASES[case][1])
    traces = []
    for prompt in (PROMPT, "b = 3. " + PROMPT):
        call = Call(tokenizer.encode(prompt), 300, end_tokens(engine.context.llm), Keys(seed=0), made.policy)
        alone, shared = Trace(), Trace()
        list(drive(made.run(engine, tokenizer, call, alone)))
        scheduler.add(prompt, made.run(engine, tokenizer, call, shared), made.needs(engine, tokenizer, call))
        traces.append((alone, shared))
    assert not [output.error for output in scheduler if isinstance(output, Ended) and output.error is not None]
    for alone, shared in traces:
        assert shared.tokens == alone.tokens and shared.warned == alone.warned
        check(case, tokenizer.decode(shared.tokens), shared, tokenizer)


@pytest.fixture(scope="module")
def hf():
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder(), padding_side="left")
    return AutoModelForCausalLM.from_pretrained(tiny_folder()).eval(), tokenizer


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("case", EACH)
def test_transformers_alone_and_in_a_batch(hf, case, drafter):
    model, library = hf
    tokenizer = HFTokenizer(library)
    one = library(PROMPT, return_tensors="pt")
    two = library([PROMPT, "b = 3. " + PROMPT], return_tensors="pt", padding=True)
    with attach(model, controller(case, tokenizer, drafter), tokenizer=library) as handle:
        shown = Shown()
        model.generate(**one, max_new_tokens=300, streamer=shown)
        alone = handle.trace
        assert shown.tokens[one["input_ids"].shape[1] :] == alone.tokens
        check(case, tokenizer.decode(alone.tokens), alone, tokenizer)
        model.generate(**two, max_new_tokens=300)
        assert handle.traces[0].tokens == alone.tokens
        for trace in handle.traces:
            check(case, tokenizer.decode(trace.tokens), trace, tokenizer)
