"""A call in which the controller has nothing to do: the library's own loop runs it, and its traces are written after.

A sampled batch draws with the keyed uniforms of its runs, as the controller's own loop does, so that it stays
comparable with a call under another controller. A single row stays with the controller's loop, which is as exact and
faster, unless it is greedy and asks for what only the library's can do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from transformers.generation import LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

from reasonctl.controller import Controller, Keys, Trace
from reasonctl.controller.sampling import draw_rows

from .growing import let_grow


def nothing_to_do(controller: Controller, streamer: Any, cache: Any) -> bool:
    """Whether a call needs nothing of the controller's loop.

    Args:
        controller: with the call's overrides, and with what the template says of thinking, which a trace records.
        streamer: the call's, or None; rows of a batch come to it one after another.
        cache: what generate() prepared; one of the user's own is checked before it is used.
    """
    parts = (controller.exit, controller.policy, controller.drafter, controller.closing, streamer)
    inert = not controller.limits.any and all(part is None for part in parts)
    return inert and not getattr(cache, "_is_user_defined", False)


class _Draw:
    """A last processor, which draws each row's token with its run's uniforms and leaves no other token possible."""

    def __init__(self, traces: Sequence[Trace], length: int) -> None:
        self._keys = [Keys(seed=trace.seed, run=trace.run) for trace in traces]
        self._padding = [length - trace.prompt_tokens for trace in traces]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1]
        places = zip(self._keys, self._padding, strict=True)
        uniforms = [keys.uniform(length - padding) for keys, padding in places]
        drawn = torch.tensor(draw_rows(scores.float().cpu().numpy(), uniforms), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


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
    if config.do_sample:
        processors = LogitsProcessorList([*processors, _Draw(traces, input_ids.shape[1])])
        config = copy.copy(config)
        config.do_sample = False
    if not config.return_dict_in_generate:  # else the cache is returned, and must be the library's
        let_grow(prepared.get("past_key_values"))
    out = loop(input_ids, processors, noting, config, synced_gpus=False, streamer=None, **prepared)
    written = (out if torch.is_tensor(out) else out.sequences)[:, input_ids.shape[1] :].tolist()
    done, stopped = (torch.stack(column).T.tolist() for column in zip(*noting.noted, strict=True))
    for row, trace in enumerate(traces):
        last = done[row].index(True) if True in done[row] else len(done[row]) - 1
        trace.tokens += written[row][: last + 1]
        trace.cost = trace.forwards = len(trace.tokens)
        trace.finish_reason = "stop" if stopped[row][last] else "length"
    return out
