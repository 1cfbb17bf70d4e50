"""The end of a run is told once, whoever reads it: the drift monitor and weighed policies hear of every run."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.backends import attach
from reasonctl.backends.load import BUNDLED_PROBE, tiny_folder
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Chain, Controller, Keys, Sampling, Temperature, TopK, Trace, Weighed, log_z
from reasonctl.probes import load_exit
from support.llama_models import PROMPT, open_llama
from support.scripted import RandomTree, Scripted

PROBE = BUNDLED_PROBE
CHAIN = Chain(Temperature(0.6), TopK(50))


def told(handle) -> tuple[int, bool]:
    return handle.trace.drift["runs"], handle.trace.log_z is not None


def test_llama_tells_the_end_of_every_run():
    llm = open_llama(n_ctx=1024)
    with attach(llm, Controller(exit=load_exit(PROBE), policy=Weighed(CHAIN))) as handle:
        llm(PROMPT, max_tokens=700, seed=1)  # ends with EOS
        assert handle.trace.finish_reason == "stop" and told(handle) == (1, True)
        llm(PROMPT, max_tokens=20, seed=2)  # at the limit
        assert handle.trace.finish_reason == "length" and told(handle) == (2, True)
        llm(PROMPT, max_tokens=700, seed=3, stop=["answer"])  # by the library, with tokens to come
        assert told(handle) == (3, True)
        made = llm(PROMPT, max_tokens=700, seed=4, stream=True)
        next(made)
        while not handle.trace.decisions:
            next(made)
        made.close()  # nobody reads on
        assert told(handle) == (4, True)
        made = llm(PROMPT, max_tokens=700, seed=4, stream=True)
        next(made)
        made.close()
        assert not handle.trace.decisions and told(handle) == (4, True)  # nothing is known of it


def test_transformers_tells_the_end_of_every_run():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_folder()), AutoTokenizer.from_pretrained(tiny_folder())
    rule = load_exit(PROBE)
    with (
        warnings.catch_warnings(action="ignore"),  # another dtype than the probe's, and do_sample without effect
        attach(model, Controller(exit=rule, policy=Weighed(CHAIN)), tokenizer=tokenizer) as handle,
    ):
        torch.manual_seed(0)
        inputs = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
        model.generate(**inputs, max_new_tokens=700)
        assert told(handle) == (1, True)
        model.generate(**inputs, max_new_tokens=20)
        assert told(handle) == (2, True)
        # Samples of one prompt in one call depend on each other: one of them counts.
        model.generate(**inputs, max_new_tokens=60, num_return_sequences=3, do_sample=True)
        assert [trace.repeat for trace in handle.traces] == [False, True, True]
        assert [trace.drift["runs"] for trace in handle.traces] == [3, 3, 3]


TEXTS = ["a ", "b ", "c ", "Wait", ", ", "x", "</think>", "<think>", "So ", "<eos>"]
TOY = ToyEngine(vocabulary=len(TEXTS), order=1, seed=3)


class Heard(Scripted):
    """An exit rule that keeps the traces of finished runs."""

    def finish(self, trace: Trace) -> None:
        self.ended.append(len(trace.tokens))


def heard() -> Heard:
    rule = Heard(lambda at: False)
    rule.ended = []
    return rule


def stream(rule: Heard, seed: int, trace: Trace, engine: ToyEngine = TOY, most: int = 40, beyond: int = 0):
    policy, drafter = Weighed(CHAIN), RandomTree(len(TEXTS))
    call = Call([0, 7], most, frozenset([9]), Keys(seed=seed), Sampling(), beyond=beyond)
    controller = Controller(exit=rule, policy=policy, drafter=drafter)
    return controller.stream(engine.session(), ToyTokenizer(TEXTS), call, trace)


@pytest.mark.parametrize("seed", range(6))
def test_once_with_what_was_shown(seed):
    """Read to the end, or left after n tokens: told once, and ln Z is of those n tokens."""
    whole, rule = Trace(), heard()
    known = [list(rule.ended) for _ in stream(rule, seed, whole)]
    assert known[-1] == rule.ended == [len(whole.tokens)]  # who has the last token need not ask for more
    assert not any(known[:-1])
    for n in range(1, len(whole.tokens) + 1):
        trace, rule = Trace(), heard()
        reading = stream(rule, seed, trace)
        for _ in range(n):
            next(reading)
        reading.close()
        assert rule.ended == [n]
        rows = ([0, 7, *whole.tokens[:k]] for k in range(n))
        assert trace.log_z == pytest.approx(sum(log_z(CHAIN, np.log(TOY.probs(tokens))) for tokens in rows))


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_that_asks_past_the_limit_reads_the_same_run(seed):
    """Its end is told once, when it is left, and ln Z is of all that was read."""
    whole = Trace()
    list(stream(heard(), seed, whole))
    for most in range(1, len(whole.tokens)):
        for more in range(len(whole.tokens) - most + 1):
            trace, rule = Trace(), heard()
            reading = stream(rule, seed, trace, most=most, beyond=40 - most)
            for _ in range(most + more):
                next(reading)
            reading.close()
            assert trace.tokens == whole.tokens[: most + more]
            assert rule.ended == [most + more]
            assert trace.finish_reason == ("stop" if trace.tokens[-1] == 9 else "length")
            rows = ([0, 7, *trace.tokens[:k]] for k in range(most + more))
            assert trace.log_z == pytest.approx(sum(log_z(CHAIN, np.log(TOY.probs(tokens))) for tokens in rows))


def test_the_limit_past_the_limit_ends_the_run():
    trace, rule = Trace(), heard()
    list(stream(rule, 0, trace, most=3, beyond=2))
    assert len(trace.tokens) == 5 and rule.ended == [5] and trace.finish_reason == "length"


def test_a_run_that_breaks_has_no_end():
    class Broken(ToyEngine):
        def forward(self, requests):
            if self.forwards == 3:
                raise MemoryError
            return super().forward(requests)

    rule, trace = heard(), Trace()
    with pytest.raises(MemoryError):
        list(stream(rule, 0, trace, Broken(vocabulary=len(TEXTS), seed=3)))
    assert rule.ended == [] and trace.log_z is None
