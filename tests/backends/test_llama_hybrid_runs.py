"""Whole runs on hybrid and windowed models: every row that a policy read is that of a fresh run over its text.

Exits, trials, budgets, half-written markers, re-opening and drafts, attached and in shared forwards.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.attach import attach
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import load_gguf
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Cues,
    Ended,
    Greedy,
    Keys,
    Markers,
    ModelDrafter,
    PromptLookup,
    Scheduler,
    Thinking,
    Trace,
)
from reasonctl.controller.drafting.planning.cost import CostCurve
from support.gguf_models import ARCHITECTURES
from support.llama_models import PROMPT, ExitAt, bare
from support.recorded_rows import BOUND, Foresight, Fresh, Recording, open_gguf

FEW = ("lfm2", "qwen35", "gemma3")
ALL = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in ARCHITECTURES]
THINKING = Thinking(Markers("<think>", "</think>"), "\n</think>\n")
CURVES = CostCurve({0: {1: 1.0, 32: 1.0}}), CostCurve({0: {1: 0.05, 32: 0.05}})
"""Drafting always pays."""
SCRIPT = "52 a+3 55\nWait, b-6 49\nWait, c+8 57\n\nok</think>"


def tokens_of(tokenizer, text, whole_marker=True):
    """A text's ids; the closing marker in three pieces, or as the one token that it has."""
    if whole_marker:
        return tokenizer.encode(text)
    head, tail = text.split("</think>")
    pieces = [token for piece in ("</", "think", ">") for token in tokenizer.encode(piece)]
    return [*tokenizer.encode(head), *pieces, *tokenizer.encode(tail)]


def exit_at(at, trials=False, cues=ExitAt.cues, form="replace"):
    rule = ExitAt(at, trials, form)
    rule.cues = cues
    rule.layers = lambda depth: (depth - 2,)
    return rule


CASES = {
    "exit": lambda script: Controller(exit=exit_at(1)),
    "trials": lambda script: Controller(exit=exit_at(2, trials=True)),
    "append": lambda script: Controller(exit=exit_at(1, form="append")),
    "append trials": lambda script: Controller(exit=exit_at(2, trials=True, form="append")),
    "append-open": lambda script: Controller(exit=exit_at(1, form="append-open")),
    "drafted append": lambda script: Controller(exit=exit_at(2, trials=True, form="append"), drafter=Foresight(script)),
    "every": lambda script: Controller(exit=exit_at(2, trials=True, cues=Cues(["every(7)"]))),
    "never": lambda script: Controller(exit=exit_at(float("inf"))),
    "budget": lambda script: Controller(thinking=THINKING, budget=21, wrap_up="\nok\n"),
    "re-open": lambda script: Controller(thinking=THINKING, min_thinking=len(script) + 4, continue_times=1),
    "drafted": lambda script: Controller(drafter=Foresight(script)),
    "drafted exit": lambda script: Controller(exit=exit_at(2, trials=True), drafter=Foresight(script)),
    "drafted re-open": lambda script: Controller(
        thinking=THINKING, continue_times=1, budget=40, drafter=Foresight(script)
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module", params=ALL)
def model(request, folder):
    """A Llama, and the rows that it should give."""
    return open_gguf(folder, request.param), Fresh(folder, request.param)


def happened(case: str, trace: Trace) -> bool:
    """Whether the run had what its case is about."""
    closers = [span.closed_by for span in trace.spans]
    return {
        "exit": trace.exit is not None and trace.exit.index == 1,
        "append": trace.exit is not None and trace.exit.index == 1,
        "append trials": "exit" in closers and len(trace.decisions) == 3,
        "append-open": trace.exit is not None and trace.exit.index == 1,
        "drafted append": "exit" in closers and trace.accepted > 8,
        "trials": "exit" in closers and len(trace.decisions) == 3,
        "every": "exit" in closers and len(trace.decisions) == 3,
        "never": "model" in closers and len(trace.decisions) == 3,
        "budget": "budget" in closers,
        "re-open": len(trace.reopened) >= 1,
        "drafted": trace.accepted > 8 and trace.drafted > 2 * trace.accepted > 0,
        "drafted exit": "exit" in closers and trace.accepted > 8,
        "drafted re-open": len(trace.reopened) >= 1 and trace.accepted > 8,
    }[case]


@pytest.mark.parametrize("whole", [True, False], ids=["marker", "pieces"])
@pytest.mark.parametrize("case", CASES)
def test_every_row_is_that_of_a_fresh_run(model, case, whole):
    llm, fresh = model
    tokenizer = LlamaTokenizer(llm)
    script = tokens_of(tokenizer, SCRIPT, whole)
    policy = Recording(script)
    with attach(llm, replace(CASES[case](script), policy=policy)) as handle:
        for _ in range(2):  # the second call finds the first one's cache
            text = llm(PROMPT, max_tokens=len(script) + 30)["choices"][0]["text"]
            assert happened(case, handle.trace), (text, handle.trace)
    assert fresh.largest_difference(policy.rows) <= BOUND


@pytest.mark.parametrize("name", ALL)
def test_runs_that_share_forwards_read_the_rows_of_runs_alone(folder, name):
    fresh = Fresh(folder, name)
    engine = LlamaEngine(open_gguf(folder, name, n_ctx=1024), hidden=True, batch=3)
    tokenizer = LlamaTokenizer(engine.context.llm)
    script, prompt = tokens_of(tokenizer, SCRIPT), tokenizer.encode(PROMPT)
    scheduler, policies, traces = Scheduler(), {}, {}
    for case, make in CASES.items():
        policies[case], traces[case] = Recording(script), Trace()
        controller = replace(make(script), policy=policies[case])
        call = Call(prompt, len(script) + 20, frozenset({1}), Keys(seed=0), policies[case])
        run = controller.run(engine, tokenizer, call, traces[case])
        scheduler.add(case, run, controller.needs(engine, tokenizer, call))
    ended = [output for output in scheduler if isinstance(output, Ended)]
    assert not [one.error for one in ended if one.error is not None] and len(ended) == len(CASES)
    for case, trace in traces.items():
        assert happened(case, trace), case
        assert fresh.largest_difference(policies[case].rows) <= BOUND, case
    assert len(engine.sequences.free) == engine.context.sequences - 1


@pytest.mark.parametrize("name", ALL)
def test_an_inert_controller_changes_nothing(folder, name):
    stock, llm = open_gguf(folder, name), open_gguf(folder, name)
    attach(llm, Controller())
    for stream in (False, True):
        arguments = {"max_tokens": 12, "temperature": 0.0, "stream": stream}
        for prompt in (PROMPT, PROMPT, PROMPT + "52 a+3"):
            assert bare(llm(prompt, **arguments)) == bare(stock(prompt, **arguments))


def test_the_library_s_record_of_rows_is_kept(folder):
    """A Llama with logits_all=True has a row for each token, also for those that were fed again."""
    llm, fresh = open_gguf(folder, "jamba", logits_all=True), Fresh(folder, "jamba")
    script = tokens_of(LlamaTokenizer(llm), SCRIPT)
    controller = replace(CASES["drafted exit"](script), policy=Recording(script))
    with attach(llm, controller) as handle:
        llm(PROMPT, max_tokens=len(script) + 10)
        assert handle.trace.closed_by == "exit" and handle.trace.accepted > 8
        tokens = llm.input_ids[: llm.n_tokens].tolist()
        assert np.abs(llm.scores[: len(tokens)] - fresh.rows(tokens)).max() <= BOUND


def test_a_model_drafts_for_a_hybrid_and_no_hybrid_drafts(folder):
    """A draft model that can be cut anywhere; one with a state is refused by name."""
    for name in ("qwen35", "gemma3"):
        open_gguf(folder, name).close()
    hybrid, other = (load_gguf(folder / f"{name}.gguf", threads=1) for name in ("qwen35", "gemma3"))

    def run(model, drafter=None):
        session, trace = model.engine.session(), Trace()
        call = Call(model.tokenizer.encode(PROMPT), 30, model.eos, Keys(seed=2), Greedy())
        try:
            list(Controller(drafter=drafter).stream(session, model.tokenizer, call, trace))
        finally:
            session.close()
        return trace

    drafted = run(hybrid, ModelDrafter(other, size=3, curves=CURVES, adaptive=False))
    assert drafted.tokens == run(hybrid).tokens and drafted.drafted > 20
    with pytest.raises(ControllerError, match="'qwen35.gguf' can't take rejected tokens back"):
        run(other, ModelDrafter(hybrid, size=3, curves=CURVES, adaptive=False))
    for model in (hybrid, other):
        assert len(model.engine.sequences.free) == model.engine.context.sequences - 1


def test_a_lookup_drafts_the_plain_run(folder):
    llm = open_gguf(folder, "qwen35")
    arguments = {"max_tokens": 40, "temperature": 0.0}
    plain = bare(llm(PROMPT, **arguments))
    with attach(llm, Controller(drafter=PromptLookup())):
        assert bare(llm(PROMPT, **arguments)) == plain


def test_a_row_that_is_wrong_is_found(folder):
    fresh = Fresh(folder, "lfm2")
    rows = fresh.rows([5, 6, 7])
    assert fresh.largest_difference([([5, 6], rows[1]), ([5, 6, 7], rows[2])]) == 0
    assert fresh.largest_difference([([5, 6], rows[2])]) > 100 * BOUND
    assert np.isfinite(rows).all()
