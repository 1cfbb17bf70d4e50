"""Write the bundled masked model from a checkpoint of train_masked.py: Dream's shape, tiny's tokenizer and a mask."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from export import build_tokenizer
from safetensors.torch import save_file
from train_masked import MASK, build_config

from reasonctl.backends.hf.masked.module import MaskedConfig
from reasonctl.backends.hf.masked.shapes import DREAM, names_in


def dream_config(config: MaskedConfig) -> dict[str, object]:
    """The config.json of a model in Dream's shape."""
    return {
        "model_type": "Dream",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": config.context,
        "rope_theta": config.theta,
        "rms_norm_eps": config.epsilon,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "mask_token_id": config.mask,
        "eos_token_id": list(config.eos),
    }


def export(checkpoint: Path, folder: Path) -> None:
    """Every file of the model; matrices in f16, which are read as fp32."""
    config, state = build_config(), torch.load(checkpoint, weights_only=True)["model"]
    tensors = {theirs: state[ours] for ours, theirs in names_in(DREAM, config)}
    tensors = {name: (one.half() if one.ndim > 1 else one).contiguous() for name, one in tensors.items()}
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"mask_token": MASK})
    if tokenizer.mask_token_id != config.mask:
        raise ValueError(f"the mask is token {tokenizer.mask_token_id}, and the model was trained with {config.mask}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        save_file(tensors, scratch / "model.safetensors", {"format": "pt"})
        (scratch / "config.json").write_text(json.dumps(dream_config(config), indent=2) + "\n", encoding="utf-8")
        tokenizer.save_pretrained(scratch)
        for path in sorted(scratch.iterdir()):
            path.chmod(0o644)  # safetensors writes for the owner only; the package is for everybody
            path.replace(folder / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("backends/tiny_masked"))
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.out)
    for path in sorted(arguments.out.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
