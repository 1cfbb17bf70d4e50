"""Prompts with pictures or sound: the library's own prefill feeds them, and the loop goes on from its cache.

The prefill feeds all but the prompt's last token, which is text; the loop feeds that one and reads its row. What the
library does with pictures, such as positions in three axes or masks that see both ways, stays the library's.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from reasonctl.controller import ControllerError

from .engine import HFEngine
from .session import HFSession

KNOWN = frozenset(
    ("attention_mask", "position_ids", "use_cache", "logits_to_keep", "tokenizer", "past_key_values", "cache_params")
)
"""What generate() hands on for a prompt of text."""

_BY_TOKEN = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Arguments with a value for each token, in their last dimension."""

_PLACEHOLDER = re.compile(r"(image|video|audio|vision)_token_(id|index)")
"""What configurations call the tokens in whose places pictures and sound are put."""


def media_of(prepared: dict[str, Any]) -> list[str]:
    """The arguments of a prepared call that a prompt of text doesn't have."""
    given = {name: value for name, value in prepared.items() if name not in KNOWN and value is not None}
    return [name for name, value in given.items() if not (isinstance(value, dict) and not value)]


def prefilled(engine: HFEngine, input_ids: torch.Tensor, config: Any, prepared: dict[str, Any]) -> HFSession:
    """A sequence that holds all but the last token of a prompt, pictures and sound included.

    Args:
        engine: the model's.
        input_ids: one prompt, shape (1, length).
        config: the call's GenerationConfig.
        prepared: the call's arguments of the forward.

    Raises:
        ControllerError: the loop could not go on from the library's cache.
    """
    forward, length = engine.model_forward, input_ids.shape[1] - 1
    model, media = forward.model, ", ".join(media_of(prepared))
    _check(model, input_ids, prepared, media)
    named = {name: _without_last(name, value) for name, value in prepared.items() if name != "tokenizer"}
    named[forward.cache_name] = cache = forward.new_cache()
    with torch.inference_mode():
        out = model._prefill(input_ids[:, :-1], config, named)
        if cache.get_seq_length() != length:
            raise ControllerError(
                f"{media}: {type(model).__name__} keeps them in columns of their own, {cache.get_seq_length()} for "
                f"{length} tokens; a controller can't go on from there: leave them out, or detach first"
            )
        after = model._update_model_kwargs_for_generation(out, named)
        _check_step(model, model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **after))
    session = engine.adopt(cache, length)
    positions = after.get("position_ids")
    if positions is not None and forward.takes_positions:
        session.lead = _lead(positions[..., -1:], length)
    return session


def _without_last(name: str, value: Any) -> Any:
    return value[..., :-1] if name in _BY_TOKEN and value is not None else value


def _lead(positions: torch.Tensor, length: int) -> torch.Tensor | None:
    """How far the next token's positions are ahead of its place; None where they aren't."""
    lead = positions - length
    return lead if bool(lead.any()) else None


def _check(model: Any, input_ids: torch.Tensor, prepared: dict[str, Any], media: str) -> None:
    if len(input_ids) > 1:
        raise ControllerError(f"{media} of a batch can't be honoured under a controller; give one prompt at a time")
    if prepared.get("attention_mask") is not None:
        raise ControllerError(f"{media} with an attention_mask that hides tokens can't be honoured; give no padding")
    if any(getattr(prepared.get(name), "_is_user_defined", False) for name in ("past_key_values", "cache_params")):
        raise ControllerError(f"{media} with a cache of your own can't be honoured under a controller; leave one out")
    last, config = int(input_ids[0, -1]), model.config
    for name in filter(_PLACEHOLDER.fullmatch, vars(config)):
        if getattr(config, name) == last or input_ids.shape[1] < 2:
            raise ControllerError(f"{media}: the prompt ends in a picture or sound; let a token of text follow it")


def _check_step(model: Any, step: dict[str, Any]) -> None:
    """Raises ControllerError for what the library would give the model at every later step too."""
    for name in media_of(step):
        value = step[name]
        silent = torch.is_tensor(value) and name in _BY_TOKEN and not bool(value.any())
        if name != "input_ids" and not silent and not isinstance(value, bool):
            raise ControllerError(
                f"{type(model).__name__} reads {name} at every step, which a controller can't honour; "
                "leave it out, or detach first"
            )
