"""Small GGUF files with random weights, in the architectures whose cache can't drop its last tokens, and a few others.

Each has the bundled model's tokenizer, so that texts, cues and markers are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter

from reasonctl.backends.load import tiny_folder

WIDTH, HEADS, KV_HEADS, HEAD, INNER = 64, 4, 2, 16, 96
STATES, GROUPS, STEPS, KERNEL = 16, 2, 8, 4
"""Of the recurrent blocks: states, groups, ranks of the time step, and tokens that a convolution sees."""
SSM_WIDTH = 2 * WIDTH
EXPERTS, EXPERT_INNER = 4, 32
WINDOW = 24
"""Tokens that a windowed layer sees."""
CONTEXT = 2048

Shapes = dict[str, tuple[int, ...]]
"""Shape of each tensor, in the order of the format: the length of a row first."""


def attention(*, gate: bool = False, norms: bool = False, biases: bool = False) -> Shapes:
    """Grouped queries; with an output gate, with normed queries and keys, or with sinks and a bias."""
    width = HEADS * HEAD
    shapes: Shapes = {
        "attn_q.weight": (WIDTH, 2 * width if gate else width),
        "attn_k.weight": (WIDTH, KV_HEADS * HEAD),
        "attn_v.weight": (WIDTH, KV_HEADS * HEAD),
        "attn_output.weight": (width, WIDTH),
    }
    if norms:
        shapes |= {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
    if biases:
        shapes |= {"attn_sinks.weight": (HEADS,), "attn_output.bias": (WIDTH,)}
    return shapes


def short_convolution() -> Shapes:
    """LFM2's block, whose state is its last two inputs."""
    return {
        "shortconv.conv.weight": (3, WIDTH),
        "shortconv.in_proj.weight": (WIDTH, 3 * WIDTH),
        "shortconv.out_proj.weight": (WIDTH, WIDTH),
    }


def mamba(*, norms: bool = False) -> Shapes:
    """The first Mamba's block; Jamba norms its steps and its projections."""
    steps = STEPS // 2
    shapes: Shapes = {
        "ssm_in.weight": (WIDTH, 2 * SSM_WIDTH),
        "ssm_conv1d.weight": (KERNEL, SSM_WIDTH),
        "ssm_conv1d.bias": (SSM_WIDTH,),
        "ssm_x.weight": (SSM_WIDTH, steps + 2 * STATES),
        "ssm_dt.weight": (steps, SSM_WIDTH),
        "ssm_dt.bias": (SSM_WIDTH,),
        "ssm_a": (STATES, SSM_WIDTH),
        "ssm_d": (SSM_WIDTH,),
        "ssm_out.weight": (SSM_WIDTH, WIDTH),
    }
    if norms:
        shapes |= {"ssm_dt_norm.weight": (steps,), "ssm_b_norm.weight": (STATES,), "ssm_c_norm.weight": (STATES,)}
    return shapes


def mamba2() -> Shapes:
    """The second Mamba's block."""
    convolved = SSM_WIDTH + 2 * GROUPS * STATES
    return {
        "ssm_in.weight": (WIDTH, SSM_WIDTH + convolved + STEPS),
        "ssm_conv1d.weight": (KERNEL, convolved),
        "ssm_conv1d.bias": (convolved,),
        "ssm_dt.bias": (STEPS,),
        "ssm_a": (1, STEPS),
        "ssm_d": (1, STEPS),
        "ssm_norm.weight": (SSM_WIDTH // GROUPS, GROUPS),
        "ssm_out.weight": (SSM_WIDTH, WIDTH),
    }


def delta_net(mixing: Shapes) -> Shapes:
    """Qwen's gated delta net, with `mixing` for its two rates."""
    heads, keys = WIDTH // STATES, GROUPS * STATES
    convolved = 2 * keys + WIDTH
    return mixing | {
        "attn_qkv.weight": (WIDTH, convolved),
        "attn_gate.weight": (WIDTH, WIDTH),
        "ssm_conv1d.weight": (KERNEL, convolved),
        "ssm_dt.bias": (heads,),
        "ssm_a": (heads,),
        "ssm_norm.weight": (STATES,),
        "ssm_out.weight": (WIDTH, WIDTH),
    }


def dense() -> Shapes:
    """A gated feed-forward part."""
    return {"ffn_gate.weight": (WIDTH, INNER), "ffn_up.weight": (WIDTH, INNER), "ffn_down.weight": (INNER, WIDTH)}


def experts(*, biases: bool = False, shared: bool = False) -> Shapes:
    """A mixture of experts."""
    shapes: Shapes = {"ffn_gate_inp.weight": (WIDTH, EXPERTS)}
    for name in ("gate", "up", "down"):
        ends = (EXPERT_INNER, WIDTH) if name == "down" else (WIDTH, EXPERT_INNER)
        shapes[f"ffn_{name}_exps.weight"] = (*ends, EXPERTS)
        if biases:
            shapes[f"ffn_{name}_exps.bias"] = (ends[1], EXPERTS)
        if shared:
            shapes[f"ffn_{name}_shexp.weight"] = ends
    if biases:
        shapes["ffn_gate_inp.bias"] = (EXPERTS,)
    if shared:
        shapes["ffn_gate_inp_shexp.weight"] = (WIDTH,)
    return shapes


def norms(*names: str) -> Shapes:
    """A norm over a row, for each name."""
    return {f"{name}.weight": (WIDTH,) for name in names}


@dataclass(frozen=True)
class Architecture:
    """How a small file of one architecture is made."""

    blocks: tuple[Shapes, ...]
    """The tensors of each block."""
    keys: dict[str, Any] = field(default_factory=dict)
    """The header's keys that are this architecture's own."""
    last_norm: str = "output_norm"
    """The tensor of the norm before the logits."""
    untied: bool = False
    """The logits have a matrix of their own."""
    embedding: float = 0.2
    """Size of a token's embedding."""


_STATE = {"ssm.conv_kernel": KERNEL, "ssm.state_size": STATES, "ssm.group_count": GROUPS}
_MAMBA = _STATE | {"ssm.inner_size": SSM_WIDTH, "ssm.time_step_rank": STEPS}
_MAMBA_1 = _MAMBA | {"ssm.time_step_rank": STEPS // 2}
_DELTA = _STATE | {"ssm.inner_size": WIDTH, "ssm.time_step_rank": WIDTH // STATES, "full_attention_interval": 2}
_HEADS = {"attention.key_length": HEAD, "attention.value_length": HEAD}
_MIXTURE = {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": EXPERT_INNER}
_ALONE = {"attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0}
_SECOND = {"attention.head_count_kv": [0, KV_HEADS, 0]}
"""The second of three blocks attends."""
_TWO = norms("attn_norm", "ffn_norm")
_POST = norms("attn_norm", "post_attention_norm")
_WINDOWED = _HEADS | {"attention.sliding_window": WINDOW}
_YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.original_context_length": CONTEXT // 2}


def _second_attends(recurrent: Shapes, attending: Shapes, rest: Shapes) -> tuple[Shapes, ...]:
    return (recurrent | rest, attending | rest, recurrent | rest)


def _qwen(mixing: Shapes, rest: Shapes) -> tuple[Shapes, ...]:
    return (delta_net(mixing) | _POST | rest, attention(gate=True, norms=True) | _POST | rest) * 2


_FALCON = {name: shape for name, shape in mamba2().items() if name != "ssm_norm.weight"}
_GEMMA = attention(norms=True) | _TWO | norms("post_attention_norm", "post_ffw_norm") | dense()
_OSS = attention(biases=True) | _POST | experts(biases=True)

ARCHITECTURES = {
    "lfm2": Architecture(
        _second_attends(short_convolution(), attention(norms=True), _TWO | dense()),
        _SECOND | {"shortconv.l_cache": 3},
        last_norm="token_embd_norm",
    ),
    "qwen35": Architecture(
        _qwen({"ssm_beta.weight": (WIDTH, 4), "ssm_alpha.weight": (WIDTH, 4)}, dense()),
        _DELTA | _HEADS | {"rope.dimension_count": 8, "rope.dimension_sections": [2, 1, 1, 0]},
    ),
    "qwen3next": Architecture(
        _qwen({"ssm_ba.weight": (WIDTH, 8)}, experts(shared=True)),
        _DELTA | _HEADS | _MIXTURE | {"rope.dimension_count": 8, "expert_shared_feed_forward_length": EXPERT_INNER},
    ),
    "granitehybrid": Architecture(
        _second_attends(mamba2(), attention(), _TWO | dense()),
        _MAMBA | _SECOND | {"attention.scale": 0.25, "residual_scale": 0.5, "embedding_scale": 1.5, "logit_scale": 0.5},
    ),
    "falcon-h1": Architecture(
        (_FALCON | attention() | norms("attn_norm") | {"ffn_norm": (WIDTH,)} | dense(),) * 3, _MAMBA | _HEADS
    ),
    "nemotron_h": Architecture(
        (
            mamba2() | norms("attn_norm"),
            attention() | norms("attn_norm"),
            {"ffn_up.weight": (WIDTH, INNER), "ffn_down.weight": (INNER, WIDTH)} | norms("attn_norm"),
            mamba2() | norms("attn_norm"),
        ),
        _MAMBA | _HEADS | {"attention.head_count_kv": [0, KV_HEADS, 0, 0], "feed_forward_length": [0, 0, INNER, 0]},
    ),
    "mamba": Architecture((mamba() | norms("attn_norm"),) * 3, _MAMBA_1 | _ALONE),
    "mamba2": Architecture((mamba2() | norms("attn_norm"),) * 3, _MAMBA | _ALONE),
    "jamba": Architecture(_second_attends(mamba(norms=True), attention(), _TWO | dense()), _MAMBA_1 | _SECOND),
    "gemma3": Architecture((_GEMMA,) * 7, _WINDOWED, embedding=0.2 / WIDTH**0.5),
    "gpt-oss": Architecture((_OSS,) * 4, _WINDOWED | _MIXTURE | _YARN, untied=True),
}
"""By llama.cpp's names. Gemma's sixth block and every second block of gpt-oss see the whole context."""
WINDOWED = ("gemma3", "gpt-oss")
RECURRENT = tuple(name for name in ARCHITECTURES if name not in WINDOWED)


def make_gguf(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the file of one architecture; it is about half a megabyte."""
    made, path = ARCHITECTURES[name], folder / f"{name}.gguf"
    tokens = _tokenizer()["tokens"]
    writer = GGUFWriter(path, name)
    common = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": len(made.blocks),
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "vocab_size": len(tokens),
    }
    for key, value in (common | made.keys).items():
        _add(writer, f"{name}.{key}", value)
    _add_tokenizer(writer)
    rng = np.random.default_rng(seed)
    shapes: Shapes = {"token_embd.weight": (WIDTH, len(tokens)), f"{made.last_norm}.weight": (WIDTH,)}
    if made.untied:
        shapes["output.weight"] = (WIDTH, len(tokens))
    shapes |= {f"blk.{i}.{tensor}": shape for i, block in enumerate(made.blocks) for tensor, shape in block.items()}
    for tensor, shape in shapes.items():
        size = made.embedding if tensor == "token_embd.weight" else 0.2
        writer.add_tensor(tensor, _weights(tensor, shape, rng, size))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def _weights(name: str, shape: Iterable[int], rng: np.random.Generator, size: float) -> np.ndarray[Any, Any]:
    """Random numbers with which a block's output is of about its input's size, and a state decays slowly."""
    drawn = rng.normal(size=tuple(shape)[::-1])
    if "norm" in name:
        drawn = 1 + 0.1 * drawn
    elif name.endswith("ssm_a"):
        drawn = -np.exp(drawn - 1)
    elif name.endswith("ssm_dt.bias"):
        drawn -= 2
    elif "conv" in name:
        drawn *= 0.5
    else:
        drawn *= size
    return drawn.astype(np.float32)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Write one key, in the type that llama.cpp reads."""
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds[type(value)](key, value)


@cache
def _tokenizer() -> dict[str, Any]:
    """The bundled model's tokenizer, by the last part of its keys."""
    fields = GGUFReader(tiny_folder() / "tiny.gguf").fields
    prefix = "tokenizer.ggml."
    return {key.removeprefix(prefix): one.contents() for key, one in fields.items() if key.startswith(prefix)}


def _add_tokenizer(writer: GGUFWriter) -> None:
    found = _tokenizer()
    writer.add_tokenizer_model(found["model"])
    writer.add_tokenizer_pre(found["pre"])
    writer.add_token_list(found["tokens"])
    writer.add_token_types(found["token_type"])
    writer.add_token_merges(found["merges"])
    writer.add_eos_token_id(found["eos_token_id"])
    writer.add_pad_token_id(found["padding_token_id"])
    writer.add_add_bos_token(False)
