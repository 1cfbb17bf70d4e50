"""Many rows in one forward of a transformers model, against the same rows one by one."""

from __future__ import annotations

import gc
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.slab import Slab
from reasonctl.controller import NO_DRAFT, ROOT, Controller, ControllerError, Decode, Draft, PromptLookup
from support import hf_models
from support.hf_models import GREEDY, PAD, SAMPLED, TOKENIZER, Scripted, Twigs, small

SHAPE = hf_models.SHAPE | dict(
    vocab_size=80, head_dim=8, max_position_embeddings=2048, initializer_range=0.3, pad_token_id=0
)
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=16)
TOGETHER = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": dict(sliding_window=8, query_pre_attn_scalar=16, attn_logit_softcapping=5.0),
    "gemma3_text": dict(sliding_window=8, query_pre_attn_scalar=16),
    "mistral": dict(sliding_window=8),
    "mixtral": dict(sliding_window=None, num_local_experts=4),
    "qwen3_moe": dict(num_experts=4, **EXPERTS),
    "phi3": {},
    "gpt_neox": {},
    "gpt2": dict(n_embd=32, n_layer=3, n_head=4, n_positions=2048),
    "olmo2": {},
    "granite": {},
    "cohere2": dict(sliding_window=8, sliding_window_pattern=2),
    "starcoder2": dict(sliding_window=8),
    "smollm3": {},
    "gpt_oss": dict(sliding_window=8, num_local_experts=4, num_experts_per_tok=2),
}
IN_TURN = {
    "mamba": "more than keys and values",
    "bloom": "position_ids",
    "stablelm": "interface",
    "diffllama": "changes keys",
    "llama": "rotary positions",
}
TREE = Draft(tokens=(5, 6, 2, 9, 1, 4), parents=(ROOT, ROOT, 0, 0, 1, 2))
TOLERANCE = 2e-4
"""Largest difference of float32 logits whose scale is about 7: sums in another order."""


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return small(max_position_embeddings=2048)


def engine_of(kind, **changes):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SHAPE | TOGETHER.get(kind, {}) | changes))
    return HFEngine(AutoModelForCausalLM.from_config(config).eval().float())


@contextmanager
def counted(model):
    """The rows of each call of the model."""
    calls = []
    hook = model.register_forward_pre_hook(
        lambda module, args, named: calls.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


class Pair:
    """The same sequence twice: `many` shares forwards, `alone` never does."""

    def __init__(self, engine):
        self.engine, self.many, self.alone = engine, engine.session(), engine.session()

    def each(self, change):
        change(self.many)
        change(self.alone)

    def keep(self, path):
        self.each(lambda session: session.keep(path))

    def fork(self):
        made = Pair.__new__(Pair)
        made.engine, made.many, made.alone = self.engine, self.many.fork(), self.alone.fork()
        self.each(lambda session: session.close())
        return made


def random_request(rng, pair, size, can):
    """(pending, draft) of a prompt, a step, a suffix, a chain or a tree."""
    count = rng.choice([1, 1, 1, 2, 5]) if pair.many.length else size
    pending, draft = [rng.randrange(1, 75) for _ in range(count)], NO_DRAFT
    if can.branches and rng.random() < 0.4:
        draft = Draft.chain([rng.randrange(1, 75) for _ in range(rng.choice([1, 3]))])
        draft = TREE if can.branches > 1 and rng.random() < 0.5 else draft
    return pending, draft


def differences(engine, rng, rounds=8):
    """The largest differences of logits and hidden rows in each of some rounds of random requests."""
    can, pairs = engine.can, [Pair(engine) for _ in range(5)]
    for _ in range(rounds):
        turn = rng.sample(range(5), rng.choice([5, 5, 4, 2]))
        asked = [(i, *random_request(rng, pairs[i], (1, 70, 3, 17, 40)[i], can)) for i in turn]
        steps = engine.forward([Decode(pairs[i].many, pending, draft, (0, 1)) for i, pending, draft in asked])
        nodes = [range(ROOT, len(draft)) for _, _, draft in asked]
        shown = [[(s.logits(n).copy(), s.hidden(n, 1).copy()) for n in ns] for s, ns in zip(steps, nodes, strict=True)]
        worst = 0.0
        for (i, pending, draft), rows in zip(asked, shown, strict=True):
            (step,) = engine.forward([Decode(pairs[i].alone, pending, draft, (0, 1))])
            for node, (logits, hidden) in enumerate(rows, ROOT):
                worst = max(
                    worst, np.abs(logits - step.logits(node)).max(), np.abs(hidden - step.hidden(node, 1)).max()
                )
        yield worst
        for i, _, draft in asked:
            if draft.tokens:
                pairs[i].keep(tuple(range(rng.randrange(len(draft) + 1))) if draft.is_chain() else (1, 4))
            if can.rollback and not can.checkpoints and rng.random() < 0.3 and pairs[i].many.length > 3:
                pairs[i].each(lambda session: session.rollback(2))
            if rng.random() < 0.2:
                pairs[i] = pairs[i].fork()
    for pair in pairs:
        assert pair.many.length == pair.alone.length
        pair.each(lambda session: session.close())


@pytest.mark.parametrize("kind", list(TOGETHER))
def test_rows_of_one_forward_equal_the_rows_alone(kind):
    engine = engine_of(kind)
    worst = [w for seed in range(3) for w in differences(engine, random.Random(seed))]
    assert engine.model_forward.in_turn == "" and 0 < max(worst) < TOLERANCE
    assert engine.slab.slots == [] and engine.slab.bytes == 0


@pytest.mark.parametrize("kind", list(IN_TURN))
def test_what_cant_share_a_forward_runs_in_turn_and_says_why(kind):
    ropes = dict(rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=1e4)) if kind == "llama" else {}
    engine = engine_of(kind, **ropes)
    assert max(differences(engine, random.Random(1))) == 0.0
    assert IN_TURN[kind] in engine.model_forward.in_turn and engine.slab.slots == []


def test_requests_share_one_call_of_the_model_up_to_the_most_rows():
    engine = engine_of("llama")
    sessions = [engine.session() for _ in range(4)]
    with counted(engine.model_forward.model) as calls:
        engine.forward([Decode(session, [1] * 600) for session in sessions])
        engine.forward([Decode(session, [2]) for session in sessions])
        engine.forward([Decode(sessions[0], [1] * 3000), Decode(sessions[1], [3])])
    assert calls == [1800, 600, 4, 2048, 952, 1]


def test_an_older_step_is_stale_and_another_layer_is_refused():
    engine = engine_of("llama")
    a, b = engine.session(), engine.session()
    first, second = engine.forward([Decode(a, [1], layers=(0,)), Decode(b, [1], layers=(2,))])
    assert np.array_equal(first.logits(ROOT), second.logits(ROOT))
    with pytest.raises(Exception, match="layer 2 was not captured"):
        first.hidden(ROOT, 2)
    engine.forward([Decode(a, [1])])
    with pytest.raises(RuntimeError, match="stale"):
        second.logits(ROOT)


def test_bytes_of_a_token_are_the_librarys_with_bounded_spare_room():
    engine = engine_of("llama")
    sessions, alone = [engine.session() for _ in range(8)], engine.session()
    for _ in range(40):
        engine.forward([Decode(session, [1] * 25) for session in sessions])
        engine.forward([Decode(alone, [1] * 25)])
    own = sum(states.nbytes for layer in alone.cache.layers for states in (layer.keys, layer.values))
    assert 8 * own <= engine.slab.bytes <= 8 * own * 1.35
    for session in sessions[1:]:
        session.close()
    engine.forward([Decode(sessions[0], [1])])
    assert engine.slab.bytes <= 2 * 1.35 * own
    sessions[0].close()
    assert engine.slab.bytes == 0


def test_sequences_that_are_dropped_give_their_slots_back():
    engine = engine_of("llama")
    kept, *dropped = [engine.session() for _ in range(5)]
    engine.forward([Decode(session, [i + 1, 7]) for i, session in enumerate([kept, *dropped])])
    del dropped
    gc.collect()
    alone, more = engine.session(), engine.session()
    engine.forward([Decode(alone, [1, 7])])
    (step,) = engine.forward([Decode(alone, [3])])
    expected = step.logits(ROOT).copy()
    many, _ = engine.forward([Decode(kept, [3]), Decode(more, [4])])
    assert np.abs(many.logits(ROOT) - expected).max() < TOLERANCE and len(engine.slab.slots) == 2


def test_a_request_that_cant_be_run_leaves_every_session_as_it_was():
    engine = engine_of("mistral")
    a, b = engine.session(), engine.session()
    engine.forward([Decode(a, [1, 2]), Decode(b, [3])])
    with pytest.raises(ControllerError, match="branches"):
        engine.forward([Decode(a, [4]), Decode(b, [4], TREE)])
    with pytest.raises(ControllerError, match="layer 9"):
        engine.forward([Decode(a, [4]), Decode(b, [4], layers=(9,))])
    assert (a.length, b.length) == (2, 1)
    step, _ = engine.forward([Decode(a, [4]), Decode(b, [4])])
    together = step.logits(ROOT).copy()
    alone = engine.session()
    (step,) = engine.forward([Decode(alone, [1, 2, 4])])
    assert np.abs(step.logits(ROOT) - together).max() < TOLERANCE


class Breaks:
    """A criterion that fails at a random token."""

    stateless = True

    def __init__(self, rng, chance):
        self.rng, self.chance = rng, chance

    def __call__(self, ids, scores, **more):
        if self.rng.random() < self.chance:
            raise ValueError("broken")
        return torch.zeros(len(ids), dtype=torch.bool)


def live_tensors():
    """How many tensors there are; no slab holds any."""
    gc.collect()
    objects = gc.get_objects()
    assert all(not one.slots and not one.bytes for one in objects if type(one) is Slab)
    return sum(type(one) is torch.Tensor for one in objects)


def soak(model, monkeypatch, generations):
    """Batches of random size whose rows end at random or fail; some are compared with the rows alone."""
    rng, calls, broken, compared, tensors = random.Random(5), 0, 0, 0, []
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        while handle.runs < generations:
            calls += 1
            written = ["so the cat " * rng.randrange(1, 6) for _ in range(rng.randrange(2, 7))]
            arguments = dict(texts(*written), max_new_tokens=rng.randrange(1, 24), do_sample=True, seed=calls)
            arguments |= dict(eos_token_id=[5, 9, 20], top_k=0, temperature=1.5)
            try:
                criteria = [Breaks(rng, rng.choice([0, 0, 0.02]))]
                out = model.generate(**arguments, stopping_criteria=criteria)
            except ValueError:
                broken += 1
            else:
                if calls % 8 == 0:
                    with monkeypatch.context() as patch:
                        patch.setattr(HFEngine, "batch", 1)
                        assert model.generate(**arguments).tolist() == out.tolist()
                        compared += 1
            if calls % 10 == 0:
                tensors.append(live_tensors())
    assert broken > calls / 30 and compared > calls / 20
    assert max(tensors[1:]) <= tensors[0] + 5


def test_batches_with_random_leaves_and_failures_keep_rows_apart_and_memory_flat(model, monkeypatch):
    soak(model, monkeypatch, 120)


@pytest.mark.slow
def test_3000_generations_with_random_leaves_and_failures(model, monkeypatch):
    soak(model, monkeypatch, 3000)


def texts(*written):
    """A batch padded on the left."""
    return dict(TOKENIZER(list(written), return_tensors="pt", padding=True))


def holes():
    batch = texts("so the cat<think>", "the answer 12<think>", "a wait so<think>")
    batch["attention_mask"][:, 5] = 0
    return batch


LEFT = texts("so the cat<think>", "the answer 12<think>", "a")
LONG = texts("a", "so the cat so 12 " * 55 + "<think>")
KNOWN = [3, 7, 9, 4] * 40
CASES = {
    "plain": (Controller, LEFT, SAMPLED),
    "greedy": (Controller, LEFT, GREEDY),
    "holes": (Controller, holes(), SAMPLED),
    "1 and 600": (Controller, LONG, SAMPLED),
    "exits": (lambda: Controller(exit=Scripted(1)), LEFT, SAMPLED),
    "trials": (lambda: Controller(exit=Scripted(1, trials=True)), LEFT, SAMPLED),
    "shadow": (lambda: Controller(exit=Scripted(0), shadow=True), LEFT, SAMPLED),
    "budgets": (lambda: Controller(budget=12), LEFT, SAMPLED | dict(bad_words_ids=[[PAD]])),
    "re-openings": (lambda: Controller(min_thinking=25, continue_times=1), LEFT, SAMPLED | dict(bad_words_ids=[[PAD]])),
    "chains": (lambda: Controller(drafter=PromptLookup()), LEFT, SAMPLED),
    "trees": (lambda: Controller(drafter=Twigs(KNOWN)), LEFT, SAMPLED | dict(sequence_bias=[[[3], 6.0], [[7], 6.0]])),
    "processors": (Controller, LEFT, SAMPLED | dict(repetition_penalty=1.3, no_repeat_ngram_size=3)),
    "chunks": (Controller, LONG, SAMPLED | dict(prefill_chunk_size=64)),
    "return sequences": (Controller, texts("so the cat<think>", "a 12"), SAMPLED | dict(num_return_sequences=3)),
    "end tokens": (Controller, LEFT, dict(max_new_tokens=60, do_sample=True, eos_token_id=[5, 9, 20])),
    "stop strings": (Controller, LEFT, SAMPLED | dict(stop_strings=["he", "7"])),
}


@pytest.mark.parametrize("case", list(CASES))
def test_rows_of_a_batch_write_what_they_write_alone(model, monkeypatch, case):
    make, inputs, arguments = CASES[case]
    found = []
    for most in (1, 64):
        monkeypatch.setattr(HFEngine, "batch", most)
        with attach(model, make(), tokenizer=TOKENIZER) as handle, counted(model) as calls:
            out = model.generate(**inputs, **arguments, seed=4)
        found.append((out.tolist(), [trace.to_dict() for trace in handle.traces], len(calls)))
    (alone, own, many_calls), (together, shared, calls) = found
    assert together == alone and shared == own
    assert calls < many_calls * (1 if case == "end tokens" else 0.75)
    kinds = {"exits": "exit", "budgets": "budget"}
    closers = [span["closed_by"] for trace in shared for span in trace["spans"]]
    assert case not in kinds or kinds[case] in closers
    assert case != "re-openings" or any(trace["reopened"] for trace in shared)
    assert case not in ("chains", "trees") or sum(trace["accepted"] for trace in shared) > 0
