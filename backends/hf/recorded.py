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
from .prompts import length_of

_OF_STEPS = ("use_cache", "logits_to_keep", "tokenizer", "output_hidden_states", "output_attentions")
"""Arguments of a forward that belong to the steps of the library's loop."""

OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""The arguments that ask for them."""


def outputs_of(config: Any) -> list[str]:
    """Those of `OUTPUTS` that a call asks for."""
    return [name for name in OUTPUTS if config.return_dict_in_generate and getattr(config, name)]


@dataclass
class Drawn:
    """What the tokens of one row were drawn from, by their position in the row's padded text."""

    padding: int
    """Places before the row's first token."""
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
    prepared: dict[str, Any],
    processors: Callable[..., torch.Tensor],
    config: Any,
    drawn: Sequence[Drawn],
) -> dict[str, Any]:
    """The fields of generate()'s result that a call asks for, each a tuple with an element for each new token.

    Args:
        forward: the model's.
        sequences: prompts and new tokens, padded; shape (rows, length). Of embeddings alone, the new tokens.
        start: where the new tokens begin in them.
        prepared: what generate() prepared for the prompts' forward.
        processors: the call's as they were before it, for the scores.
        config: the call's GenerationConfig.
        drawn: by row, what its tokens were drawn from; empty = the scores are what the processors make of the logits.

    Returns:
        By the names of the result's fields. A forward over the text rounds otherwise than steps of one token.
    """
    places, asked = length_of(sequences[:, :start], prepared), outputs_of(config)
    new = range(sequences.shape[1] - start)
    out = _read(forward, sequences, start, prepared, config)
    logits = out.logits[:, places - 1 :].to(copy=True, dtype=torch.float32, device=sequences.device)
    first = [0 if t == 0 or config.use_cache is False else places + t - 1 for t in new]
    found: dict[str, Any] = {"logits": tuple(logits[:, t] for t in new)} if "output_logits" in asked else {}
    if "output_scores" in asked:
        scores = [processors(sequences[:, : start + t], logits[:, t].clone()) for t in new]
        for row, one in enumerate(drawn):
            for t, values in enumerate(scores):
                one.fill(places + t, values[row])
        found["scores"] = tuple(scores)
    if "output_hidden_states" in asked:
        found["hidden_states"] = tuple(_parts(out.hidden_states, first[t], places + t, _states) for t in new)
    if "output_attentions" in asked:
        found["attentions"] = tuple(_parts(out.attentions, first[t], places + t, _weights) for t in new)
    return found


def _read(forward: ModelForward, sequences: torch.Tensor, start: int, prepared: dict[str, Any], config: Any) -> Any:
    """One forward over the text up to its last token, prepared by the library as if it were a prompt."""
    model, ids = forward.model, sequences[:, :-1]
    named = {name: value for name, value in prepared.items() if name not in (*_OF_STEPS, forward.cache_name)}
    if written := ids.shape[1] - start:
        named = model._update_model_kwargs_for_generation({}, named, num_new_tokens=written)
        if named.get("inputs_embeds") is not None:
            more = model.get_input_embeddings()(ids[:, start:].to(forward.device))
            named["inputs_embeds"] = torch.cat([named["inputs_embeds"].to(more), more], dim=1)
    inputs = model.prepare_inputs_for_generation(ids, is_first_iteration=True, use_cache=False, **named)
    flags = {name: True for name in ("output_hidden_states", "output_attentions") if name in outputs_of(config)}
    with torch.no_grad():
        return model(**inputs | flags, return_dict=True)


def _parts(layers: Any, first: int, end: int, part: Callable[..., torch.Tensor]) -> Any:
    """Of each layer, the rows from `first` up to `end`."""
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
    ids = torch.tensor(filled, dtype=torch.long, device=input_ids.device)  # as appended tokens are
    if not config.return_dict_in_generate:
        return ids
    return GenerateDecoderOnlyOutput(sequences=ids, past_key_values=cache)
