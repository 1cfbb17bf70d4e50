"""Greedy drafted runs in float32 are plain runs, whatever drafts: on both backends, splits only at near-ties.

Rows of a batch and a single row are summed in other orders. That noise is measured here; a run may split from the
plain one only where the two largest logits lie closer than twice that.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_cpp import Llama

from reasonctl.backends.hf.load import load_transformers
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import wrap_llama
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.load import tiny_folder
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import (
    ROOT,
    Call,
    Controller,
    Decode,
    Draft,
    Greedy,
    Hierarchy,
    Keys,
    ModelDrafter,
    Policy,
    PromptLookup,
    Trace,
    TriForce,
)
from support.example_scripts import load
from support.toy_drafts import FLAT

F32 = 0
KINDS = ["ngram", "hierarchy", "model", "sequoia", "dyspec", "dyspec-greedy", "cascade", "triforce"]


def written(folder: Path, weights: float) -> Path:
    """tiny as a GGUF file in float32, its weights off by a relative `weights`."""
    path = folder / f"tiny-{weights}.gguf"
    load("tiny/export.py").write_gguf(noisy(weights).library, path, np.float32)
    return path


@cache
def noisy(weights: float):
    model = load_transformers(str(tiny_folder()))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.library.parameters():
            weight.mul_(1 + weights * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By backend: (target, a draft model that is often wrong)."""
    folder = tmp_path_factory.mktemp("float32")

    def gguf(weights):
        llm = Llama(
            str(written(folder, weights)),
            n_ctx=1024,
            n_threads=1,
            n_threads_batch=1,
            type_k=F32,
            type_v=F32,
            flash_attn=False,
            verbose=False,
        )
        return wrap_llama("tiny", llm, LlamaEngine(llm, hidden=False), LlamaTokenizer(llm))

    return {"llama.cpp": (gguf(0.0), gguf(0.15)), "transformers": (noisy(0.0), noisy(0.15))}


def made(kind, small):
    if kind in ("ngram", "hierarchy"):
        return PromptLookup(size=6) if kind == "ngram" else Hierarchy(curve=FLAT)
    if kind == "triforce":
        return TriForce(size=4, budget=32, refresh=32, adaptive=False)
    inner = PromptLookup(size=4) if kind == "cascade" else None
    tree = "chain" if kind in ("model", "cascade") else kind
    return ModelDrafter(small, kind=tree, size=8, depth=4, adaptive=False, inner=inner)


def played(model, drafter, prompt, most):
    trace, session = Trace(), model.engine.session()
    # No end of the text: every run has all its tokens.
    call = Call(prompt, most, frozenset(), Keys(seed=4), Greedy())
    list(Controller(drafter=drafter).stream(session, model.tokenizer, call, trace))
    session.close()
    return trace


def row(model, tokens):
    session = model.engine.session()
    (step,) = model.engine.forward((Decode(session, tokens),))
    logits = step.logits(ROOT).copy()
    session.close()
    return logits


def measured_noise(model, prompt, text):
    """Largest difference of a logit between a row of a draft's batch and the same row in a forward of its own."""
    largest, session = 0.0, model.engine.session()
    model.engine.forward((Decode(session, prompt),))
    for start in range(0, len(text) - 9, 9):
        chunk = text[start : start + 9]
        (step,) = model.engine.forward((Decode(session, chunk[:1], Draft.chain(chunk[1:])),))
        rows = [step.logits(node).copy() for node in range(ROOT, 8)]
        session.keep(range(8))
        single = model.engine.session()
        model.engine.forward((Decode(single, prompt + text[:start]),)) if start else None
        fed = [] if start else prompt
        for i, token in enumerate(chunk):
            (step,) = model.engine.forward((Decode(single, [*fed, token]),))
            fed, largest = [], max(largest, float(np.abs(step.logits(ROOT) - rows[i]).max()))
        single.close()
    session.close()
    return largest


def compare(target, drafters, n, most):
    """Of n prompts: the drafters' runs that split from the plain one, all of them at near-ties."""
    out = {kind: {"runs": n, "tokens": 0, "splits": 0, "accepted": 0, "forwards_saved": 0} for kind in drafters}
    noise = 0.0
    for i, problem in enumerate(load_task("tiny").problems(n, stream=33)):
        prompt = target.prompt(problem.question)
        plain = played(target, None, prompt, most)
        if i < min(3, n // 2 + 1):
            noise = max(noise, measured_noise(target, prompt, plain.tokens))
        for kind, drafter in drafters.items():
            drafted, result = played(target, drafter, prompt, most), out[kind]
            result["tokens"] += len(drafted.tokens)
            result["accepted"] += drafted.accepted
            result["forwards_saved"] += plain.forwards - drafted.forwards
            if drafted.tokens != plain.tokens:
                pairs = zip(plain.tokens, drafted.tokens, strict=True)
                at = next(k for k, (a, b) in enumerate(pairs) if a != b)
                second, first = np.sort(row(target, prompt + plain.tokens[:at]))[-2:]
                assert first - second <= 2 * noise, (kind, i, at, first - second, noise)
                result["splits"] += 1
    return out, noise


@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
@pytest.mark.parametrize("n, most", [(1, 30), pytest.param(200, 200, marks=pytest.mark.slow)], ids=["few", "200 x 200"])
def test_greedy_drafted_runs_are_plain_runs(models, backend, n, most):
    target, small = models[backend]
    out, noise = compare(target, {kind: made(kind, small) for kind in KINDS}, n, most)
    print(backend, f"noise {noise:.2g}", json.dumps(out))
    assert 0 < noise < 1e-3
    for kind, result in out.items():
        assert result["tokens"] == n * most and result["splits"] <= n / 50, kind
        assert result["accepted"] > n * most / 10 and result["forwards_saved"] > n * most / 10, kind


def test_a_target_that_differs_by_more_than_its_noise_is_caught(models):
    target, other = models["transformers"]

    class Swapped(Policy):
        """Emits another model's tokens."""

        def start(self):
            return None

        def step(self, state, row):
            return None, int(row_of_other(row.tokens).argmax())

    def row_of_other(tokens):
        return row(other, list(tokens))

    prompt = target.prompt("48 a-9 b+6 c-3")
    plain = played(target, None, prompt, 40)
    trace, session = Trace(), target.engine.session()
    call = Call(prompt, 40, frozenset(), Keys(seed=4), Swapped())
    list(Controller().stream(session, target.tokenizer, call, trace))
    at = next(k for k, (a, b) in enumerate(zip(plain.tokens, trace.tokens, strict=True)) if a != b)
    second, first = np.sort(row(target, prompt + plain.tokens[:at]))[-2:]
    assert first - second > 2 * measured_noise(target, prompt, plain.tokens)
