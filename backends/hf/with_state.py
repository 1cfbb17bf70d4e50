"""The library's own processors that keep a state, wrapped so that tokens may be taken back and rows run apart.

They are `guidance_scale` and SynthID's watermark: all that generate() gives a decoder-only model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.generation import logits_process as hf


class Guided(hf.LogitsProcessor):  # type: ignore[misc]
    """Classifier-free guidance whose second run is read again where the text isn't the last one and a token."""

    stateless = True
    """What it returns depends on the text alone."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._begun = dict(processor.unconditional_context)
        """The second run before its first call."""
        self._read: list[list[int]] = []
        """What it was asked about last."""
        self._prompt = 0
        """Tokens of the text at its first call."""

    def of_row(self, row: int, rows: int) -> Guided:
        """The guidance of one row of a batch of `rows`, before its first call; of 1, the whole one's."""
        processor = copy.copy(self._processor)
        processor.unconditional_context = {
            name: _row(value, row, rows) if rows > 1 and torch.is_tensor(value) else value
            for name, value in self._begun.items()
        }
        return Guided(processor)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        text = input_ids.tolist()
        if not self._read:
            self._prompt = input_ids.shape[1]
        elif [tokens[:-1] for tokens in text] != self._read:
            self._begin_again(input_ids)
        self._read = text
        guided: torch.Tensor = self._processor(input_ids, scores)
        return guided

    def _begin_again(self, input_ids: torch.Tensor) -> None:
        """The second run starts anew: its prompt, and what was written since."""
        context = self._processor.unconditional_context = dict(self._begun)
        ids, mask = context["input_ids"], context["attention_mask"]
        ids = input_ids[:, self._prompt - 1 : self._prompt] if ids is None else ids
        written = input_ids[:, self._prompt :]
        context["input_ids"] = torch.cat([ids, written], dim=1)
        context["attention_mask"] = torch.cat(
            [torch.ones_like(ids) if mask is None else mask, torch.ones_like(written)], dim=1
        )


class Watermarked(hf.LogitsProcessor):  # type: ignore[misc]
    """SynthID's watermark, whose memory of contexts can be copied."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def fork(self) -> Watermarked:
        """A copy that shares its tables."""
        made = copy.copy(self._processor)
        made.state = copy.deepcopy(made.state)
        return Watermarked(made)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        marked: torch.Tensor = self._processor(input_ids, scores)
        return marked


def wrapped(processor: Any) -> Any:
    """The processor so that it may be asked about a text with tokens taken back; itself where it isn't of these two."""
    if type(processor) is hf.UnbatchedClassifierFreeGuidanceLogitsProcessor:
        return Guided(processor)
    if type(processor) is hf.SynthIDTextWatermarkLogitsProcessor:
        return Watermarked(processor)
    return processor


def _row(tensor: torch.Tensor, row: int, rows: int) -> torch.Tensor:
    """One row of a tensor that has one for each prompt, before num_return_sequences repeats it, or one for all."""
    i = row * len(tensor) // rows
    return tensor[i : i + 1]
