"""A call in which the controller has nothing to do: the library's own loop runs it, and its traces are written after.

Only greedy calls: a sampled one draws with the controller's keyed uniforms, so that it stays comparable with a call
under another controller. A single row stays with the controller's loop, which is as exact and faster, unless it asks
for what only the library's can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from transformers.generation import MaxLengthCriteria, StoppingCriteriaList

from reasonctl.controller import Controller, Trace


def nothing_to_do(controller: Controller, config: Any, streamer: Any, cache: Any) -> bool:
    """Whether a call needs nothing of the controller's loop.

    Args:
        controller: with the call's overrides, and with what the template says of thinking, which a trace records.
        config: the call's GenerationConfig.
        streamer: the call's, or None; rows of a batch come to it one after another.
        cache: what generate() prepared; one of the user's own is checked before it is used.
    """
    parts = (controller.exit, controller.policy, controller.drafter, controller.closing, streamer)
    inert = not controller.limits.any and all(part is None for part in parts)
    return inert and not config.do_sample and not getattr(cache, "_is_user_defined", False)


class _Noted(NamedTuple):
    """What the criteria said after one step; both of shape (rows,)."""

    done: torch.Tensor
    stopped: torch.Tensor
    """By more than the limit of tokens."""


class _Criteria(StoppingCriteriaList):  # type: ignore[misc]
    """The call's criteria, which note what they say."""

    def __init__(self, criteria: Sequence[Any]) -> None:
        super().__init__(criteria)
        self.noted: list[_Noted] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **named: Any) -> torch.Tensor:
        full = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        stopped = full.clone()
        for criterion in self:
            said = criterion(input_ids, scores, **named)
            full = full | said
            if type(criterion) is not MaxLengthCriteria:
                stopped = stopped | said
        self.noted.append(_Noted(full, stopped))
        return full


def run_stock(
    loop: Callable[..., Any],
    input_ids: torch.Tensor,
    processors: Any,
    criteria: Sequence[Any],
    config: Any,
    prepared: dict[str, Any],
    traces: Sequence[Trace],
) -> Any:
    """Run the library's loop.

    Args:
        loop: the model's own `_sample`.
        input_ids: the padded prompts, shape (rows, length).
        processors: the call's, as generate() prepared them; so are criteria, config and prepared.
        traces: one for each row; filled in at the end.

    Returns:
        What the loop returns.
    """
    noting = _Criteria(criteria)
    out = loop(input_ids, processors, noting, config, synced_gpus=False, streamer=None, **prepared)
    written = (out if torch.is_tensor(out) else out.sequences)[:, input_ids.shape[1] :].tolist()
    done, stopped = (torch.stack(column).T.tolist() for column in zip(*noting.noted, strict=True))
    for row, trace in enumerate(traces):
        last = done[row].index(True) if True in done[row] else len(done[row]) - 1
        trace.tokens += written[row][: last + 1]
        trace.cost = trace.forwards = len(trace.tokens)
        trace.finish_reason = "stop" if stopped[row][last] else "length"
    return out
