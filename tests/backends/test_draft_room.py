"""Drafts end no call that plain decoding would finish: short contexts, small batches, other sequences, small drafts."""

from __future__ import annotations

import pytest

from reasonctl.backends.attach import attach
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import wrap_llama
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import (
    ROOT,
    Call,
    Controller,
    ControllerError,
    Decode,
    Draft,
    Greedy,
    Hierarchy,
    Keys,
    ModelDrafter,
    PromptLookup,
    Stateless,
    Trace,
)
from support.llama_models import PROMPT, open_llama
from support.toy_drafts import FLAT, run, small


def tiny(**arguments):
    llm = open_llama(**arguments)
    return wrap_llama("tiny", llm, LlamaEngine(llm, hidden=False), LlamaTokenizer(llm))


class Broad(Stateless):
    """As deep as it may, with a second branch beside every node: more nodes than anybody has room for."""

    def propose(self, tokens, room):
        last, nodes = [(tokens[-1] + 1) % 400, (tokens[-1] + 2) % 400], [(ROOT, 0), (ROOT, 1)]
        for i in range(2, 2 * room):
            nodes.append((i - 2 - i % 2, i % 2))
        return Draft(tuple(last[which] for _, which in nodes), tuple(parent for parent, _ in nodes))
        yield


def drafters(target):
    own = tiny(n_ctx=512)
    model = {
        kind: ModelDrafter(own, kind=kind, size=12, depth=6, adaptive=False)
        for kind in ("chain", "sequoia", "dyspec", "dyspec-greedy")
    }
    return {"ngram": PromptLookup(), "hierarchy": Hierarchy(curve=FLAT), "broad": Broad(), **model}


def tokens_of(target, used, prompt, most):
    trace, session = Trace(), target.engine.session()
    call = Call(prompt, most, frozenset(), Keys(seed=2), Greedy())
    list(Controller(drafter=used).stream(session, target.tokenizer, call, trace))
    session.close()
    return trace


@pytest.mark.parametrize("arguments", [{}, {"n_batch": 8}, {"n_batch": 2}], ids=str)
def test_drafts_up_to_the_last_token_of_the_context(arguments):
    target = tiny(**arguments)
    prompt = target.tokenizer.encode(PROMPT) * 10
    most = target.engine.context.size - len(prompt)
    plain = tokens_of(target, None, prompt, most)
    assert most > 60 and len(plain.tokens) == most
    for name, used in drafters(target).items():
        trace = tokens_of(target, used, prompt, most)
        assert len(trace.tokens) == most, name
        assert trace.drafted > (0 if name == "broad" or "n_batch" in arguments else 20), name
        if "n_batch" not in arguments:  # batches of other shapes round otherwise
            assert trace.tokens == plain.tokens, name


@pytest.mark.parametrize("n_batch", [8, 512])
def test_costs_are_measured_within_a_batch_and_beside_a_full_cache(n_batch, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    llm = open_llama(n_batch=n_batch)
    prompt = llm.tokenize(PROMPT.encode(), special=True)
    with attach(llm, Controller(drafter=Hierarchy())):
        long = (prompt * 20)[:200]
        for text in (long, [*long, 5], prompt):  # the second call finds the first one's cells in the cache
            assert llm(text, max_tokens=20, temperature=0.0)["usage"]["completion_tokens"] > 0
    llm.close()


def test_the_room_is_what_the_cache_takes():
    """One token more than `free` is refused by llama.cpp, whoever holds the cells: forks, drafts, forgotten tokens."""
    engine = tiny().engine
    one, two = engine.session(), engine.session()
    engine.forward((Decode(one, [5] * 100),))
    fork = one.fork()
    engine.forward((Decode(two, [6] * 30, Draft((7, 8, 9), (ROOT, ROOT, 0))),))
    assert one.can.free == 256 - 133 and fork.can.free == 256 - 133
    two.keep([1])
    engine.forward((Decode(two, [6]),))
    assert one.can.free == 256 - 132
    fork.rollback(40)
    engine.forward((Decode(fork, [9] * 10),))
    assert one.can.free == 256 - 142
    one.close()  # the fork's 60 shared cells live on
    assert two.can.free == 256 - 70 - 32
    with pytest.raises(ControllerError, match="no room"):
        engine.forward((Decode(two, [6] * (two.can.free + 1)),))
    assert two.length == 32
    engine.forward((Decode(two, [6] * two.can.free),))
    assert two.can.free == fork.can.free == 0


def test_a_draft_model_with_a_short_context_stops_drafting_and_says_so_once():
    short = small()
    short.context = 30
    used = ModelDrafter(short, kind="sequoia", size=6, adaptive=False)
    trace = run(used, policy=Greedy(), most=100)
    assert trace.tokens == run(None, policy=Greedy(), most=100).tokens
    (warning,) = trace.warnings
    assert "'small' has no room for more than" in warning
    assert 0 < trace.drafted < 200 and trace.forwards > 60


def test_a_gguf_draft_model_that_is_full_does_not_end_the_call():
    target, own = tiny(n_ctx=512), tiny(n_ctx=256)
    prompt = target.tokenizer.encode(PROMPT) * 15
    used = ModelDrafter(own, kind="sequoia", size=6, adaptive=False)
    trace = tokens_of(target, used, prompt, 60)
    assert len(trace.tokens) == 60 and trace.drafted > 5 and len(trace.warnings) == 1
    assert tokens_of(target, used, prompt * 2, 40).drafted == 0


def test_tokens_that_one_of_both_models_has_no_row_for():
    """Padding of a vocabulary: the draft model must not draft it, nor be fed it."""
    wide = ToyEngine(vocabulary=7)

    class Strict(ToyEngine):
        def forward(self, requests):
            assert all(token < 5 for request in requests for token in request.draft.tokens)
            return super().forward(requests)

    target = Strict(vocabulary=5)
    for policy in (Greedy(), None):
        for kind in ("chain", "sequoia", "dyspec"):
            trace = run(ModelDrafter(small(wide), kind=kind, size=5, adaptive=False), engine=target, policy=policy)
            assert trace.drafted > 50
    trace = run(ModelDrafter(small(ToyEngine(vocabulary=4)), kind="sequoia", size=5, adaptive=False))
    assert 4 in trace.tokens and ["has no token 4" in warning for warning in trace.warnings] == [True]
