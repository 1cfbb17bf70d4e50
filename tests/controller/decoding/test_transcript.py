"""The text of a run against its session: what is taken back, what is committed, and that the record is only written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import NO_DRAFT, ROOT, Decode, Draft
from reasonctl.controller.decoding import transcript
from reasonctl.controller.decoding.transcript import Start, Transcript

ENGINE = ToyEngine(vocabulary=9, order=2, seed=3)
DECODING = Path(transcript.__file__).parent


def read(text: Transcript, draft: Draft = NO_DRAFT) -> None:
    """One forward over what is pending."""
    ENGINE.forward([Decode(text.session, text.pending, draft)])
    text.begin_walk()


def opened(prompt: list[int]) -> Transcript:
    text = Transcript(ENGINE.session(), Start(list(prompt), list(prompt)), "state 0")
    read(text)
    return text


def sample(text: Transcript, token: int, child: int | None = None) -> None:
    text.append(token, f"state {len(text.states)}", "model" if child is None else "draft")
    if child is not None:
        text.path.append(child)


def cached(text: Transcript) -> list[int]:
    """The tokens that the session holds: all but the pending ones, between two forwards."""
    assert text.session.tokens == text.tokens[: len(text.tokens) - len(text.pending)]
    return text.session.tokens


def test_a_sampled_token_is_pending_until_the_next_forward():
    text = opened([1, 2, 3])
    sample(text, 4)
    text.pending = [4]
    assert cached(text) == [1, 2, 3]
    read(text)
    assert text.session.tokens == [1, 2, 3, 4] and text.pending == [] and text.sources == ["model"]


@pytest.mark.parametrize("first", [3, 4, 5, 6])
def test_what_is_taken_back_leaves_cache_states_and_sources(first):
    """In a walk of three accepted nodes: whatever is taken back, the cache and the text agree."""
    text = opened([1, 2])
    sample(text, 3)
    text.pending = [3]
    read(text, Draft.chain([4, 5]))
    sample(text, 4, 0)
    sample(text, 5, 1)
    sample(text, 6)
    text.take_back(first)
    assert text.tokens == [1, 2, 3, 4, 5, 6][:first]
    assert cached(text) == text.tokens[: len(text.tokens) - len(text.pending)]
    assert text.states == [f"state {i}" for i in range(first - 1)]
    assert len(text.sources) == len(text.tokens) - text.start
    assert text.committed


def test_forced_tokens_keep_the_policys_state():
    text = opened([1])
    sample(text, 2)
    text.force([7, 8])
    assert text.sources == ["model", "forced", "forced"] and text.states[1:] == ["state 1"] * 3
    assert text.state_before(2) == "state 1"


def test_rejected_nodes_leave_the_cache():
    text = opened([1])
    sample(text, 2)
    text.pending = [2]
    read(text, Draft((3, 4), (ROOT, ROOT)))
    sample(text, 4, 1)
    text.commit()
    assert text.session.tokens == [1, 2, 4] and text.path == []


def reads_of_the_trace(source: str) -> list[str]:
    """Expressions that read a field of a trace. Calls of its methods, and of its lists', write."""
    tree = ast.parse(source)
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    allowed = {id(node.value) for node in ast.walk(tree) if id(node) in calls and isinstance(node, ast.Attribute)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load) or id(node) in calls | allowed:
            continue
        owner = node.value
        name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
        if name == "trace":
            found.append(ast.unparse(node))
    return found


def test_decoding_writes_the_trace_and_never_reads_it():
    for path in sorted(DECODING.glob("*.py")):
        assert reads_of_the_trace(path.read_text(encoding="utf-8")) == [], path.name
    assert reads_of_the_trace("if run.trace.closed_by is None: trace.cost += 1; trace.tokens.append(2)") == [
        "run.trace.closed_by"
    ]
