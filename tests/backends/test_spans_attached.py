"""Several thinking spans in a run of the bundled model, under both libraries: plain, drafted and batched; and turns."""

from __future__ import annotations

import pytest
import torch

from reasonctl.backends import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.tokenizer import LlamaTokenizer, end_tokens
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Effort,
    Ended,
    Keys,
    Markers,
    Policy,
    PromptLookup,
    Scheduler,
    Thinking,
    Trace,
    Turn,
)
from reasonctl.controller.decoding.drivers import drive
from support.hf_models import Shown
from support.llama_models import CALLS, PROMPT, open_llama

DRAFTERS = {"plain": None, "drafted": PromptLookup(size=4)}
MARKED = Thinking(Markers("<think>", "</think>"), "</think>\n")
OTHER = "Q: 41 a+7 b-2 c+5\n<think>\n"


class Spans(Policy):
    """Writes three spans of 52 a+3 55 and an answer after each, whatever becomes of them."""

    def __init__(self, tokenizer):
        self.think = tokenizer.encode("52 a+3 55\n") * 2 + tokenizer.encode("</think>\n")
        self.answer = tokenizer.encode("answer is 57 ")
        self.open, self.over = tokenizer.encode("<think>"), tokenizer.encode("<eos>")

    def start(self):
        return "think", 0, 1, 0

    def step(self, state, row):
        phase, place, spans, length = state
        if row.phase != phase or len(row.tokens) != length + 1:  # a close was fed
            place = 0
        last = self.open if spans < 3 else self.over
        text = self.think if row.phase == "think" else [*self.answer, *last]
        token = text[min(place, len(text) - 1)]
        spans += row.phase != "think" and token == self.open[-1] and place == len(text) - 1
        return token_state(row, place, spans), token


def token_state(row, place, spans):
    return row.phase, place + 1, spans, len(row.tokens)


@pytest.fixture(scope="module")
def llm():
    return open_llama(n_ctx=512)


def check(text, trace, budget, per):
    assert ("<think>" + text).count("<think>") == text.count("</think>") == 3 == len(trace.spans)
    spent = [span.tokens for span in trace.spans]
    assert (sum(spent) if per == "run" else max(spent)) <= budget
    assert trace.closed_by == "budget" and trace.finish_reason == "stop"


@pytest.mark.parametrize("per", ["run", "span"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_on_llama_cpp(llm, drafter, per):
    policy = Spans(LlamaTokenizer(llm))
    for budget in (0, 3, 7, 12):
        controller = Controller(policy=policy, drafter=DRAFTERS[drafter], budget=budget, budget_per=per)
        with attach(llm, controller) as handle:
            made = llm.create_completion(PROMPT, max_tokens=200, stream=True)
            text = "".join(chunk["choices"][0]["text"] for chunk in made)
            check(text, handle.trace, budget, per)


@pytest.mark.parametrize("per", ["run", "span"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_on_transformers_alone_and_in_a_batch(hf, drafter, per):
    model, tokenizer = hf
    policy = Spans(HFTokenizer(tokenizer))
    one = tokenizer(PROMPT, return_tensors="pt")
    two = tokenizer([PROMPT, OTHER], return_tensors="pt", padding=True)
    for budget in (0, 3, 7, 12):
        controller = Controller(policy=policy, drafter=DRAFTERS[drafter], budget=budget, budget_per=per)
        with attach(model, controller, tokenizer=tokenizer) as handle:
            shown = Shown()
            model.generate(**one, max_new_tokens=200, streamer=shown)
            alone = handle.trace
            assert shown.tokens[one["input_ids"].shape[1] :] == alone.tokens
            check(tokenizer.decode(alone.tokens), alone, budget, per)
            model.generate(**two, max_new_tokens=200)
            assert handle.traces[0].tokens == alone.tokens
            for trace in handle.traces:
                check(tokenizer.decode(trace.tokens), trace, budget, per)


@pytest.mark.parametrize("per", ["run", "span"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_in_the_shared_forwards_of_llama_cpp(drafter, per):
    """Runs under several budgets in one batch are the runs alone."""
    engine = LlamaEngine(open_llama(n_ctx=2048), hidden=False, batch=4)
    tokenizer = LlamaTokenizer(engine.context.llm)
    policy, prompts = Spans(tokenizer), [tokenizer.encode(PROMPT), tokenizer.encode(OTHER)]
    scheduler, traces = Scheduler(), {}
    for job in [(budget, which) for budget in (0, 3, 7, 12) for which in (0, 1)]:
        controller = Controller(
            policy=policy, drafter=DRAFTERS[drafter], budget=job[0], budget_per=per, thinking=MARKED
        )
        call = Call(prompts[job[1]], 200, end_tokens(engine.context.llm), Keys(seed=0), policy)
        traces[job] = Trace(), Trace()
        list(drive(controller.run(engine, tokenizer, call, traces[job][0])))
        needs = controller.needs(engine, tokenizer, call)
        scheduler.add(job, controller.run(engine, tokenizer, call, traces[job][1]), needs)
    assert not [output.error for output in scheduler if isinstance(output, Ended) and output.error is not None]
    for (budget, _), (alone, shared) in traces.items():
        assert shared.tokens == alone.tokens and shared.spans == alone.spans
        check(tokenizer.decode(shared.tokens), shared, budget, per)
    engine.close()


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_turn_of_llama_cpp(llm, name):
    with attach(llm, Controller(budget=20)) as handle:
        turn, spent = Turn(), []
        for _ in range(3):
            CALLS[name](llm, max_tokens=200, temperature=0.0, turn=turn, thinking_budget=14)
            spent.append(handle.trace.thinking_tokens)
            assert handle.trace.overrides == {"thinking_budget": 14}
        assert spent == [14, 0, 0] and turn.thinking_tokens == 14 and handle.trace.spent_before == 14
        CALLS[name](llm, max_tokens=200, temperature=0.0)
        assert handle.trace.thinking_tokens == 20 and turn.thinking_tokens == 14
        with pytest.raises(ControllerError, match="turn is 5; make one with Turn"):
            CALLS[name](llm, max_tokens=9, turn=5)


def test_a_turn_of_transformers(hf):
    model, tokenizer = hf
    one = tokenizer(PROMPT, return_tensors="pt")
    two = tokenizer([PROMPT, OTHER], return_tensors="pt", padding=True)
    with attach(model, Controller(budget=20), tokenizer=tokenizer) as handle:
        turn = Turn()
        for spent in (14, 6, 0):
            model.generate(
                **one, do_sample=False, max_new_tokens=200, turn=turn, thinking_budget=14 if spent > 6 else 20
            )
            assert handle.trace.thinking_tokens == spent
        assert turn.thinking_tokens == 20 and torch.is_grad_enabled()
        with pytest.raises(ControllerError, match="a turn is one conversation's, and this call has 2 rows"):
            model.generate(**two, do_sample=False, max_new_tokens=9, turn=turn)


def test_calls_have_shares_seconds_and_efforts_of_their_own(llm, hf):
    model, tokenizer = hf
    one = tokenizer(PROMPT, return_tensors="pt")
    efforts = {"low": 6, "short": Effort(thinking_seconds=0)}
    asked = [
        ({"thinking_budget": 0.05}, "budget", 10),
        ({"thinking_seconds": 0}, "time", 1),
        ({"effort": "low"}, "budget", 6),
        ({"effort": "short"}, "time", 1),
        ({"effort": "none"}, "budget", 0),
    ]
    with (
        attach(llm, Controller(efforts=efforts)) as of_llama,
        attach(model, Controller(efforts=efforts), tokenizer=tokenizer) as of_hf,
    ):
        for wish, closer, thought in asked:
            llm(PROMPT, max_tokens=200, temperature=0.0, **wish)
            model.generate(**one, do_sample=False, max_new_tokens=200, **wish)
            for trace in (of_llama.trace, of_hf.trace):
                assert (trace.closed_by, trace.thinking_tokens, trace.overrides) == (closer, thought, wish)
