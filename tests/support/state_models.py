"""Small random models of every family of the library whose cache holds a state."""

from __future__ import annotations

import torch
import transformers

from support import hf_models

SHAPE = hf_models.SHAPE | dict(num_hidden_layers=4, initializer_range=0.2)
MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
CONV = ["conv", "full_attention", "conv", "conv"]
SHARED = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8)
ZAMBA = dict(layers_block_type=SHARED, use_mamba_kernels=False, num_key_value_heads=4, mamba_d_state=8)
DELTA = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, layer_types=MIXED
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
QWEN_EXPERTS = EXPERTS | dict(shared_expert_intermediate_size=16)
LOCAL = dict(num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LATENT = dict(num_key_value_heads=4, kv_lora_rank=16, qk_rope_head_dim=8, v_head_dim=8, qk_nope_head_dim=8)
INKLING = dict(
    head_dim=8,
    swa_num_attention_heads=4,
    swa_num_key_value_heads=2,
    swa_head_dim=8,
    sliding_window_size=8,
    d_rel=4,
    rel_extent=16,
    moe_intermediate_size=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
    layer_types=["hybrid", "hybrid_sliding"] * 2,
    unpadded_vocab_size=SHAPE["vocab_size"],
)
NEMOTRON = dict(
    layers_block_type=["mamba", "moe", "attention", "mamba"],
    head_dim=8,
    mamba_num_heads=8,
    mamba_head_dim=8,
    ssm_state_size=8,
    n_groups=1,
    chunk_size=8,
    n_routed_experts=4,
    moe_intermediate_size=16,
    moe_shared_expert_intermediate_size=16,
)

FAMILIES = {
    "Qwen3_5": ("TextConfig", DELTA | dict(head_dim=8)),
    "Qwen3_5Moe": ("TextConfig", DELTA | QWEN_EXPERTS | dict(head_dim=8)),
    "Qwen3Next": ("Config", DELTA | QWEN_EXPERTS | dict(head_dim=8)),
    "GraniteMoeHybrid": ("Config", MAMBA2 | dict(layer_types=MIXED, shared_intermediate_size=32, num_local_experts=4)),
    "Lfm2": ("Config", dict(layer_types=CONV)),
    "Lfm2Moe": ("Config", EXPERTS | dict(layer_types=CONV, num_dense_layers=1)),
    "Lfm3": ("Config", dict(layer_types=[*CONV[:3], "sliding_attention"], sliding_window=8, head_dim=8)),
    "NemotronH": ("Config", NEMOTRON),
    "FalconH1": ("Config", MAMBA2 | dict(mamba_d_ssm=64)),
    "Jamba": (
        "Config",
        dict(attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8, use_mamba_kernels=False),
    ),
    "Bamba": ("Config", MAMBA2 | dict(attn_layer_indices=[1, 3])),
    "Zamba": ("Config", ZAMBA),
    "Zamba2": ("Config", ZAMBA | dict(n_mamba_heads=8, mamba_headdim=8, chunk_size=8)),
    "Mamba": ("Config", dict(state_size=8)),
    "FalconMamba": ("Config", dict(state_size=8)),
    "Mamba2": ("Config", dict(num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=8)),
    "KimiLinear": (
        "Config",
        LATENT
        | LOCAL
        | dict(layer_types=MIXED, linear_head_dim=8, linear_num_heads=4, mlp_layer_types=["dense"] + ["sparse"] * 3),
    ),
    "OlmoHybrid": ("Config", DELTA),
    "Inkling": ("TextConfig", INKLING | dict(n_shared_experts=1, logits_mup_width_multiplier=0.1)),
    "Inkling2": ("TextConfig", INKLING),
    "Zaya": ("Config", dict(head_dim=8, moe_intermediate_size=16, num_experts=4, router_hidden_size=16)),
    "BailingHybrid": ("Config", LATENT | LOCAL | dict(layer_types=MIXED, head_dim=8, n_group=1, topk_group=1)),
}
"""By the beginning of the class names: the end of the configuration's name, and what its shape has besides."""

ONE_AT_A_TIME = {"Jamba", "Zamba", "Mamba", "FalconMamba"}
"""They begin anew from an empty state when they are given several tokens."""


def state_model(family):
    """A random model of a family."""
    torch.manual_seed(1)
    ending, changes = FAMILIES[family]
    config = getattr(transformers, f"{family}{ending}")(**(SHAPE | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            # The library holds to this limit in a prompt and not in a step: without it both compute the same.
            module.time_step_limit = (0.0, float("inf"))
    return model
