"""The bidirectional transformer that LLaDA, Dream and DiffuCoder share: what a checkpoint's tensors are run with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class MaskedConfig:
    """The sizes of a masked model, and how its logits line up with positions."""

    vocabulary: int
    """Rows of the embedding."""
    width: int
    """Hidden size."""
    depth: int
    """Number of blocks."""
    heads: int
    """Query heads."""
    key_heads: int
    """Key and value heads; `heads` is a multiple of it."""
    feed_forward: int
    """Width between the two products of a block's SwiGLU."""
    mask: int
    """Id of the mask token."""
    eos: tuple[int, ...] = ()
    """Ids that end a text."""
    context: int = 4096
    """Most tokens of prompt and answer together."""
    theta: float = 10000.0
    """Base of the rotary embedding."""
    epsilon: float = 1e-5
    """Added under the root of the RMS norms."""
    bias: bool = False
    """Whether queries, keys and values have a bias (Qwen2, so Dream and DiffuCoder)."""
    tied: bool = False
    """Whether the output is the embedding."""
    shifted: bool = False
    """Whether the logits of position i stand at row i - 1, as in models that were adapted from left-to-right ones."""


class KeysValues(NamedTuple):
    """Keys and values of finished positions, one pair a block: each rows x key heads x positions x head width."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Number of positions."""
        return int(self.layers[0][0].shape[2])


class Output(NamedTuple):
    """What one forward gives."""

    logits: Tensor
    """rows x positions fed x vocabulary, each at its own position: the shift is undone."""
    cache: KeysValues
    """Keys and values of every position seen, those of `past` first."""
    last: Tensor
    """rows x vocabulary: the unshifted logits of the last row fed, which a shifted model needs to go on from `past`."""


class MaskedModel(nn.Module):
    """A transformer in which every position sees every other one.

    Dream's and DiffuCoder's logits are shifted: the row of position i - 1 predicts position i, and position 0 keeps its
    own row (Dream, section 3.1; generation_utils: `cat([logits[:, :1], logits[:, :-1]])`). `forward` undoes that.
    """

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.output = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.output.weight = self.embedding.weight

    def forward(
        self,
        tokens: Tensor,
        past: KeysValues | None = None,
        before: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Output:
        """Logits at every position that is fed.

        Args:
            tokens: rows x positions; ids, masks included. They follow the positions of `past`.
            past: keys and values of earlier positions, which are not computed again.
            before: rows x vocabulary, `last` of the forward over `past`; a shifted model needs it with `past`.
            lengths: rows; how many positions of each row count, where shorter rows are padded on the right.
        """
        start = 0 if past is None else past.length
        hidden = self.embedding(tokens)
        rotation = rotary(torch.arange(start, start + tokens.shape[1]), self.config, hidden)
        seen = None
        if lengths is not None:
            seen = (torch.arange(start + tokens.shape[1]) < lengths[:, None])[:, None, None, :]
        layers = []
        for at, block in enumerate(self.blocks):
            hidden, layer = block(hidden, rotation, seen, None if past is None else past.layers[at])
            layers.append(layer)
        logits = self.output(self.norm(hidden))
        last = logits[:, -1]
        if self.config.shifted:
            first = logits[:, :1] if before is None else before[:, None]
            logits = torch.cat([first, logits[:, :-1]], 1)
        return Output(logits, KeysValues(tuple(layers)), last)


class Block(nn.Module):
    """Attention over all positions, then a SwiGLU, each after an RMS norm."""

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        head = config.width // config.heads
        self.heads, self.key_heads, self.head = config.heads, config.key_heads, head
        self.attention_norm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.query = nn.Linear(config.width, config.heads * head, bias=config.bias)
        self.key = nn.Linear(config.width, config.key_heads * head, bias=config.bias)
        self.value = nn.Linear(config.width, config.key_heads * head, bias=config.bias)
        self.attention_out = nn.Linear(config.heads * head, config.width, bias=False)
        self.feed_norm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.gate = nn.Linear(config.width, config.feed_forward, bias=False)
        self.up = nn.Linear(config.width, config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)

    def forward(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The new hidden states, and the keys and values of every position."""
        normed = self.attention_norm(hidden)
        query = rotate(self._split(self.query(normed), self.heads), rotation)
        key = rotate(self._split(self.key(normed), self.key_heads), rotation)
        value = self._split(self.value(normed), self.key_heads)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        repeats = self.heads // self.key_heads
        mixed = functional.scaled_dot_product_attention(
            query, key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), attn_mask=seen
        )
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        normed = self.feed_norm(hidden)
        return hidden + self.down(functional.silu(self.gate(normed)) * self.up(normed)), (key, value)

    def _split(self, projected: Tensor, heads: int) -> Tensor:
        rows, positions, _ = projected.shape
        return projected.view(rows, positions, heads, self.head).transpose(1, 2)


def rotary(positions: Tensor, config: MaskedConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, positions x head width: the two halves of a head turn together (rotate_half)."""
    head = config.width // config.heads
    rates = config.theta ** (-torch.arange(0, head, 2, dtype=torch.float32) / head)
    angles = positions[:, None].float() * rates
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys turned by their positions."""
    cosine, sine = rotation
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-second, first], -1) * sine
