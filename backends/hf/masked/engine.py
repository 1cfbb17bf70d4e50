"""Answers the requests of masked runs with one forward for those that fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reasonctl.controller.core import Floats
from reasonctl.controller.diffusion import Denoise, MaskedEngine

from ...memory import free_memory
from .module import KeysValues, MaskedModel


class Held(NamedTuple):
    """What a run's cache holds."""

    keys: KeysValues
    """Of the positions held, one row."""
    before: Tensor
    """1 x vocabulary: the unshifted logits of the last position held."""


class TorchMaskedEngine(MaskedEngine):
    """A `MaskedModel` as the controller's engine."""

    def __init__(self, model: MaskedModel) -> None:
        self.model = model
        self.mask = model.config.mask
        self.vocabulary = model.config.vocabulary
        self.context = model.config.context

    def free_bytes(self) -> int | None:
        """Bytes that are free on the CPU, where these models run."""
        return free_memory()

    @torch.inference_mode()
    def forward(self, requests: Sequence[Denoise]) -> list[Floats]:
        """One forward for all requests that hold equally much in their caches; shorter rows are padded."""
        answers: dict[int, Floats] = {}
        groups: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(request.cache.length, []).append(number)
        for length, numbers in groups.items():
            asked = [requests[number] for number in numbers]
            for number, logits in zip(numbers, self._together(asked, length), strict=True):
                answers[number] = logits
        return [answers[number] for number in range(len(requests))]

    def _together(self, requests: Sequence[Denoise], held: int) -> list[Floats]:
        lengths = [len(request.tokens) for request in requests]
        widest = max(lengths)
        fed = torch.full((len(requests), widest - held), self.mask)
        for row, request in enumerate(requests):
            fed[row, : lengths[row] - held] = torch.tensor(request.tokens[held:])
        past, before = _gathered([request.cache.held for request in requests]) if held else (None, None)
        ragged = torch.tensor(lengths) if min(lengths) < widest else None
        out = self.model(fed, past, before, ragged)
        answers = []
        for row, request in enumerate(requests):
            rows = torch.tensor([at - held for at in request.positions], dtype=torch.long)
            answers.append(out.logits[row, rows].float().numpy())
            if request.keep:
                self._keep(request, out.cache, out.logits[row], row, held)
        return answers

    def _keep(self, request: Denoise, cache: KeysValues, logits: Tensor, row: int, held: int) -> None:
        kept = KeysValues(
            tuple(
                (key[row : row + 1, :, : request.keep], value[row : row + 1, :, : request.keep])
                for key, value in cache.layers
            )
        )
        # A shifted model's row at the first position fed later is the last held position's own row.
        at = request.keep - held
        before = logits[at : at + 1]
        request.cache.length, request.cache.held = request.keep, Held(kept, before)


def _gathered(held: Sequence[Held]) -> tuple[KeysValues, Tensor]:
    """The rows' keys and values as one batch."""
    layers = tuple(
        (
            torch.cat([one.keys.layers[block][0] for one in held]),
            torch.cat([one.keys.layers[block][1] for one in held]),
        )
        for block in range(len(held[0].keys.layers))
    )
    return KeysValues(layers), torch.cat([one.before for one in held])
