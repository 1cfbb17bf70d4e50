"""Prompts with pictures or sound: the library's own prefill feeds them, and the loop goes on from its cache.

The prompt's last token is text: it is taken back, or left out where that can't be, and the loop feeds it and reads its
row. What the library does with pictures, such as positions in three axes or masks that see both ways, stays its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from reasonctl.controller import ROOT, ControllerError, Decode

from .engine import HFEngine
from .prompts import Prompt
from .session import HFSession

KNOWN = frozenset(
    ("attention_mask", "position_ids", "use_cache", "logits_to_keep", "tokenizer", "past_key_values", "cache_params")
    + ("inputs_embeds", "labels", "output_hidden_states", "output_attentions")
)
"""What generate() hands on for a prompt of text."""

_BY_TOKEN = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Arguments with a value for each token, in their last dimension."""

_SAME = 1e-2
"""Rows whose logits differ by so small a share of their range are the same but for rounding."""

_PLACEHOLDER = re.compile(r"(image|video|audio|vision)_token_(id|index)")
"""What configurations call the tokens in whose places pictures and sound are put."""


def media_of(prepared: dict[str, Any]) -> list[str]:
    """The arguments of a prepared call that a prompt of text doesn't have."""
    given = {name: value for name, value in prepared.items() if name not in KNOWN and value is not None}
    return [name for name, value in given.items() if not (isinstance(value, dict) and not value)]


def prefilled(engine: HFEngine, prompts: Sequence[Prompt], config: Any, prepared: dict[str, Any]) -> HFSession:
    """A sequence that holds all but the last token of a prompt, pictures and sound included.

    Args:
        engine: the model's.
        prompts: the call's, one.
        config: the call's GenerationConfig.
        prepared: the call's arguments of the forward.

    Raises:
        ControllerError: the loop could not go on from the library's cache.
    """
    forward, media = engine.model_forward, ", ".join(media_of(prepared))
    model = forward.model
    _check(model, prompts, prepared, media)
    input_ids = torch.tensor([prompts[0].tokens], device=forward.device)
    # A prompt may be masked both ways, up to its last token: where that can be taken back, it is fed like the others.
    held = input_ids.shape[1] - int(forward.recurrent)
    ids, last = input_ids[:, :held], input_ids[:, -1:]
    named = {name: _first(held, name, value) for name, value in prepared.items() if name != "tokenizer"}
    named[forward.cache_name] = cache = forward.new_cache()
    with torch.inference_mode():
        out = model._prefill(ids, config, named)
        _check_columns(model, cache, held, media)
        after = model._update_model_kwargs_for_generation(out, named, is_encoder_decoder=False)
        step = model.prepare_inputs_for_generation(torch.cat([ids, last], dim=1), next_sequence_length=1, **after)
        session = engine.adopt(cache, held)
        session.embeds = prompts[0].embeds
        positions = step.get("position_ids")
        if positions is not None and forward.takes_positions:
            session.lead = _lead(positions[..., -1:], held)
        _check_step(session, step)
        session.rollback(held + 1 - input_ids.shape[1])
    return session


def _first(held: int, name: str, value: Any) -> Any:
    if name == "inputs_embeds" and value is not None:
        return value[:, :held]
    return value[..., :held] if name in _BY_TOKEN and value is not None else value


def _lead(positions: torch.Tensor, length: int) -> torch.Tensor | None:
    """How far the next token's positions are ahead of its place; None where they aren't."""
    lead = positions - length
    return lead if bool(lead.any()) else None


def _check(model: Any, prompts: Sequence[Prompt], prepared: dict[str, Any], media: str) -> None:
    if len(prompts) > 1:
        raise ControllerError(f"{media} of a batch can't be honoured under a controller; give one prompt at a time")
    if prepared.get("attention_mask") is not None:
        raise ControllerError(f"{media} with an attention_mask that hides tokens can't be honoured; give no padding")
    if any(getattr(prepared.get(name), "_is_user_defined", False) for name in ("past_key_values", "cache_params")):
        raise ControllerError(f"{media} with a cache of your own can't be honoured under a controller; leave one out")
    tokens, config = prompts[0].tokens, model.config
    for name in filter(_PLACEHOLDER.fullmatch, vars(config)):
        if getattr(config, name) == tokens[-1] or len(tokens) < 2:
            raise ControllerError(f"{media}: the prompt ends in a picture or sound; let a token of text follow it")


def _check_columns(model: Any, cache: Any, length: int, media: str) -> None:
    """Raises ControllerError for a cache that holds more than a column for each token, or other than those."""
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        held = length if keys is None else int(layer.get_seq_length())
        if held != length:
            raise ControllerError(
                f"{type(model).__name__} keeps {media} in {held} columns for {length} tokens; a controller can't go on "
                "from such a cache: leave them out, or detach first"
            )


def _check_step(session: HFSession, step: dict[str, Any]) -> None:
    """Raises ControllerError where the library's next step isn't the session's: it reads more at every step."""
    forward = session.model_forward
    own, theirs = session.fork(), session.fork()
    (row,) = session.engine.forward([Decode(own, step["input_ids"][0].tolist())])
    ours = torch.from_numpy(row.logits(ROOT))
    stock = forward.model(**(step | {forward.cache_name: theirs.cache}), return_dict=True).logits[0, -1].float().cpu()
    if float((stock - ours).abs().max()) > _SAME * float(stock.max() - stock.min()):
        more = [name for name in media_of(step) if name != "input_ids" and not isinstance(step[name], bool)]
        raise ControllerError(
            f"{type(forward.model).__name__} reads {', '.join(more) or 'positions of its own'} at every step, which a "
            "controller can't honour; leave it out, or detach first"
        )
