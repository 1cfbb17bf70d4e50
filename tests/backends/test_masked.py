"""Masked checkpoints: LLaDA's, Dream's and DiffuCoder's shapes against transformers' layers, shift, cache, errors."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from reasonctl.backends import is_masked
from reasonctl.backends.hf.masked.engine import TorchMaskedEngine
from reasonctl.backends.hf.masked.shapes import DREAM, LLADA, names_in, read_masked, shape_of
from reasonctl.controller import ControllerError, Greedy, Keys
from reasonctl.controller.diffusion import Denoise, PrefixCache, Unmask, Unmasking, run_all

SIZES = {
    "vocab_size": 41,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
MASK = 40


def causal(kind, seed=0):
    """A random Llama or Qwen2, whose layers LLaDA and Dream share."""
    torch.manual_seed(seed)
    model = {LLADA: LlamaForCausalLM, DREAM: Qwen2ForCausalLM}[kind](
        {LLADA: LlamaConfig, DREAM: Qwen2Config}[kind](
            **SIZES, rms_norm_eps=1e-5, attn_implementation="eager", tie_word_embeddings=False
        )
    ).eval()
    for weight in model.parameters():
        weight.data.normal_(std=0.3)
    return model


def write(folder, kind, model, **changed):
    """The model under the names and config of a masked checkpoint."""
    if kind == DREAM:
        config = SIZES | {"model_type": "Dream", "mask_token_id": MASK, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
        config["auto_map"] = {"AutoModel": "modeling_dream.DreamModel"}
    else:
        config = {
            "model_type": "llada",
            "vocab_size": 41,
            "embedding_size": 41,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "mlp_hidden_size": 48,
            "mask_token_id": MASK,
            "rms_norm_eps": 1e-5,
        }
    (folder / "config.json").write_text(json.dumps(config | changed))
    theirs = {new: old for (_, new), (_, old) in zip(names(kind), names(DREAM), strict=True)}
    state = model.state_dict()
    save_file(
        {new: state[old].contiguous() for new, old in theirs.items() if old in state}, folder / "model.safetensors"
    )
    return folder


def names(kind):
    return names_in(kind, SimpleNamespace(depth=2, bias=True, tied=False))


def bidirectional(model, tokens):
    """The causal model's logits where every position sees every other one."""
    open_mask = torch.zeros(1, 1, len(tokens), len(tokens))
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), attention_mask=open_mask).logits[0].numpy()


@pytest.fixture(params=[LLADA, DREAM])
def checkpoint(request, tmp_path):
    model = causal(request.param)
    return request.param, model, write(tmp_path, request.param, model)


TOKENS = [3, 7, 12, MASK, 5, MASK, MASK]


def test_logits_are_those_of_transformers_layers_each_at_its_position(checkpoint):
    kind, model, folder = checkpoint
    assert shape_of(folder) == kind and is_masked(str(folder))
    engine = TorchMaskedEngine(read_masked(folder))
    found = engine.forward([Denoise(TOKENS, [0, 3, 5, 6], PrefixCache())])[0]
    rows = bidirectional(model, TOKENS)
    shift = 1 if kind == DREAM else 0  # Dream: row i - 1 predicts position i, position 0 keeps its own row
    wanted = rows[[0, 3 - shift, 5 - shift, 6 - shift]]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(found[1:] - rows[[3 - 1 + shift, 5 - 1 + shift, 6 - 1 + shift]]).max() > 0.1  # the other convention


def test_rows_of_several_lengths_share_a_forward(checkpoint):
    engine = TorchMaskedEngine(read_masked(checkpoint[2]))
    requests = [Denoise(TOKENS[:n], [n - 1], PrefixCache()) for n in (7, 4, 6)]
    for alone, together in zip(requests, engine.forward(requests), strict=True):
        np.testing.assert_allclose(together, engine.forward([alone])[0], atol=2e-5)


def test_a_cache_gives_the_same_logits_while_nothing_has_changed(checkpoint):
    engine, cache = TorchMaskedEngine(read_masked(checkpoint[2])), PrefixCache()
    whole = engine.forward([Denoise(TOKENS, [3, 5, 6], cache, keep=3)])[0]
    assert cache.length == 3
    np.testing.assert_allclose(engine.forward([Denoise(TOKENS, [3, 5, 6], cache)])[0], whole, atol=2e-5)
    written = [*TOKENS[:3], 9, *TOKENS[4:]]
    held = engine.forward([Denoise(written, [5], cache)])[0]
    fresh = engine.forward([Denoise(written, [5], PrefixCache())])[0]
    assert np.abs(held - fresh).max() > 1e-4  # what stands before the block saw a mask there: it isn't exact


def test_runs_are_the_same_in_batches_and_blocks_with_a_cache_end(checkpoint):
    engine = TorchMaskedEngine(read_masked(checkpoint[2]))
    for settings in (Unmasking(6, steps=3), Unmasking(6, block=2, cache=True)):
        runs = [Unmask([3, 7, 1 + run], settings, Greedy(), Keys(seed=0, run=run)) for run in range(3)]
        together = run_all(engine, runs)
        assert all(MASK not in trace.tokens and len(trace.tokens) == 6 for trace in together)
        assert [t.tokens for t in together] == [run_all(engine, [one])[0].tokens for one in runs]


@pytest.mark.parametrize(
    "kind, changed, said",
    [
        (LLADA, {"d_model": 33}, "don't divide"),
        (LLADA, {"mask_token_id": 41}, "no row"),
        (LLADA, {"n_layers": 10**9}, "n_layers"),
        (LLADA, {"alibi": True}, "alibi"),
        (LLADA, {"n_layers": 3}, "missing"),
        (LLADA, {"mlp_hidden_size": 40}, "the config asks for"),
        (DREAM, {"mask_token_id": None}, "mask_token_id"),
        (DREAM, {"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        (DREAM, {"model_type": "qwen2"}, "no masked model"),
    ],
)
def test_folders_that_are_no_such_model_are_refused(tmp_path, kind, changed, said):
    write(tmp_path, kind, causal(kind), **changed)
    with pytest.raises(ControllerError, match=said):
        read_masked(tmp_path)


def test_pickled_weights_and_broken_files_are_refused(tmp_path):
    folder = write(tmp_path, LLADA, causal(LLADA))
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ControllerError, match="can't be read"):
        read_masked(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ControllerError, match="pickled"):
        read_masked(folder)
