"""Write the bundled model: tokenizer, chat template, safetensors and GGUF, all from one training checkpoint.

Owns the file formats; the weights come from train.py. Both formats must read alike, which evaluate.py checks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    Lfm2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CONTEXT = 1024
ARCHITECTURES = {"llama": "tiny", "lfm2": "tiny-hybrid"}  # the bundled model's name by its transformers model type
PAD, EOS, THINK, CLOSE_THINK = "<pad>", "<eos>", "<think>", "</think>"
SPECIALS = (PAD, EOS, THINK, CLOSE_THINK)
WORDS = ("First", "Wait", "Hmm", "Alternatively", "The", " ok", " answer", " is", " a", " b", " c", " d", " e", " fine")

# The template opens the thinking span, so a completion starts inside it; a past answer gets its opening back.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'Q: ' + message['content'] | trim + '\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{%- if message.get('reasoning_content') -%}
{{- '<think>\\n' + message['reasoning_content'] + '</think>\\n' -}}
{%- elif '</think>' in message['content'] and '<think>' not in message['content'] -%}
{{- '<think>\\n' -}}
{%- endif -%}
{{- message['content'] + '<eos>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<think>\\n' -}}
{%- endif -%}
"""


def build_config(architecture: str = "llama") -> PreTrainedConfig:
    """The architecture: small enough for thousands of tokens per second on one core.

    Args:
        architecture: `llama`; or `lfm2`, a hybrid: short convolutions and attention in turn, 0.9 M parameters too.
    """
    shared = {
        "vocab_size": len(vocabulary()[0]),
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": SPECIALS.index(EOS),
        "pad_token_id": SPECIALS.index(PAD),
    }
    if architecture == "llama":
        return LlamaConfig(**shared, num_hidden_layers=4, intermediate_size=384, rms_norm_eps=1e-5)
    layers = ["conv", "full_attention"] * 3
    return Lfm2Config(
        **shared,
        num_hidden_layers=len(layers),
        layer_types=layers,
        conv_L_cache=3,
        intermediate_size=192,
        block_auto_adjust_ff_dim=False,
        norm_eps=1e-5,
    )


def build_model(architecture: str) -> PreTrainedModel:
    """An untrained model of an architecture that `build_config` knows."""
    return AutoModelForCausalLM.from_config(build_config(architecture))


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(pieces by byte-level spelling, merges): specials, bytes, two-digit numbers, then the words letter by letter.

    Digit runs are pre-tokens of their own, so merging every pair leaves `77` and ` 77` no second reading.
    """
    spell = _byte_letters()
    pieces = dict.fromkeys([*SPECIALS, *spell])
    merges: list[tuple[str, str]] = []
    space = spell[ord(" ")]
    merges += [(str(number)[0], str(number)[1]) for number in range(10, 100)]
    merges += [(space, str(number)) for number in range(10, 100)]
    for word in WORDS:
        letters = [spell[byte] for byte in word.encode()]
        merges += [("".join(letters[:end]), letters[end]) for end in range(1, len(letters))]
    merges = list(dict.fromkeys(merges))
    pieces.update(dict.fromkeys(left + right for left, right in merges))
    return {piece: index for index, piece in enumerate(pieces)}, merges


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as transformers sees it: GPT-2's byte-level BPE with our own few merges, and no BOS."""
    pieces, merges = vocabulary()
    backend = Tokenizer(models.BPE(vocab=pieces, merges=merges, fuse_unk=False))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[THINK, CLOSE_THINK],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def export(model: PreTrainedModel, folder: Path, half: bool = False) -> None:
    """Write every file of the bundled model, each one complete before it replaces an old one.

    Args:
        model: in fp32; its matrices are rounded to f16 in place.
        folder: the folder to write to.
        half: store the safetensors' matrices in f16, which loses nothing more; they are read as fp32 all the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = model.state_dict()
    for name, weight in stored.items():
        if weight.ndim > 1:  # both formats then hold the same numbers, and differ by arithmetic only
            weight.copy_(weight.half())
            stored[name] = weight.half() if half else weight
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=0.6,
            top_k=0,
            max_new_tokens=700,
            eos_token_id=SPECIALS.index(EOS),
            pad_token_id=SPECIALS.index(PAD),
        )
        model.save_pretrained(scratch, state_dict=stored)
        build_tokenizer().save_pretrained(scratch)
        write_gguf(model, scratch / f"{ARCHITECTURES[model.config.model_type]}.gguf")
        for path in sorted(scratch.iterdir()):
            path.chmod(0o644)  # safetensors writes for the owner only; the package is for everybody
            os.replace(path, folder / path.name)


def write_gguf(model: PreTrainedModel, path: Path, matrices: type[np.floating] = np.float16) -> None:
    """Write the GGUF form: f16 matrices (or f32), f32 norms, tokenizer and chat template in the metadata."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_name(f"reasonctl {ARCHITECTURES[config.model_type]}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if matrices is np.float16 else gguf.LlamaFileType.ALL_F32)
    if config.model_type == "lfm2":
        convolution = [kind == "conv" for kind in config.layer_types]
        writer.add_head_count_kv([0 if short else config.num_key_value_heads for short in convolution])
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_shortconv_l_cache(config.conv_L_cache)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_vocabulary(writer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied to the embedding
        array = tensor.detach().float().numpy()
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _interleave_rope(array, config.num_attention_heads)
        if name.endswith("conv.conv.weight"):
            array = array.squeeze(1).astype(np.float32)  # a row of taps per channel, in f32 whatever the matrices are
        elif array.ndim == 2:
            array = array.astype(matrices)
        writer.add_tensor(_gguf_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    pieces, merges = vocabulary()
    kinds = {
        PAD: gguf.TokenType.CONTROL,
        EOS: gguf.TokenType.CONTROL,
        THINK: gguf.TokenType.USER_DEFINED,  # shown when decoded: the thinking span must stay visible
        CLOSE_THINK: gguf.TokenType.USER_DEFINED,
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(pieces))
    writer.add_token_types([kinds.get(piece, gguf.TokenType.NORMAL) for piece in pieces])
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_eos_token_id(SPECIALS.index(EOS))
    writer.add_pad_token_id(SPECIALS.index(PAD))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _gguf_name(name: str) -> str:
    """The GGUF name of a transformers tensor."""
    plain = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.embedding_norm.weight": "token_embd_norm.weight",  # LFM2's last norm, in spite of the name
    }
    if name in plain:
        return plain[name]
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.out_proj": "attn_output",
        "self_attn.q_layernorm": "attn_q_norm",
        "self_attn.k_layernorm": "attn_k_norm",
        "conv.conv": "shortconv.conv",
        "conv.in_proj": "shortconv.in_proj",
        "conv.out_proj": "shortconv.out_proj",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w3": "ffn_up",
        "feed_forward.w2": "ffn_down",
        "input_layernorm": "attn_norm",
        "operator_norm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "ffn_norm": "ffn_norm",
    }
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{parts[part]}.weight"


def _interleave_rope(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows from transformers' rotary halves to the adjacent pairs that llama.cpp rotates."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def load_checkpoint(path: Path) -> PreTrainedModel:
    """The model of a checkpoint of train.py, in fp32."""
    checkpoint = torch.load(path, weights_only=True)
    model = build_model(checkpoint["architecture"])
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("backends/tiny"))
    parser.add_argument("--half", action="store_true", help="store the safetensors' matrices in f16")
    arguments = parser.parse_args()
    export(load_checkpoint(arguments.checkpoint), arguments.out, arguments.half)
    for path in sorted(arguments.out.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
