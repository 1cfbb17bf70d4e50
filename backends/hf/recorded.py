"""What a call asks to be returned besides its tokens: scores, logits, hidden states, attentions.

The loop decides over tokens that may be taken back, feeds some itself and verifies others together. So these values are
made when the text stands: one forward over it, in the layout in which generate() returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.generation import GenerateDecoderOnlyOutput

from reasonctl.controller import Candidates

from .forward import ModelForward

OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""The arguments that ask for them."""


def outputs_of(config: Any) -> list[str]:
    """Those of `OUTPUTS` that a call asks for."""
    return [name for name in OUTPUTS if config.return_dict_in_generate and getattr(config, name)]


@dataclass
class Drawn:
    """What the tokens of one row were drawn from, by their position in the row's padded text."""

    padding: int
    at: dict[int, tuple[Any, torch.Tensor]] = field(default_factory=dict)
    """Ids (None = the whole vocabulary) and log-probabilities."""

    def see(self, position: int, candidates: Candidates) -> None:
        """Remember a draw; one that is made again replaces it."""
        logs = np.asarray(-candidates.surprise(), dtype=np.float32)
        self.at[position + self.padding] = (candidates.ids, torch.from_numpy(logs.copy()))

    def fill(self, position: int, row: torch.Tensor) -> None:
        """Write what the token at `position` was drawn from into `row`; a token that was fed leaves it alone."""
        if position in self.at:
            ids, logs = self.at[position]
            row.fill_(-torch.inf)
            row[slice(None) if ids is None else torch.from_numpy(ids)] = logs.to(row.device)


def recorded(
    forward: ModelForward,
    sequences: torch.Tensor,
    start: int,
    mask: torch.Tensor | None,
    processors: Any,
    config: Any,
    drawn: Sequence[Drawn],
) -> dict[str, Any]:
    """The fields of generate()'s result that a call asks for, each a tuple with an element for each new token.

    Args:
        forward: the model's.
        sequences: prompts and new tokens, padded; shape (rows, length).
        start: length of the padded prompts.
        mask: the prompts' attention mask, shape (rows, start); None = nothing is padded.
        processors: the call's, for the scores.
        config: the call's GenerationConfig.
        drawn: by row, what its tokens were drawn from; empty = the scores are what the processors make of the logits.

    Returns:
        By the names of the result's fields. Rows are those of one forward over the text; a step of one token rounds
        otherwise.
    """
    out, new = _read(forward, sequences, start, mask, config), sequences.shape[1] - start
    logits = out.logits[:, start - 1 :].to(copy=True, dtype=torch.float32, device=sequences.device)
    found: dict[str, Any] = {}
    if "output_logits" in outputs_of(config):
        found["logits"] = tuple(logits[:, t] for t in range(new))
    if "output_scores" in outputs_of(config):
        found["scores"] = tuple(_scores(sequences[:, : start + t], logits[:, t], processors, drawn) for t in range(new))
    if "output_hidden_states" in outputs_of(config):
        found["hidden_states"] = tuple(_parts(out.hidden_states, start, t, _states) for t in range(new))
    if "output_attentions" in outputs_of(config):
        found["attentions"] = tuple(_parts(out.attentions, start, t, _weights) for t in range(new))
    return found


def _read(forward: ModelForward, sequences: torch.Tensor, start: int, mask: torch.Tensor | None, config: Any) -> Any:
    """One forward over the text up to its last token."""
    ids = sequences[:, :-1]
    seen = torch.ones_like(ids) if mask is None else torch.cat([mask, torch.ones_like(ids[:, start:])], dim=1)
    more: dict[str, Any] = {} if mask is None else {"attention_mask": seen[:, : ids.shape[1]]}
    if forward.takes_positions:
        more["position_ids"] = (seen[:, : ids.shape[1]].cumsum(-1) - 1).clamp_min(0)
    for name in ("output_hidden_states", "output_attentions"):
        if name in outputs_of(config):
            more[name] = True
    with torch.no_grad():
        return forward.model(input_ids=ids, use_cache=False, return_dict=True, **more)


def _scores(
    text: torch.Tensor, logits: torch.Tensor, processors: Callable[..., torch.Tensor], drawn: Sequence[Drawn]
) -> torch.Tensor:
    scores = processors(text, logits.clone())
    for row, one in enumerate(drawn):
        one.fill(text.shape[1], scores[row])
    return scores


def _parts(layers: Any, start: int, t: int, part: Callable[..., torch.Tensor]) -> Any:
    """Of each layer, the rows that step `t` computes: the whole prompt's at first, then one."""
    first, end = (0, start) if t == 0 else (start + t - 1, start + t)
    return None if layers is None else tuple(None if layer is None else part(layer, first, end) for layer in layers)


def _states(layer: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Of hidden states, shape (rows, length, width)."""
    return layer[:, first:end].clone()


def _weights(layer: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Of attentions, shape (rows, heads, length, length): each row sees the text before it."""
    return layer[:, :, first:end, :end].clone()


def caching_of(config: Any) -> list[str]:
    """The call's options that ask for another kind of cache than the loop's."""
    wanted = {
        "use_cache": config.use_cache is False,
        "cache_implementation": config.cache_implementation not in (None, "dynamic", "hybrid", "sliding_window"),
    }
    return [name for name, given in wanted.items() if given]


def result_of(sequences: list[list[int]], config: Any, input_ids: torch.Tensor, cache: Any) -> Any:
    """The rows padded to the longest, in the type that the call asked for."""
    pad = 0 if config._pad_token_tensor is None else int(config._pad_token_tensor)
    longest = max(map(len, sequences))
    filled = [tokens + [pad] * (longest - len(tokens)) for tokens in sequences]
    ids = torch.tensor(filled, dtype=input_ids.dtype, device=input_ids.device)
    if not config.return_dict_in_generate:
        return ids
    return GenerateDecoderOnlyOutput(sequences=ids, past_key_values=cache)
