"""Reads a masked model's folder: config.json and safetensors in LLaDA's or Dream's names, into our own module.

No code of the folder is run: `auto_map` is ignored. DiffuCoder's checkpoints are Dream's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reasonctl.controller import ControllerError
from reasonctl.controller.core import parse, read_bytes

from .module import MaskedConfig, MaskedModel

LLADA, DREAM = "llada", "dream"

_LAYERS = {
    LLADA: {
        "attn_norm": "attention_norm",
        "q_proj": "query",
        "k_proj": "key",
        "v_proj": "value",
        "attn_out": "attention_out",
        "ff_norm": "feed_norm",
        "ff_proj": "gate",
        "up_proj": "up",
        "ff_out": "down",
    },
    DREAM: {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "query",
        "self_attn.k_proj": "key",
        "self_attn.v_proj": "value",
        "self_attn.o_proj": "attention_out",
        "post_attention_layernorm": "feed_norm",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "down",
    },
}
"""The folder's name of each part of a block, and ours."""

_OUTER = {
    LLADA: {
        "model.transformer.wte.weight": "embedding.weight",
        "model.transformer.ln_f.weight": "norm.weight",
        "model.transformer.ff_out.weight": "output.weight",
    },
    DREAM: {
        "model.embed_tokens.weight": "embedding.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "output.weight",
    },
}

_BLOCKS = {LLADA: "model.transformer.blocks.", DREAM: "model.layers."}

MOST = 1 << 20
"""No size in a config is larger; a vocabulary of a million tokens is."""


def shape_of(folder: Path) -> str | None:
    """`llada` or `dream` where the folder holds such a masked model, else None."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    kind = str(_config(file).get("model_type", "")).lower()
    return kind if kind in _LAYERS else None


def read_masked(folder: Path, dtype: torch.dtype | None = None) -> MaskedModel:
    """The model of a folder.

    Args:
        folder: holds config.json and one or more .safetensors files.
        dtype: None: float32, which every CPU computes well.

    Raises:
        ControllerError: The folder holds no such model, or one whose parts don't fit together.
    """
    shape = shape_of(folder)
    if shape is None:
        raise ControllerError(f"{str(folder)!r} holds no masked model; config.json must say model_type llada or Dream")
    config = _read_config(folder, shape)
    with torch.device("meta"):
        model = MaskedModel(config)
    wanted = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    found: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder):
        ours = _our_name(name, shape)
        if ours is None or (ours == "output.weight" and config.tied):
            continue
        if ours not in wanted or tuple(tensor.shape) != wanted[ours]:
            raise ControllerError(
                f"{str(folder)!r}: {name} has shape {tuple(tensor.shape)}, and the config asks for {wanted.get(ours)}"
            )
        found[ours] = tensor.to(dtype or torch.float32)
    if config.tied and "embedding.weight" in found:
        found["output.weight"] = found["embedding.weight"]
    if missing := sorted(wanted.keys() - found.keys()):
        raise ControllerError(f"{str(folder)!r}: {len(missing)} tensors are missing, such as {missing[0]}")
    model.load_state_dict(found, assign=True)
    if config.tied:
        model.output.weight = model.embedding.weight
    return model.eval()


def names_in(shape: str, config: MaskedConfig) -> Iterator[tuple[str, str]]:
    """(ours, the folder's) name of every tensor of a model in a shape: how one is written."""
    for theirs, ours in _OUTER[shape].items():
        if not (config.tied and ours == "output.weight"):
            yield ours, theirs
    for block in range(config.depth):
        for theirs, ours in _LAYERS[shape].items():
            yield f"blocks.{block}.{ours}.weight", f"{_BLOCKS[shape]}{block}.{theirs}.weight"
            if config.bias and ours in ("query", "key", "value"):
                yield f"blocks.{block}.{ours}.bias", f"{_BLOCKS[shape]}{block}.{theirs}.bias"


def _our_name(name: str, shape: str) -> str | None:
    """Our name of a folder's tensor; None: it isn't one of the model's."""
    if name in _OUTER[shape]:
        return _OUTER[shape][name]
    if not name.startswith(_BLOCKS[shape]):
        return None
    number, _, part = name.removeprefix(_BLOCKS[shape]).partition(".")
    inner, _, kind = part.rpartition(".")
    ours = _LAYERS[shape].get(inner)
    return None if ours is None else f"blocks.{number}.{ours}.{kind}"


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ControllerError(f"{str(folder)!r} holds no .safetensors file; pickled weights aren't read")
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # a safetensors file isn't iterable
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ControllerError(f"{str(file)!r} can't be read: {error}") from None


def _config(file: Path) -> dict[str, Any]:
    found = parse(read_bytes(file, "a model's config", 1 << 20), str(file))
    if not isinstance(found, dict):
        raise ControllerError(f"{str(file)!r} holds no JSON object")
    return found


def _read_config(folder: Path, shape: str) -> MaskedConfig:
    raw = _config(folder / "config.json")
    where = str(folder / "config.json")

    def size(*names: str, default: int | None = None, least: int = 1) -> int:
        value = next((raw[name] for name in names if raw.get(name) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST:
            raise ControllerError(f"{where}: {names[0]} is {value!r:.40}; it must be from {least} to {MOST}")
        return value

    config = (_llada if shape == LLADA else _dream)(raw, size, where)
    if config.width % config.heads or config.heads % config.key_heads or (config.width // config.heads) % 2:
        raise ControllerError(
            f"{where}: width {config.width}, {config.heads} heads and {config.key_heads} key heads don't divide"
        )
    if config.mask >= config.vocabulary:
        raise ControllerError(f"{where}: mask_token_id {config.mask} is no row of a vocabulary of {config.vocabulary}")
    return config


Size = Callable[..., int]


def _llada(raw: dict[str, Any], size: Size, where: str) -> MaskedConfig:
    """LLaDA's config (modeling_llada, block type `llama`)."""
    for name, allowed in {
        "block_type": ("llama",),
        "layer_norm_type": ("rms",),
        "activation_type": ("silu", "swiglu"),
        "rope": (True,),
        "alibi": (False,),
        "include_bias": (False,),
        "attention_layer_norm": (False,),
    }.items():
        if raw.get(name, allowed[0]) not in allowed:
            raise ControllerError(f"{where}: {name} is {raw[name]!r:.40}; only {allowed[0]!r} is known")
    heads, width = size("n_heads"), size("d_model")
    return MaskedConfig(
        vocabulary=size("embedding_size", "vocab_size"),
        width=width,
        depth=size("n_layers"),
        heads=heads,
        key_heads=size("n_kv_heads", default=heads),
        feed_forward=size("mlp_hidden_size", default=width * int(raw.get("mlp_ratio") or 4)),
        mask=size("mask_token_id", least=0),
        eos=_ids(raw.get("eos_token_id")),
        context=size("max_sequence_length", default=4096),
        theta=float(raw.get("rope_theta") or 10000.0),
        epsilon=float(raw.get("rms_norm_eps") or 1e-5),
        bias=bool(raw.get("include_qkv_bias")),
        tied=bool(raw.get("weight_tying")),
    )


def _dream(raw: dict[str, Any], size: Size, where: str) -> MaskedConfig:
    """Dream's and DiffuCoder's config: Qwen2's, with a mask token and shifted logits."""
    if raw.get("hidden_act", "silu") != "silu" or raw.get("rope_scaling"):
        raise ControllerError(f"{where}: only silu without rope_scaling is known of Dream's kinds")
    heads = size("num_attention_heads")
    return MaskedConfig(
        vocabulary=size("vocab_size"),
        width=size("hidden_size"),
        depth=size("num_hidden_layers"),
        heads=heads,
        key_heads=size("num_key_value_heads", default=heads),
        feed_forward=size("intermediate_size"),
        mask=size("mask_token_id", least=0),
        eos=_ids(raw.get("eos_token_id")),
        context=size("max_position_embeddings", default=2048),
        theta=float(raw.get("rope_theta") or 10000.0),
        epsilon=float(raw.get("rms_norm_eps") or 1e-6),
        bias=True,
        tied=bool(raw.get("tie_word_embeddings")),
        shifted=True,
    )


def _ids(value: object) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [value]
    return tuple(one for one in found if isinstance(one, int))
