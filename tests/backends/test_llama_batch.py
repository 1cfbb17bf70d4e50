"""Many sequences in one llama_decode: each row is what it is alone, and the context that they share never overflows."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from llama_cpp import llama_cpp as C

from reasonctl.backends.llama.cache_kind import LEAVES
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.load import BUNDLED_PROBE, load_model
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import (
    NO_DRAFT,
    ROOT,
    Call,
    Controller,
    ControllerError,
    Decode,
    Draft,
    Emitted,
    Ended,
    Greedy,
    Hierarchy,
    Keys,
    Markers,
    ModelDrafter,
    PromptLookup,
    Sampling,
    Scheduler,
    Thinking,
    Trace,
    parse_policy,
)
from reasonctl.controller.drafting.planning.cost import CostCurve
from reasonctl.probes import load_exit
from support.llama_models import ExitAt, open_llama
from support.scheduled import Breaking

NEAR = 2e-2
"""Largest difference of two logits of tiny that the shape of a batch makes."""
FREE = CostCurve({0: {1: 1.0, 64: 1.0}})
MODEL = load_model("tiny", threads=1, batch=8, context=256)
ALONE = load_model("tiny", threads=1)
PROBLEMS = load_task("tiny").problems(12, stream=17)
THINKING = Thinking(Markers("<think>", "</think>"), "\n</think>\n")


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(5, 300, n).tolist() for n in lengths]


def single(tokens, draft=NO_DRAFT, layers=()):
    """(logits, hidden) of one request on an engine of its own: of the root, then of each node."""
    session = ALONE.engine.session()
    (step,) = ALONE.engine.forward((Decode(session, tokens, draft, layers),))
    nodes = range(ROOT, len(draft))
    rows = [step.logits(node).copy() for node in nodes]
    hidden = {layer: [step.hidden(node, layer).copy() for node in nodes] for layer in layers}
    session.close()
    return rows, hidden


def close(a, b) -> bool:
    return np.abs(a - b).max() < NEAR


def test_prompts_drafts_and_hidden_states_share_a_forward():
    last = MODEL.depth - 1
    tree, chain = Draft((7, 8, 9), (ROOT, ROOT, 0)), Draft.chain((11, 12))
    asked = [
        (prompts(40)[0], tree, (0, last)),
        (prompts(1)[0], Draft(), ()),
        (prompts(200)[0], chain, (last,)),
        (prompts(3)[0], Draft((5, 6), (ROOT, ROOT)), (1,)),
        (prompts(17)[0], Draft(), (0,)),
    ]
    engine = MODEL.engine
    free = len(engine.sequences.free)
    sessions = [engine.session() for _ in asked]
    requests = [Decode(session, *what) for session, what in zip(sessions, asked, strict=True)]
    assert engine.together(requests) == len(requests)
    steps = engine.forward(requests)
    for step, what, session in zip(steps, asked, sessions, strict=True):
        rows, hidden = single(*what)
        for node, row in zip(range(ROOT, len(what[1])), rows, strict=True):
            assert close(step.logits(node), row)
            assert all(close(step.hidden(node, layer), hidden[layer][node + 1]) for layer in what[2])
        other = ({0, 1, last} - set(what[2])).pop()
        with pytest.raises(KeyError, match="not asked for"):
            step.hidden(ROOT, other)
        assert session.length == len(what[0])
    sessions[0].keep((0, 2))
    sessions[3].keep((1,))
    after = engine.forward([Decode(session, [20]) for session in sessions])
    with pytest.raises(RuntimeError, match="stale"):
        steps[1].logits(ROOT)
    for step, what, kept in zip(after, asked, ([7, 9], [], [], [6], []), strict=True):
        assert close(step.logits(ROOT), single([*what[0], *kept, 20])[0][0])
    for session in sessions:
        session.close()
    assert len(engine.sequences.free) == free


def test_no_row_reads_another_session():
    """The same rows next to other neighbours: bit-identical, in the prompt and after it."""

    def rows(neighbour):
        sessions = [MODEL.engine.session() for _ in range(3)]
        fed = [prompts(30)[0], neighbour, prompts(12)[0]]
        first = MODEL.engine.forward([Decode(s, p) for s, p in zip(sessions, fed, strict=True)])
        found = [first[0].logits(ROOT).copy(), first[2].logits(ROOT).copy()]
        second = MODEL.engine.forward([Decode(s, [p[-1]]) for s, p in zip(sessions, fed, strict=True)])
        found += [second[0].logits(ROOT).copy(), second[2].logits(ROOT).copy()]
        for session in sessions:
            session.close()
        return found

    one, other = rows(prompts(25)[0]), rows([9] * 25)
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_an_engine_without_sessions_is_as_it_was_at_first():
    """Sequence ids and cells, and so the rounding of a run's sums, follow from the runs under way alone."""

    def begun() -> tuple[list[int], list[np.ndarray]]:
        sessions = [MODEL.engine.session() for _ in range(4)]
        steps = MODEL.engine.forward([Decode(session, tokens) for session, tokens in zip(sessions, texts, strict=True)])
        rows = [step.logits(ROOT).copy() for step in steps]
        ids = [session.id for session in sessions]
        for i in order:
            sessions[i].close()
        return ids, rows

    texts, order = prompts(40, 9, 23, 5), [2, 0, 3, 1]
    ids, rows = begun()
    again, same = begun()
    assert again == ids == sorted(ids) and all(map(np.array_equal, same, rows))


def test_prompts_longer_than_a_batch_are_fed_in_chunks():
    llm = open_llama(n_ctx=1024, n_batch=48)
    engine = LlamaEngine(llm, hidden=True, batch=4)
    fed = prompts(100, 1, 47, 130)
    sessions = [engine.session() for _ in fed]
    steps = engine.forward([Decode(s, p, layers=(2,)) for s, p in zip(sessions, fed, strict=True)])
    for step, tokens in zip(steps, fed, strict=True):
        (row,), hidden = single(tokens, layers=(2,))
        assert close(step.logits(ROOT), row) and close(step.hidden(ROOT, 2), hidden[2][0])
    engine.close()


KINDS = {
    "plain": lambda: Controller(policy=Greedy()),
    "sampled": lambda: Controller(policy=Sampling(temperature=0.6)),
    "probe": lambda: Controller(exit=load_exit(BUNDLED_PROBE, risk=0.2), policy=Sampling(temperature=0.6)),
    "trial": lambda: Controller(exit=ExitAt(1, trials=True), policy=Greedy()),
    "budget": lambda: Controller(thinking=THINKING, budget=12, min_thinking=4, continue_times=1, policy=Greedy()),
    "chain": lambda: Controller(drafter=PromptLookup(), policy=Greedy()),
    "tree": lambda: Controller(drafter=Hierarchy(size=5, curve=FREE), policy=Greedy()),
    "drafted probe": lambda: Controller(
        drafter=Hierarchy(size=5, curve=FREE), exit=load_exit(BUNDLED_PROBE, risk=0.2), policy=Greedy()
    ),
    "guided": lambda: Controller(policy=parse_policy('kl_guided(source="a",t0=1,sigma=0.5) | min_p(0.1)')),
}


def call(model, number: int) -> Call:
    prompt = model.prompt(PROBLEMS[number].question)
    return Call(prompt, 60, model.eos, Keys(seed=4, run=number), Greedy())


def run_alone(kind: str, number: int) -> Trace:
    trace, session = Trace(), ALONE.engine.session()
    for _ in KINDS[kind]().stream(session, ALONE.tokenizer, call(ALONE, number), trace):
        pass
    session.close()
    return trace


def run_together(runs, model=MODEL):
    """The traces of runs under one scheduler, by run; each must end well."""
    scheduler, traces = Scheduler(), {}
    for kind, number in runs:
        controller, trace = KINDS[kind](), Trace()
        traces[kind, number] = trace
        scheduler.add(
            (kind, number),
            controller.run(model.engine, model.tokenizer, call(model, number), trace),
            controller.needs(model.engine, model.tokenizer, call(model, number)),
        )
    assert {output.error for output in scheduler if isinstance(output, Ended)} == {None}
    return traces


def test_rows_of_a_batch_write_what_each_writes_alone():
    runs = [(kind, number) for number in range(6) for kind in KINDS]
    sizes, engine = [], MODEL.engine
    forward, free = engine.forward, len(engine.sequences.free)
    engine.forward = lambda requests: sizes.append(len(requests)) or forward(requests)
    try:
        traces = run_together(runs)
    finally:
        del engine.forward
    assert max(sizes) == 8 and len(engine.sequences.free) == free
    different = [run for run in runs if traces[run].tokens != run_alone(*run).tokens]
    print(f"{len(runs)} runs, {len(different)} split at a near-tie, {np.mean(sizes):.2f} rows a forward")
    assert len(different) <= len(runs) // 50
    assert any(trace.exit for trace in traces.values()) and any(trace.accepted for trace in traces.values())


def test_joins_leaves_and_failures_on_a_real_model():
    """48 runs join at random; some are cancelled, some break; no sequence is lost, and no row is another's."""
    rng, engine, scheduler = random.Random(6), MODEL.engine, Scheduler(most_unread=5)
    free, got, added, cancelled, ends = len(engine.sequences.free), defaultdict(list), 0, 0, {}
    while added < 48 or len(ends) + cancelled < added:
        while added < 48 and rng.random() < 0.3:
            kind = rng.choice([*KINDS, "breaks"])
            controller = Controller(policy=Breaking(60)) if kind == "breaks" else KINDS[kind]()
            settings = engine, MODEL.tokenizer, call(MODEL, added % 6)
            scheduler.add((kind, added), controller.run(*settings, Trace()), controller.needs(*settings))
            got[kind, added] = []
            added += 1
        scheduler.step()
        for key in [key for key in got if key not in ends and rng.random() < 0.5]:
            if rng.random() < 0.02:
                scheduler.cancel(key)
                del got[key]
                cancelled += 1
                continue
            for output in scheduler.read(key):
                match output:
                    case Emitted(_, event):
                        got[key].append(event.token)
                    case Ended(_, error):
                        ends[key] = type(error).__name__
    assert len(engine.sequences.free) == free and cancelled > 2
    assert all(name == ("ZeroDivisionError" if kind == "breaks" else "NoneType") for (kind, _), name in ends.items())
    alone = {run: run_alone(*run).tokens for run in {(kind, n % 6) for kind, n in ends if kind != "breaks"}}
    assert all(got[kind, n] == alone[kind, n % 6] for kind, n in ends if kind != "breaks")


def test_a_draft_model_s_forwards_are_shared_too(monkeypatch):
    """Two engines: target rows in one forward, draft rows in another, and runs that wait for either."""
    drafts = load_model("tiny", threads=1, batch=4, context=256, hidden=False)
    drafter = ModelDrafter(drafts, kind="sequoia", size=4, adaptive=False, curves=(FREE, FREE))
    monkeypatch.setitem(KINDS, "model", lambda: Controller(drafter=drafter, policy=Greedy()))
    sizes, forward = [], drafts.engine.forward
    drafts.engine.forward = lambda requests: sizes.append(len(requests)) or forward(requests)
    traces = run_together([("model", number) for number in range(6)])
    assert max(sizes) == 4 and len(drafts.engine.sequences.free) == drafts.engine.context.sequences - 1
    for (_, number), trace in traces.items():
        assert trace.tokens == run_alone("plain", number).tokens and trace.accepted


def test_runs_wait_for_the_cells_that_they_share():
    """256 cells for 8 runs of up to 80: three at a time, and never an overflow."""
    engine = LlamaEngine(open_llama(n_ctx=256), hidden=True, batch=8)
    model = replace(ALONE, engine=engine)
    runs = [(kind, number) for number in range(4) for kind in ("plain", "trial", "tree")]
    most, forward = [], engine.forward

    def watched(requests):
        most.append(engine.sequences.committed)
        return forward(requests)

    engine.forward = watched
    traces = run_together(runs, model)
    assert 120 < max(most) <= 256 and engine.sequences.in_use == 1
    assert all(traces[run].tokens == run_alone(*run).tokens for run in runs)
    engine.close()


def test_what_does_not_fit_is_refused_by_name_and_harms_nobody():
    engine = LlamaEngine(open_llama(n_ctx=256), hidden=False, batch=3)
    sessions = [engine.session() for _ in range(3)]
    engine.forward([Decode(s, p) for s, p in zip(sessions, prompts(100, 50, 20), strict=True)])
    requests = [Decode(s, p) for s, p in zip(sessions, prompts(5, 100, 5), strict=True)]
    assert engine.together(requests) == 1 and engine.together(requests[::2]) == 2
    with pytest.raises(ControllerError, match="no room for 110 more tokens in the context of 256, shared by 4 seq"):
        engine.forward(requests)
    assert [session.length for session in sessions] == [100, 50, 20]
    for bad, words in (
        (Decode(sessions[1], [10**6]), "token id 1000000"),
        (Decode(sessions[1], []), "pending"),
        (Decode(sessions[0], [5]), "one request per session"),
        (Decode(sessions[1], [5], Draft(tuple(range(20)), (ROOT,) * 20)), "fewer leaves"),
    ):
        with pytest.raises(ControllerError, match=words):
            engine.forward([requests[0], bad])
    first = prompts(100, 50, 20)
    for request, step, fed in zip(requests[::2], engine.forward(requests[::2]), first[::2], strict=True):
        assert close(step.logits(ROOT), single([*fed, *request.pending])[0][0])
    with pytest.raises(ControllerError, match="takes 3 requests per forward, not 4"):
        engine.forward([*requests, requests[0]])
    engine.close()


def test_what_sessions_forgot_makes_room():
    engine = LlamaEngine(open_llama(n_ctx=256), hidden=False, batch=2)
    long, other = engine.session(), engine.session()
    engine.forward([Decode(long, prompts(200)[0]), Decode(other, [5])])
    long.rollback(190)
    (step,) = engine.forward([Decode(other, prompts(120)[0])])
    assert close(step.logits(ROOT), single([5, *prompts(120)[0]])[0][0]) and long.length == 10
    engine.close()


def test_a_failure_in_the_middle_leaves_the_sessions_as_they_were():
    """The first chunk of two prompts is in the cache, and a tree has its sequences, when the cells run out."""
    engine = LlamaEngine(open_llama(n_ctx=256, n_batch=48), hidden=False, batch=3)
    held, one, other = (engine.session() for _ in range(3))
    engine.forward([Decode(held, prompts(150)[0]), Decode(one, [9]), Decode(other, [7])])
    free = len(engine.sequences.free)
    requests = [Decode(one, prompts(40)[0]), Decode(other, prompts(80)[0], Draft((5, 6), (ROOT, ROOT)))]
    with pytest.raises(ControllerError, match="no room for 122 more tokens"):
        engine.forward(requests)
    assert (one.length, other.length, len(engine.sequences.free)) == (1, 1, free)
    steps = engine.forward([Decode(one, prompts(30)[0]), Decode(other, prompts(20)[0], requests[1].draft)])
    for step, tokens in zip(steps, ([9, *prompts(30)[0]], [7, *prompts(20)[0]]), strict=True):
        assert close(step.logits(ROOT), single(tokens)[0][0])
    engine.close()


def test_trees_leave_the_sessions_their_sequences():
    engine = LlamaEngine(open_llama(n_ctx=256), hidden=False, batch=2)
    sessions = [engine.session() for _ in range(2)]
    assert sessions[0].can.branches == LEAVES + 1 < len(engine.sequences.free)
    trees = [Decode(s, [5], Draft(tuple(range(10, 15)), (ROOT,) * 5)) for s in sessions]
    assert engine.together(trees) == 1  # 4 further sequences each, of 7
    engine.forward(trees[:1])
    forks = [sessions[1].fork() for _ in range(2)]
    assert len({session.id for session in (*sessions, *forks)}) == engine.most_sessions == 4
    engine.close()


def test_rows_of_a_recurrent_model_that_are_read_come_alone(monkeypatch):
    """llama.cpp computes the rows of a recurrent batch in an order of its own; each of its ids holds a state."""
    monkeypatch.setattr(C, "llama_model_is_recurrent", lambda model: True)
    engine = LlamaEngine(open_llama(n_ctx=256), hidden=True, batch=4, checkpoints=False)
    assert engine.context.sequences == 9 and engine.session().can.branches == 0
    read, plain = (Decode(engine.session(), [5], layers=layers) for layers in ((1,), ()))
    assert [engine.together(pair) for pair in ([read, plain], [plain, read], [plain, plain])] == [1, 1, 2]
    engine.close()
