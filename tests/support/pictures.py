"""Small random models that see or hear, each with a random picture or sound in its prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from support.architecture_cells import Bench
from support.architectures import VOCABULARY, shrunk
from support.hf_models import TOKENIZER

MEDIA = VOCABULARY - 1
"""The token in whose places the picture or sound is put."""

_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_SQUARE = _VISION | {"image_size": 8, "patch_size": 4, "num_channels": 3}
_QWEN = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 1}
_HEARS = {"num_mel_bins": 8, "max_source_positions": 8, "encoder_layers": 2, "encoder_attention_heads": 2}
_TOKENS = {"image_token_id": MEDIA, "video_token_id": MEDIA - 1, "vision_start_token_id": 1, "vision_end_token_id": 2}


def _text(kind: str, **own: Any) -> dict[str, Any]:
    return {"model_type": kind, **shrunk(transformers.AutoConfig.for_model(kind).__class__, **own)}


@dataclass(frozen=True)
class Sees:
    """How one kind of model is built, and what its prompt holds."""

    model: str
    """The class in transformers."""
    config: Callable[[], dict[str, Any]]
    places: int
    """Tokens that the picture or sound takes."""
    media: Callable[[], dict[str, torch.Tensor]]
    medium: str = "picture"
    """What it is."""
    types: str = ""
    """The argument that says of each token whether it is text (0) or not (1)."""


def _pixels(*shape: int) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(3))}


def _patches() -> dict[str, torch.Tensor]:
    """A picture of 4 by 6 patches as Qwen's processors cut it: 6 places, positions in three axes."""
    return {**_pixels(24, 48)(), "image_grid_thw": torch.tensor([[1, 4, 6]])}


def _mrope(head: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [head // 4, 1, 1]}}


def _idefics(name: str) -> Sees:
    """Idefics 3, and SmolVLM, which is built like it."""
    return Sees(
        name,
        lambda: {
            "text_config": _text("llama"),
            "vision_config": _SQUARE | {"image_size": 16},
            "image_token_id": MEDIA,
            "scale_factor": 2,
        },
        4,
        _pixels(1, 1, 3, 16, 16),
    )


KINDS: dict[str, Sees] = {
    "llava": Sees(
        "LlavaForConditionalGeneration",
        lambda: {
            "text_config": _text("llama"),
            "vision_config": {"model_type": "clip_vision_model", **_SQUARE},
            "image_token_index": MEDIA,
        },
        4,
        _pixels(1, 3, 8, 8),
    ),
    "qwen2_vl": Sees(
        "Qwen2VLForConditionalGeneration",
        lambda: {
            "text_config": shrunk(transformers.Qwen2VLConfig.sub_configs["text_config"], **_mrope(8)),
            "vision_config": {**_QWEN, "embed_dim": 32, "hidden_size": 32},
            **_TOKENS,
        },
        6,
        _patches,
        types="mm_token_type_ids",
    ),
    "qwen2_5_vl": Sees(
        "Qwen2_5_VLForConditionalGeneration",
        lambda: {
            "text_config": shrunk(transformers.Qwen2_5_VLConfig.sub_configs["text_config"], **_mrope(8)),
            "vision_config": {**_QWEN, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
            | {"window_size": 16, "fullatt_block_indexes": [1]},
            **_TOKENS,
        },
        6,
        _patches,
        types="mm_token_type_ids",
    ),
    "qwen3_vl": Sees(
        "Qwen3VLForConditionalGeneration",
        lambda: {
            "text_config": shrunk(transformers.Qwen3VLConfig.sub_configs["text_config"], **_mrope(8)),
            "vision_config": {**_QWEN, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
            | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
            **_TOKENS,
        },
        6,
        _patches,
        types="mm_token_type_ids",
    ),
    "qwen3_5": Sees(
        "Qwen3_5ForConditionalGeneration",
        lambda: {
            "text_config": shrunk(transformers.Qwen3_5Config.sub_configs["text_config"]),
            "vision_config": {**_QWEN, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
            | {"num_position_embeddings": 64},
            **_TOKENS,
        },
        6,
        _patches,
        types="mm_token_type_ids",
    ),
    "gemma3": Sees(
        "Gemma3ForConditionalGeneration",
        lambda: {
            "text_config": shrunk(transformers.Gemma3TextConfig),
            "vision_config": {"model_type": "siglip_vision_model", **_SQUARE},
            "mm_tokens_per_image": 4,
            "image_token_index": MEDIA,
        },
        4,
        _pixels(1, 3, 8, 8),
        types="token_type_ids",
    ),
    "paligemma": Sees(
        "PaliGemmaForConditionalGeneration",
        lambda: {
            "text_config": _text("gemma"),
            "vision_config": {"model_type": "siglip_vision_model", **_SQUARE},
            "image_token_index": MEDIA,
            "projection_dim": 32,
        },
        4,
        _pixels(1, 3, 8, 8),
    ),
    "idefics3": _idefics("Idefics3ForConditionalGeneration"),
    "smolvlm": _idefics("SmolVLMForConditionalGeneration"),
    "internvl": Sees(
        "InternVLForConditionalGeneration",
        lambda: {
            "text_config": _text("qwen2"),
            "vision_config": _VISION | {"image_size": [16, 16], "patch_size": [4, 4]},
            "image_token_id": MEDIA,
        },
        4,
        _pixels(1, 3, 16, 16),
    ),
    "mllama": Sees(
        "MllamaForConditionalGeneration",
        lambda: {
            "text_config": shrunk(transformers.MllamaConfig.sub_configs["text_config"], cross_attention_layers=[1]),
            "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "attention_heads": 2}
            | {"num_global_layers": 1, "image_size": 8, "patch_size": 4, "max_num_tiles": 1}
            | {"intermediate_layers_indices": [1], "vision_output_dim": 64, "supported_aspect_ratios": [[1, 1]]},
            "image_token_index": MEDIA,
        },
        1,
        lambda: {
            **_pixels(1, 1, 1, 3, 8, 8)(),
            "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
            "aspect_ratio_mask": torch.ones(1, 1, 1, dtype=torch.long),
        },
    ),
    "qwen2_audio": Sees(
        "Qwen2AudioForConditionalGeneration",
        lambda: {
            "text_config": _text("qwen2"),
            "audio_config": {"model_type": "qwen2_audio_encoder", **_HEARS, "d_model": 32, "encoder_ffn_dim": 48},
            "audio_token_index": MEDIA,
        },
        4,
        lambda: {
            "input_features": torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(3)),
            "feature_attention_mask": torch.ones(1, 16, dtype=torch.long),
        },
        "sound",
    ),
    "voxtral": Sees(
        "VoxtralForConditionalGeneration",
        lambda: {
            "text_config": _text("llama"),
            "audio_config": {"model_type": "voxtral_encoder", "num_mel_bins": 8, "max_source_positions": 8}
            | {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
            "audio_token_id": MEDIA,
        },
        2,
        lambda: {"input_features": torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(3))},
        "sound",
    ),
}
"""By the type of their configuration."""


def seeing(name: str) -> Bench:
    """A bench whose prompt holds a picture or a sound."""
    kind = KINDS[name]
    model_class = getattr(transformers, kind.model)
    torch.manual_seed(1)
    config = model_class.config_class(**kind.config())
    model = model_class(config).eval()
    model.generation_config.eos_token_id = None
    given = kind.media()
    prompt = [*TOKENIZER("so ")["input_ids"], *[MEDIA] * kind.places, *TOKENIZER(" the cat 12<think>")["input_ids"]]

    def media(tokens: list[int]) -> dict[str, Any]:
        if MEDIA not in tokens:
            return {}
        types = {kind.types: torch.tensor([[int(token == MEDIA) for token in tokens]])} if kind.types else {}
        return given | types

    bench = Bench(model, prompt, media)
    bench.both_ways = name == "paligemma"
    return bench
