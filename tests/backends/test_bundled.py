"""The bundled models: each in both formats from the same weights, under its own name."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends import BUNDLED, Model, load_model, tiny_folder
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ROOT, Decode

BACKENDS = ("llama.cpp", "transformers")
PROBLEM = load_task("tiny").problems(1, stream=3)[0]


def greedy(model: Model, tokens: list[int], length: int) -> tuple[list[int], np.ndarray]:
    """`length` likeliest tokens after a prompt, one at a time, and the logits they were read from."""
    session, rows = model.engine.session(), []
    written = []
    while len(written) < length:
        (step,) = model.engine.forward([Decode(session, written[-1:] or tokens)])
        rows.append(step.logits(ROOT).copy())
        written.append(int(rows[-1].argmax()))
    session.close()
    return written, np.stack(rows)


@pytest.mark.parametrize("name", BUNDLED)
def test_both_formats_write_the_same_text(name):
    models = [load_model(name, backend=backend, threads=1) for backend in BACKENDS]
    assert [(model.name, model.backend) for model in models] == [(name, backend) for backend in BACKENDS]
    assert models[0].fingerprint() == models[1].fingerprint() and models[0].depth == models[1].depth
    tokens = [model.prompt(PROBLEM.question) for model in models]
    assert tokens[0] == tokens[1]
    (ours, ours_logits), (theirs, theirs_logits) = (greedy(model, tokens[0], 80) for model in models)
    assert ours == theirs and np.abs(ours_logits - theirs_logits).max() < 0.2
    assert models[0].tokenizer.decode(ours).startswith("First ")


def test_the_bundled_models_are_different_models():
    assert len({load_model(name, threads=1).fingerprint() for name in BUNDLED}) == len(BUNDLED)
    assert [sorted(path.name for path in tiny_folder(name).glob("*.gguf")) for name in BUNDLED] == [
        [f"{name}.gguf"] for name in BUNDLED
    ]


def test_the_hybrid_keeps_states_on_both_backends():
    """Convolutions and attention in turn: tokens can't be taken back."""
    config = load_model("tiny-hybrid", backend="transformers", threads=1).library.config
    assert config.layer_types == ["conv", "full_attention"] * 3
    assert load_model("tiny-hybrid", threads=1).library.metadata["general.architecture"] == config.model_type == "lfm2"
