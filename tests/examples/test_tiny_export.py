"""The script that writes a bundled model: both libraries read the same model out of its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reasonctl.backends import load_model
from reasonctl.controller import ROOT, Decode
from support.example_scripts import load


@pytest.mark.parametrize("architecture", ["llama", "lfm2"])
def test_both_formats_of_any_weights_compute_the_same_logits(architecture, tmp_path):
    """Large random weights, so that a tensor under a wrong name, or in a wrong order, shows."""
    export = load("tiny/export.py")
    torch.manual_seed(0)
    model = export.build_model(architecture).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / 10 if weight.ndim == 2 else torch.randn_like(weight) / 3 + 1)
    export.export(model, tmp_path / "made", half=True)
    export.write_gguf(model, tmp_path / "exact.gguf", np.float32)
    tokens = torch.randint(0, 481, (60,)).tolist()
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    for name in (str(tmp_path / "exact.gguf"), str(tmp_path / "made")):
        loaded = load_model(name, threads=1)
        session = loaded.engine.session()
        for start, end in ((0, 40), *((at, at + 1) for at in range(40, 60))):
            (step,) = loaded.engine.forward([Decode(session, tokens[start:end])])
            # llama.cpp caches keys and values in f16.
            assert np.abs(step.logits(ROOT) - wanted[end - 1]).max() < 0.01 < wanted[end - 1].std(), (name, end)
