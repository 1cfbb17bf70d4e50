"""Calls of one attached model from several threads, and detaching meanwhile."""

from __future__ import annotations

import _thread
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from reasonctl.backends import turns
from reasonctl.backends.attach import attach
from reasonctl.controller import Controller, ControllerError, PromptLookup
from support.hf_models import GREEDY, PROMPT, TOKENIZER, Scripted, unpadded
from support.llama_models import ExitAt, bare, scripted

THREADS, CALLS = 8, 50
PROMPTS = [f"Q: {n} a+3 b-6\n<think>\n" for n in range(THREADS)]


def in_threads(call):
    """What `call(i)` gives in `THREADS` threads that begin together."""
    start = threading.Barrier(THREADS)

    def run(i):
        start.wait()
        return call(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.parametrize("kind", ["inert", "drafts", "exit"])
def test_calls_of_eight_threads_equal_lone_calls_on_llama_cpp(llm, kind):
    controllers = {"inert": Controller(), "drafts": Controller(drafter=PromptLookup())}
    attach(llm, scripted(llm, ExitAt(1)) if kind == "exit" else controllers[kind])

    def call(i):
        temperature = 0.0 if i % 2 else 1.0
        stream = i % 3 == 0
        answer = llm(PROMPTS[i], max_tokens=3, temperature=temperature, seed=i, stream=stream)
        return bare(answer)

    alone = [call(i) for i in range(THREADS)]
    together = in_threads(lambda i: [call(i) for _ in range(CALLS)])
    assert together == [[answer] * CALLS for answer in alone]


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("inert", "drafts")), "exit"]
)
def test_calls_of_eight_threads_equal_lone_calls_on_transformers(model, kind):
    controllers = {"inert": Controller(), "drafts": Controller(drafter=PromptLookup())}
    controller = Controller(exit=Scripted(exit_at=1)) if kind == "exit" else controllers[kind]
    prompts = [TOKENIZER(text, return_tensors="pt") for text in PROMPTS]

    def call(i):
        return model.generate(**prompts[i], max_new_tokens=3, do_sample=i % 2 == 0, seed=i).tolist()

    with attach(model, controller, tokenizer=TOKENIZER):
        alone = [call(i) for i in range(THREADS)]
        together = in_threads(lambda i: [call(i) for _ in range(CALLS)])
    assert together == [[answer] * CALLS for answer in alone]


def test_a_seed_given_to_the_call_decides_its_draws(model):
    inputs = unpadded([5, 6, 7])
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        draws = [model.generate(**inputs, max_new_tokens=20, do_sample=True, seed=seed).tolist() for seed in (3, 3, 4)]
        assert handle.trace.seed == 4
    assert draws[0] == draws[1] != draws[2]


def test_turns_are_given_in_the_order_of_the_calls():
    found, given = turns.Turns(), []
    first = found.turn()
    first.begin()

    def wait(i):
        with found.whole():
            given.append(i)

    threads = []
    for i in range(6):
        threads.append(threading.Thread(target=wait, args=(i,)))
        threads[-1].start()
        while len(found._waiting) <= i:
            time.sleep(0.001)
    first.end()
    for thread in threads:
        thread.join()
    assert given == list(range(6))


def test_a_waiting_call_can_be_interrupted():
    found = turns.Turns()
    running, over = threading.Event(), threading.Event()

    def hold():
        with found.whole():
            running.set()
            over.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    running.wait()
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt), found.whole():
        pass
    assert found.holder is not None and not found._waiting
    over.set()
    holder.join()
    with found.whole():
        pass


def test_a_stream_keeps_its_turn_while_it_is_read_and_loses_it_when_nobody_reads(llm, monkeypatch):
    monkeypatch.setattr(turns, "PATIENCE", 1.0)
    attach(llm, Controller())
    arguments = {"max_tokens": 5, "temperature": 0.0}
    alone = [bare(llm(text, **arguments)) for text in PROMPTS[:2]]
    stream, answers = llm(PROMPTS[0], stream=True, **arguments), []
    chunks = [next(stream)]
    other = threading.Thread(target=lambda: answers.append(bare(llm(PROMPTS[1], **arguments))))
    other.start()
    for chunk in stream:
        time.sleep(0.3)  # slower than the limit as a whole, and never between two reads
        assert not answers
        chunks.append(chunk)
    other.join()
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == alone[0]["choices"][0]["text"]
    assert answers == alone[1:]

    stream = llm(PROMPTS[0], stream=True, **arguments)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: bare(llm(PROMPTS[1], **arguments))).result(20) == alone[1]
    with pytest.raises(RuntimeError, match="another call"):
        next(stream)
    assert bare(llm(PROMPTS[0], **arguments)) == alone[0]


@pytest.mark.parametrize("drop", [lambda stream: stream.close(), lambda stream: None], ids=["closed", "collected"])
def test_a_stream_that_is_closed_or_collected_ends_its_turn(llm, drop):
    attach(llm, Controller())
    streams = [llm(PROMPTS[0], max_tokens=9, stream=True)]
    next(streams[0])
    drop(streams.pop())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: llm(PROMPTS[1], max_tokens=2, temperature=0.0)).result(turns.PATIENCE / 2)
    assert answer["usage"]["completion_tokens"] == 2


class Holds(StoppingCriteria):
    """Keeps the call inside a step until it is let go."""

    def __init__(self):
        self.inside, self.over = threading.Event(), threading.Event()

    def __call__(self, ids, scores, **more):
        self.inside.set()
        self.over.wait(20)
        return torch.ones(len(ids), dtype=torch.bool)


def test_detaching_during_a_run_is_refused_and_the_run_ends_as_it_should(model):
    holds = Holds()
    handle = attach(model, Controller(), tokenizer=TOKENIZER)
    criteria = StoppingCriteriaList([holds])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: model.generate(**PROMPT, stopping_criteria=criteria, **GREEDY))
        holds.inside.wait(20)
        with pytest.raises(ControllerError, match="is running"):
            handle.detach()
        assert handle.attached
        holds.over.set()
        assert running.result(20).shape[1] == PROMPT["input_ids"].shape[1] + 1
    handle.detach()
    assert not handle.attached
    assert model.generate(**PROMPT, **GREEDY).shape[1] > 0


def test_detaching_ends_an_open_stream_loudly(llm):
    handle = attach(llm, Controller())
    stream = llm(PROMPTS[0], max_tokens=9, stream=True)
    next(stream)
    handle.detach()
    with pytest.raises(RuntimeError, match="detached"):
        next(stream)
    assert llm(PROMPTS[0], max_tokens=2)["usage"]["completion_tokens"] == 2


def test_a_call_inside_another_call_is_refused_at_once(model, llm):
    def again(ids, scores):
        return torch.tensor([bool(model.generate(**PROMPT, **GREEDY).shape)])

    with attach(model, Controller(), tokenizer=TOKENIZER), pytest.raises(ControllerError, match="inside another call"):
        model.generate(**PROMPT, stopping_criteria=[again], **GREEDY)
    attach(llm, Controller())
    with pytest.raises(ControllerError, match="inside another call"):
        llm(PROMPTS[0], max_tokens=3, logits_processor=[lambda ids, scores: llm(PROMPTS[1]) and scores])
    assert llm(PROMPTS[0], max_tokens=2, temperature=0.0)["usage"]["completion_tokens"] == 2
