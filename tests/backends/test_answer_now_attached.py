"""`handle.answer_now()` under both libraries, on the bundled model: from a stream's reader, a thread, in a batch."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers.generation import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from reasonctl.backends import attach
from reasonctl.controller import Controller, PromptLookup
from support.llama_models import CALLS, PROMPT, open_llama

CONTROLLERS = {"plain": Controller, "drafted": lambda: Controller(drafter=PromptLookup(size=4))}
OTHER = "Q: 41 a+7 b-2 c+5\n<think>\n"


@pytest.fixture(scope="module")
def llm():
    return open_llama(n_ctx=512)


class Asks(BaseStreamer):
    """Asks from another thread once it has seen so many new tokens."""

    def __init__(self, handle, after):
        self.handle, self.after, self.seen, self.said = handle, after, [], None

    def put(self, value):
        self.seen += value.flatten().tolist()
        if len(self.seen) >= self.after and self.said is None:
            thread = threading.Thread(target=self._ask)
            thread.start()
            thread.join()

    def _ask(self):
        self.said = self.handle.answer_now()

    def end(self):
        pass


class AsksAtALength(StoppingCriteria):
    """Asks from another thread once a row has so many tokens; ends nothing."""

    stateless = True

    def __init__(self, handle, length):
        self.handle, self.length, self.said = handle, length, None

    def __call__(self, input_ids, scores, **more):
        if input_ids.shape[1] >= self.length and self.said is None:
            thread = threading.Thread(target=self._ask)
            thread.start()
            thread.join()
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def _ask(self):
        self.said = self.handle.answer_now()


def text_of(chunk):
    choice = chunk["choices"][0]
    return choice["delta"].get("content", "") if "delta" in choice else choice["text"]


@pytest.mark.parametrize("kind", CONTROLLERS)
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_stream_of_llama_cpp(llm, name, kind):
    with attach(llm, CONTROLLERS[kind]()) as handle:
        assert not handle.answer_now()
        text, said = "", []
        for number, chunk in enumerate(CALLS[name](llm, max_tokens=200, temperature=0.0, stream=True)):
            text += text_of(chunk)
            if number == 6:
                said.append(handle.answer_now())
        trace = handle.trace
        assert said == [True] and not handle.answer_now()
        assert trace.closed_by == "asked" and trace.why == "answer_now closed thinking"
        assert trace.thinking_tokens < 16 and text.count("</think>") == 1 and "answer" in text
        budget = trace.thinking_tokens
        same = CALLS[name](llm, max_tokens=200, temperature=0.0, thinking_budget=budget)
        assert handle.trace.tokens == trace.tokens and handle.trace.closed_by == "budget"
        assert same["choices"][0].get("text", same["choices"][0].get("message", {}).get("content")) == text


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_a_call_of_transformers_from_another_thread(hf, kind):
    model, tokenizer = hf
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with attach(model, CONTROLLERS[kind](), tokenizer=tokenizer) as handle:
        streamer = Asks(handle, inputs["input_ids"].shape[1] + 6)
        out = model.generate(**inputs, do_sample=False, max_new_tokens=200, streamer=streamer)
        trace = handle.trace
        assert streamer.said is True and not handle.answer_now()
        assert trace.closed_by == "asked" and streamer.seen[-len(trace.tokens) :] == trace.tokens
        assert tokenizer.decode(trace.tokens).count("</think>") == 1
        same = model.generate(**inputs, do_sample=False, max_new_tokens=200, thinking_budget=trace.thinking_tokens)
        assert torch.equal(out, same)


def test_every_row_of_a_batch_that_thinks(hf):
    model, tokenizer = hf
    inputs = tokenizer([PROMPT, OTHER], return_tensors="pt", padding=True)
    with attach(model, Controller(), tokenizer=tokenizer) as handle:
        asks = AsksAtALength(handle, inputs["input_ids"].shape[1] + 6)
        model.generate(**inputs, do_sample=False, max_new_tokens=200, stopping_criteria=[asks])
        assert asks.said is True and [trace.closed_by for trace in handle.traces] == ["asked", "asked"]
        assert all(tokenizer.decode(trace.tokens).count("</think>") == 1 for trace in handle.traces)
        streamer = Asks(handle, inputs["input_ids"].numel() + 6)
        model.generate(**inputs, do_sample=False, max_new_tokens=12, streamer=streamer)
        assert streamer.said is False and all("nobody follows" in trace.warnings[-1] for trace in handle.traces)


def test_a_processor_that_may_keep_a_state_is_left_in_peace(llm, hf):
    model, tokenizer = hf
    with attach(llm, Controller()) as handle:
        stream = llm.generate(llm.tokenize(PROMPT.encode()), temp=0.0, logits_processor=[lambda ids, scores: scores])
        next(stream)
        assert not handle.answer_now()
        stream.close()
    with attach(model, Controller(), tokenizer=tokenizer) as handle:
        streamer = Asks(handle, 20)
        inputs = tokenizer(PROMPT, return_tensors="pt")
        model.generate(**inputs, max_new_tokens=20, streamer=streamer, logits_processor=[lambda ids, scores: scores])
        assert streamer.said is False
