"""Small random models of every architecture that transformers can build from a configuration alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from support.hf_models import PAD, TOKENIZER

VOCABULARY = len(TOKENIZER) + 3

SMALL: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_dim", "attention_hidden_size", "emb_dim"), 32)
    | dict.fromkeys(("input_embedding_size", "output_embedding_size", "embedding_size", "word_embed_proj_dim"), 32)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "dff", "d_inner", "dim_ff", "feed_forward_size"), 48)
    | dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24)
    | dict.fromkeys(("expert_ffn_hidden_size", "dense_intermediate_size", "intermediate_size_mlp"), 24)
    | dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "shared_experts_intermediate_size"), 48)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2)
    | dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_blocks"), 2)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), 4)
    | dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2)
    | dict.fromkeys(("swa_num_attention_heads",), 4)
    | dict.fromkeys(("head_dim", "swa_head_dim", "dim_head", "kv_channels", "attention_head_size", "d_head"), 8)
    | dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8)
    | dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16)
    | dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4)
    | dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2)
    | dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1)
    | dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1)
    | dict.fromkeys(("index_head_dim", "index_topk", "indexer_head_dim"), 16)
    | dict.fromkeys(("index_n_heads", "indexer_n_heads"), 32)
    | dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_target_positions"), 256)
    | dict.fromkeys(("sliding_window", "window_size", "sliding_window_size", "attention_window_size"), 8)
    | dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2)
    | dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8)
    | dict.fromkeys(("rotary_dim",), 4)
    | dict.fromkeys(
        ("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size", "decoder_vocab_size"), VOCABULARY
    )
    | {"initializer_range": 0.25, "init_std": 0.25, "initializer_factor": 1.0}
    | dict.fromkeys(("mamba_n_heads", "n_mamba_heads"), 4)
    | dict.fromkeys(("mamba_d_state", "mamba_chunk_size"), 8)
    | {"eos_token_id": None, "bos_token_id": 1, "pad_token_id": PAD}
    | {"is_decoder": True, "rms_norm_eps": 1e-6}
)
"""Sizes by the names that configurations give them."""

_HYBRID = ["linear_attention", "full_attention"]
_WINDOWED = ["sliding_attention", "full_attention"]
_TWO_KINDS = dict.fromkeys(
    ("bailing_hybrid", "kimi_linear", "granitemoehybrid", "lfm3", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
    {"layer_types": _HYBRID},
) | dict.fromkeys(("lfm2", "lfm2_moe"), {"layer_types": ["conv", "full_attention"]})
_KV_SHARED = {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": 2 * _WINDOWED}

OWN: dict[str, dict[str, Any]] = _TWO_KINDS | {
    "bamba": {"attn_layer_indices": [1]},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0, "layer_types": _WINDOWED},
    "cohere2_moe": {"logit_scale": 1.0},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gemma2": {"layer_types": _WINDOWED},
    "gemma3_text": {"layer_types": _WINDOWED},
    "gemma3n_text": _KV_SHARED
    | {
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
        "intermediate_size": 48,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": _KV_SHARED | {"hidden_size_per_layer_input": 8, "global_head_dim": 8},
    "gemma4_unified_text": {"layer_types": _WINDOWED, "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm3": {"layer_types": ["conv", *_WINDOWED], "num_hidden_layers": 3},
    "longcat_flash": {"head_dim": 8, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 16},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "moe_shared_expert_intermediate_size": 24,
    },
    "olmo_hybrid": {"layer_types": _HYBRID},
    "qwen4_exp_text": {
        "layer_types": _HYBRID,
        "indexer_kv_heads": 1,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 64,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "sliding_window": None, "router_hidden_size": 16},
}
"""What single architectures need besides."""


def shrunk(kind: type[PreTrainedConfig], **own: Any) -> dict[str, Any]:
    """The small sizes of one configuration and of those inside it."""
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in SMALL.items() if name in fields}
    if "kv_lora_rank" in fields:  # heads are compressed: each has keys of its own, and its width is that of two parts
        values |= {"num_key_value_heads": 4} if "num_key_value_heads" in fields else {}
        values.pop("head_dim", None)
    for name, inner in kind.sub_configs.items():
        if name in fields and name not in own and dataclasses.is_dataclass(inner):
            values[name] = shrunk(inner)
    return values | OWN.get(kind.model_type, {}) | own


def causal(name: str) -> Any:
    """A random causal language model, by a name of NAMES or VARIANTS."""
    kind_name, own = VARIANTS.get(name, (name, {}))
    own = dict(own)
    attention = {"attn_implementation": own.pop("attn_implementation")} if "attn_implementation" in own else {}
    kind = CONFIG_MAPPING[kind_name]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(kind(**shrunk(kind, **own)), dtype=torch.float32, **attention).eval()
    model.generation_config.eos_token_id = None
    return model


_ALIASES = ("gpt-sw3", "internlm3", "iquestcoder")
"""Other names of architectures that are here."""

_MORE_THAN_TEXT = tuple(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if CONFIG_MAPPING[name].sub_configs)
"""Their text parts have names of their own; what sees or hears is in `pictures.py`."""

_TEXT_OF = ("emu3", "git", "mllama", "mpt", "phi4_multimodal")
"""Except these, whose text parts have none."""

NO_TEXTS: dict[str, str] = {
    "blt": "it needs a patcher model of its own",
    "cohere_compass_text": "transformers can't build it from its own defaults",
    "dbrx": "transformers can't build it from its own defaults",
    "gemma4_assistant": "it drafts from another model's states",
    "gemma4_unified_assistant": "it drafts from another model's states",
}
"""What can't be run alone, and why."""

NAMES = tuple(
    name
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if name not in (*_ALIASES, *NO_TEXTS) and (name not in _MORE_THAN_TEXT or name in _TEXT_OF)
)
"""Architectures that are run, by the type of their configuration."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon (ALiBi)": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "llama (eager)": ("llama", {"attn_implementation": "eager"}),
    "llama (dynamic rope)": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "gpt_oss (window only)": ("gpt_oss", {"layer_types": ["sliding_attention", "sliding_attention"]}),
}
"""Further forms: the type of their configuration, and what differs."""
