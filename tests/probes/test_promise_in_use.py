"""A promise is claimed for the law and the limit that it was made for; every call is compared with them."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from llama_cpp import LlamaGrammar
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.backends import attach
from reasonctl.backends.load import BUNDLED_PROBE, tiny_folder
from reasonctl.controller import Controller, Decision, Trace, Turn, parse_policy
from reasonctl.probes import load_exit
from support.llama_models import PROMPT, open_llama

PROBE = BUNDLED_PROBE
CARD = load_exit(PROBE).card
LAW = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
SAME = {**LAW, "temperature": 0.6}


def with_run(handle) -> list[str]:
    trace = handle.trace
    different = [warning for warning in trace.warnings if "promise doesn't cover this run" in warning]
    assert ("not promised for this call" in trace.rule) == bool(different)
    assert all(warning.split(":")[0] in trace.rule for warning in different)
    return different


def test_llama_compares_every_call():
    llm, most = open_llama(n_ctx=1024), CARD.max_new_tokens
    with attach(llm, Controller(exit=load_exit(PROBE))) as handle:
        llm(PROMPT, max_tokens=most, seed=1, **SAME)
        assert with_run(handle) == []
        llm(PROMPT, max_tokens=most, seed=1, **{**SAME, "temperature": 1.5}, risk=0.02)
        (law,) = with_run(handle)
        assert law.startswith("sampler policy is 'temperature(1.5)', calibrated with 'temperature(0.6)'")
        llm(PROMPT, max_tokens=40, seed=1, **{**SAME, "top_k": 5})
        limit, law = with_run(handle)
        assert limit.startswith(f"max_new_tokens is 40, calibrated with {most}") and "top_k(5)" in law
        llm(PROMPT, max_tokens=most, seed=1, repeat_penalty=1.2, **SAME)
        assert len(with_run(handle)) == 1
    with attach(llm, Controller(exit=load_exit(PROBE), policy=parse_policy("temperature(0.60)"))) as handle:
        llm(PROMPT, max_tokens=most, seed=1)
        assert with_run(handle) == []


def test_transformers_compares_every_call():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_folder()), AutoTokenizer.from_pretrained(tiny_folder())
    inputs, most = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False), CARD.max_new_tokens
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # another dtype than the probe's
        handle = attach(model, Controller(exit=load_exit(PROBE)), tokenizer=tokenizer)
    model.generate(**inputs, max_new_tokens=most, do_sample=True, **SAME)
    assert with_run(handle) == []
    for more in ({"temperature": 1.5}, {"top_p": 0.5}, {"top_k": 9}, {"min_p": 0.1}, {"repetition_penalty": 1.2}):
        model.generate(**inputs, max_new_tokens=most, do_sample=True, **{**SAME, **more})
        (law,) = with_run(handle)
        assert law.startswith("sampler policy is")
    model.generate(**inputs, max_new_tokens=most + 1, do_sample=False)
    assert len(with_run(handle)) == 2 and "'greedy'" in with_run(handle)[1]
    handle.detach()


LIMITS = {
    "budget": ({"budget": 9}, "budget is 9, calibrated with none"),
    "share": ({"budget": 0.5}, f"budget is {CARD.max_new_tokens // 2}, calibrated with none"),
    "seconds": ({"thinking_seconds": 50.0}, "thinking_seconds is 50.0, calibrated with none"),
    "least": ({"min_thinking": 5}, "min_thinking is 5, calibrated with none"),
    "continued": ({"continue_times": 1}, "continue_times is 1, calibrated with none"),
    "loops": ({"stop_loops": 3}, "stop_loops is 3, calibrated with none"),
    "answers": ({"always_answer": True}, "always_answer is True, calibrated with False"),
}


@pytest.fixture(scope="module")
def llm():
    return open_llama(n_ctx=1024)


@pytest.fixture(params=["llama", "hf"])
def used(request, llm, hf):
    """A function of a rule, settings and a call's options that makes a call; its trace and the rule."""

    def call(rule, settings, **asked):
        with warnings.catch_warnings(action="ignore"):
            if request.param == "llama":
                handle = attach(llm, Controller(exit=rule, **settings))
            else:
                handle = attach(hf[0], Controller(exit=rule, **settings), tokenizer=hf[1])
        with handle:
            if request.param == "llama":
                llm(PROMPT, max_tokens=CARD.max_new_tokens, seed=1, **SAME, **asked)
            else:
                inputs = hf[1](PROMPT, return_tensors="pt", add_special_tokens=False)
                hf[0].generate(**inputs, max_new_tokens=CARD.max_new_tokens, do_sample=True, seed=1, **SAME, **asked)
            return handle.trace

    return call


def why_not(rule, trace):
    """What stands in the guarantee besides the model's own differences, of another dtype for example."""
    use = {"sampler": CARD.sampler, "max_new_tokens": CARD.max_new_tokens, "tasks": CARD.tasks, "grader": CARD.grader}
    known, with_run = rule.guarantee(**use)["why_not"], rule.guarantee(**use, trace=trace)["why_not"]
    assert with_run[: len(known)] == known
    assert [f"{reason}: the exit rule's promise doesn't cover this run" for reason in trace.why_not] == [
        warning for warning in trace.warnings if "promise doesn't cover this run" in warning
    ]
    return with_run[len(known) :]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_of_thinking_stands_in_the_guarantee(used, limit):
    settings, line = LIMITS[limit]
    rule = load_exit(PROBE)
    trace = used(rule, settings)
    assert why_not(rule, trace) == trace.why_not == [line] and line in trace.rule


def test_whatever_else_changes_a_run_stands_in_the_guarantee(used):
    rule = load_exit(PROBE)
    assert why_not(rule, used(rule, {})) == []
    (line,) = why_not(rule, used(rule, {}, thinking_budget=3))  # the option of one call
    assert line == "budget is 3, calibrated with none"
    turn = Turn()
    assert why_not(rule, used(rule, {}, turn=turn)) == []
    (line,) = why_not(rule, used(rule, {}, turn=turn))
    assert line == "the call goes on with a turn in which an earlier call thought"
    rule.later_spans = True  # exits after the first span, calibrated without
    assert used(rule, {}).why_not == ["later_spans is True, calibrated with False"]


def test_a_grammar_stands_in_the_guarantee(llm, hf):
    rule = load_exit(PROBE)
    with attach(llm, Controller(exit=rule)) as handle:
        llm(PROMPT, max_tokens=CARD.max_new_tokens, seed=1, grammar=LlamaGrammar.from_string("root ::= [0-9]+"), **SAME)
        (line,) = handle.trace.why_not
    assert line.startswith("sampler policy is") and "grammar" in line
    with warnings.catch_warnings(action="ignore"):
        handle = attach(hf[0], Controller(exit=rule), tokenizer=hf[1])
    with handle:
        inputs = hf[1](PROMPT, return_tensors="pt", add_special_tokens=False)
        asked = {"max_new_tokens": CARD.max_new_tokens, "do_sample": True, "grammar": "root ::= [0-9]+", **SAME}
        hf[0].generate(**inputs, **asked)
        (line,) = handle.trace.why_not
    assert line.startswith("sampler policy is") and "grammar" in line


def test_one_comparison_for_the_call_and_the_guarantee():
    rule = load_exit(PROBE)
    for policy, limit in (("temperature(0.60)", CARD.max_new_tokens), ("greedy", 5), ("odd(1)", CARD.max_new_tokens)):
        sampler = {**CARD.sampler, "policy": policy}
        said = rule.guarantee(sampler=sampler, max_new_tokens=limit, tasks=CARD.tasks, grader=CARD.grader)["why_not"]
        assert said[:-1] == rule.in_use(policy, limit)  # the last: no model was compared
        assert bool(said[:-1]) == (policy != "temperature(0.60)")


def test_event_says_that_it_has_no_confidence():
    asked, marginal = (load_exit(PROBE, mode="event", risk=0.3, confidence=c) for c in (0.9, None))
    assert asked.threshold.value == marginal.threshold.value < math.inf
    assert "the confidence 0.9 is not used" in asked.why and "not used" not in marginal.why


@pytest.mark.parametrize(
    ("threshold", "rule", "why"),
    [
        (math.inf, "never exit: 5 more runs are needed", "never exit: 5 more runs are needed"),
        (math.inf, "", "threshold +inf, too few calibration runs for this risk"),
        (-math.inf, "", "exits at every cue"),
        (0.5, "", None),
    ],
)
def test_a_trace_is_json(threshold, rule, why):
    decision = Decision(threshold < 0, "wait", 0, 3, 0.25, threshold)
    written = json.dumps(Trace(rule=rule, decisions=[decision], log_z=-math.inf).to_dict(), allow_nan=False)
    with_run = json.loads(written)
    assert with_run["decisions"][0]["threshold"] == (threshold if math.isfinite(threshold) else None)
    assert with_run["threshold_why"] == why and with_run["log_z"] is None and with_run["decisions"][0]["score"] == 0.25
