"""Loads a masked model's folder: weights, tokenizer, prompt."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2TokenizerFast

from reasonctl.controller import ControllerError

from ...masked import MaskedText
from ..tokenizer import HFTokenizer
from .engine import TorchMaskedEngine
from .shapes import read_masked


def load_masked_folder(name: str, folder: Path, threads: int | None = None) -> MaskedText:
    """A masked model by its folder; see `read_masked`. Raises ControllerError where it can't be read."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = read_masked(folder)
    tokenizer = _tokenizer(folder)

    def prompt(question: str) -> list[int]:
        if not tokenizer.chat_template:
            return [int(token) for token in tokenizer.encode(question)]
        asked = [{"role": "user", "content": question}]
        tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
        return [int(token) for token in tokens]

    eos = set(model.config.eos) or {tokenizer.eos_token_id} - {None}
    parameters = sum(weight.numel() for weight in model.parameters())
    return MaskedText(
        name, TorchMaskedEngine(model), HFTokenizer(tokenizer), frozenset(eos), prompt, model.config.context, parameters
    )


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer without code of its own: tokenizer.json, or Qwen2's two files (Dream, DiffuCoder)."""
    kinds = {"tokenizer.json": PreTrainedTokenizerFast, "vocab.json": Qwen2TokenizerFast}
    kind = next((kind for file, kind in kinds.items() if (folder / file).is_file()), None)
    if kind is None:
        raise ControllerError(f"{str(folder)!r} holds neither tokenizer.json nor vocab.json; its code isn't run")
    try:
        return kind.from_pretrained(str(folder))
    except Exception as error:  # the tokenizers library raises bare Exceptions
        if not isinstance(error, OSError | ValueError | KeyError | TypeError) and type(error) is not Exception:
            raise
        raise ControllerError(f"the tokenizer in {str(folder)!r} can't be read: {str(error):.200}") from error
