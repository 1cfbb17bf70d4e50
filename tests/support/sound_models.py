"""Tiny audio-language models with random weights: they test the plumbing, and say nothing sensible."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, WhisperFeatureExtractor

from reasonctl.backends.load import tiny_folder

TEMPLATE = (
    "{%% for message in messages %%}{%% for part in message.content %%}"
    "{%% if part.type == 'audio' %%}%s{%% else %%}{{ part.text }}{%% endif %%}"
    "{%% endfor %%}{%% endfor %%}\n"
)
_LAYERS = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32}
_ENCODER = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_MEL = {"num_mel_bins": 8, "max_source_positions": 1500}


@dataclass(frozen=True)
class Hears:
    """How a tiny model of a kind is made, over tiny's tokenizer."""

    model: str
    """The model's class in transformers."""
    audio_token: str
    """What stands for a stretch of sound in a prompt."""
    config: Callable[[], dict[str, Any]]
    """Its configuration but for the audio token."""
    token_field: str
    """The configuration's name for the audio token's id."""
    processor: str
    """The processor's class."""
    more: tuple[str, ...] = ()
    """Special tokens besides."""
    around: str = "%s"
    """What stands around the audio token in the template."""


def _whisper() -> Any:
    return WhisperFeatureExtractor(feature_size=8, chunk_length=30, sampling_rate=16000)


def _text(kind: str, **more: Any) -> dict[str, Any]:
    return {"model_type": kind, **_TEXT, "num_key_value_heads": 1, "tie_word_embeddings": False, **more}


KINDS = {
    "qwen2_audio": Hears(
        "Qwen2AudioForConditionalGeneration",
        "<|AUDIO|>",
        lambda: {
            "text_config": _text("qwen2"),
            "audio_config": {"model_type": "qwen2_audio_encoder", **_MEL, **_LAYERS},
        },
        "audio_token_index",
        "Qwen2AudioProcessor",
        ("<|audio_bos|>", "<|audio_eos|>"),
        "<|audio_bos|>%s<|audio_eos|>",
    ),
    "audioflamingo3": Hears(
        "AudioFlamingo3ForConditionalGeneration",
        "<sound>",
        lambda: {
            "text_config": _text("qwen2"),
            "audio_config": {"model_type": "audioflamingo3_encoder", **_MEL, **_ENCODER},
        },
        "audio_token_id",
        "AudioFlamingo3Processor",
    ),
}
"""By the type of their configuration."""


def sound_folder(name: str, path: Path) -> Path:
    """A folder with a random model of some thousand weights, and its processor over tiny's tokenizer."""
    kind = KINDS[name]
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": [kind.audio_token, *kind.more]})
    config = kind.config()
    config["text_config"]["vocab_size"] = len(tokenizer)
    config[kind.token_field] = tokenizer.convert_tokens_to_ids(kind.audio_token)
    model_class = getattr(transformers, kind.model)
    model = model_class(model_class.config_class(**config)).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path)
    template = TEMPLATE % (kind.around % kind.audio_token)
    parts = {"feature_extractor": _whisper(), "tokenizer": tokenizer, "chat_template": template}
    getattr(transformers, kind.processor)(**parts).save_pretrained(path)
    return path


_NAMES = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] "
)
_NAMES += "[IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
_MISTRAL = dict(enumerate(_NAMES.split())) | {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
_CONTROL = 35


def tekken_file(path: Path) -> Path:
    """A vocabulary of mistral-common: single bytes after the control tokens, at 12.5 sounds' tokens a second."""
    control = [{"rank": i, "token_str": _MISTRAL.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(_CONTROL)]
    whole = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)]
    config = {"pattern": r"[\s\S]", "num_vocab_tokens": 256, "default_vocab_size": 256 + _CONTROL, "version": "v7"}
    spectrogram = {"num_mel_bins": 8, "hop_length": 160, "window_size": 400}
    audio = {"sampling_rate": 16000, "frame_rate": 12.5, "chunk_length_s": 30.0, "audio_encoding_config": spectrogram}
    content = {"config": config | {"default_num_special_tokens": _CONTROL}, "vocab": whole, "special_tokens": control}
    (path / "tekken.json").write_text(json.dumps(content | {"audio": audio}), encoding="utf-8")
    return path


def voxtral_folder(path: Path) -> Path:
    """A folder with a random Voxtral; its prompts are mistral-common's, which must be there to make it."""
    torch.manual_seed(1)
    tokenizer = transformers.MistralCommonBackend.from_pretrained(str(tekken_file(path)))
    config = transformers.VoxtralConfig(
        text_config=_text("llama", vocab_size=256 + _CONTROL, head_dim=16),
        audio_config={"model_type": "voxtral_encoder", **_MEL, **_ENCODER},
        audio_token_id=24,
    )
    model = transformers.VoxtralForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    transformers.VoxtralProcessor(_whisper(), tokenizer).save_pretrained(path)
    return path
