"""The contract of a Session, one suite over every backend. Tolerances are stated in engines.py."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.controller import NO_DRAFT, ROOT, ControllerError, Decode, Draft
from support.engines import ENGINES, Bench

PROMPT = [3, 7, 1, 9, 4, 2, 8]
TREE = Draft(tokens=(5, 6, 2, 9, 1, 4), parents=(ROOT, ROOT, 0, 0, 1, 2))


@pytest.fixture(scope="module", params=list(ENGINES))
def bench(request: pytest.FixtureRequest) -> Bench:
    return ENGINES[request.param]()


def feed(session, pending, draft=NO_DRAFT, layers=()):
    (step,) = session.engine.forward((Decode(session, pending, draft, layers),))
    return step


def one_by_one(bench, tokens, layers=()):
    """Logits after the last token, fed in single rows; with the hidden states asked for."""
    session = bench.engine.session()
    for token in tokens:
        step = feed(session, [token], layers=layers)
    out = step.logits(ROOT).copy(), {layer: step.hidden(ROOT, layer).copy() for layer in layers}
    session.close()
    return out


def same(a, b, tolerance):
    if tolerance is None:
        assert a.argmax() == b.argmax()
    else:
        assert np.abs(a - b).max() <= tolerance


def test_rows_have_the_vocabulary_s_length(bench):
    session = bench.engine.session()
    step = feed(session, PROMPT)
    assert step.logits(ROOT).shape == (session.can.vocabulary,)
    assert session.length == len(PROMPT)
    session.close()


def test_decode_after_rollback_equals_a_fresh_decode(bench):
    fresh, _ = one_by_one(bench, [*PROMPT, 5, 6])
    session = bench.engine.session()
    for token in [*PROMPT, 5, 9, 9, 4]:
        step = feed(session, [token])
    wrong = step.logits(ROOT).copy()
    session.rollback(3)
    assert session.length == len(PROMPT) + 1
    got = feed(session, [6]).logits(ROOT)
    same(got, fresh, bench.tolerance)
    assert np.abs(wrong - fresh).max() > 0.01  # the check can fail
    session.close()


def test_forks_are_independent_and_a_trial_leaves_the_run_untouched(bench):
    def run(trial: bool):
        session = bench.engine.session()
        for token in PROMPT:
            feed(session, [token])
        if trial:
            fork = session.fork()
            fork.rollback(2)
            for token in [9, 9, 1]:
                step = feed(fork, [token])
            forked = step.logits(ROOT).copy()
            expected, _ = one_by_one(bench, [*PROMPT[:-2], 9, 9, 1])
            same(forked, expected, bench.tolerance)
            fork.close()
        rows = [feed(session, [token]).logits(ROOT).copy() for token in (5, 6, 2)]
        session.close()
        return rows

    for with_trial, without in zip(run(True), run(False), strict=True):
        assert (with_trial == without).all()


def test_a_trees_rows_equal_the_chains_rows(bench):
    session = bench.engine.session()
    feed(session, PROMPT[:-1])
    step = feed(session, PROMPT[-1:], TREE)
    rows = {node: step.logits(node).copy() for node in range(ROOT, len(TREE))}
    paths = {ROOT: []}
    for node, parent in enumerate(TREE.parents):
        paths[node] = [*paths[parent], TREE.tokens[node]]
        expected, _ = one_by_one(bench, PROMPT + paths[node])
        same(rows[node], expected, bench.shape_tolerance)
    session.keep([0, 2, 5])
    assert session.length == len(PROMPT) + 3
    expected, _ = one_by_one(bench, [*PROMPT, 5, 2, 4, 7])
    same(feed(session, [7]).logits(ROOT), expected, bench.shape_tolerance)
    session.close()


def test_siblings_do_not_leak_into_a_branch(bench):
    """Changing a sibling leaves the kept branch bit-identical: true on every backend, whatever its kernels."""

    def branch(sibling: int):
        session = bench.engine.session()
        feed(session, PROMPT[:-1])
        tokens = (5, sibling, 2, sibling + 1, 1, 4)
        step = feed(session, PROMPT[-1:], Draft(tokens=tokens, parents=TREE.parents))
        rows = [step.logits(node).copy() for node in (ROOT, 0, 2, 5)]
        session.keep([0, 2, 5])
        rows.append(feed(session, [7]).logits(ROOT).copy())
        session.close()
        return rows

    for a, b in zip(branch(6), branch(8), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_hidden_state_is_that_of_the_row_asked_for(bench, layer):
    layers = (layer,)
    session = bench.engine.session()
    feed(session, PROMPT[:-1])
    step = feed(session, PROMPT[-1:], TREE, layers)
    root, node = step.hidden(ROOT, layer).copy(), step.hidden(3, layer).copy()
    session.close()
    _, expected_root = one_by_one(bench, PROMPT, layers)
    _, expected_node = one_by_one(bench, [*PROMPT, 5, 9], layers)
    for got, expected in ((root, expected_root[layer]), (node, expected_node[layer])):
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(got - expected).max() / scale <= (bench.shape_tolerance or 0.02)
    assert np.abs(root - node).max() > 1e-3


def test_a_stale_step_raises(bench):
    session = bench.engine.session()
    step = feed(session, PROMPT)
    feed(session, [1])
    with pytest.raises(RuntimeError, match="stale"):
        step.logits(ROOT)
    session.close()


def test_what_cannot_be_done_is_refused(bench):
    session = bench.engine.session()
    feed(session, PROMPT)
    with pytest.raises(ControllerError, match="roll back"):
        session.rollback(len(PROMPT) + 1)
    feed(session, [5], TREE)
    with pytest.raises(ControllerError, match="path"):
        session.keep([2])
    session.close()
