"""A call in which the controller has nothing to do: the library's own loop runs it, and its traces are written after.

A sampled batch draws with the keyed uniforms of its runs, as the controller's own loop does, so that it stays
comparable with a call under another controller. A single row stays with the controller's loop, which is as exact and
faster, unless it is greedy and asks for what only the library's can do.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any

import torch
from transformers.generation import LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

from reasonctl.controller import Controller, Keys, Trace
from reasonctl.controller.sampling import draw_rows

from .growing import LONG, let_grow


def nothing_to_do(controller: Controller, cache: Any) -> bool:
    """Whether a call needs nothing of the controller's loop.

    Args:
        controller: with the call's overrides, and with what the template says of thinking, which a trace records.
        cache: what generate() prepared; one of the user's own is checked before it is used.
    """
    inert = controller.inert and not controller.record and controller.closing is None
    return inert and not getattr(cache, "_is_user_defined", False)


class Puts:
    """A call's streamer without its end: the attached call ends it, whatever happens."""

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streamer, name)

    def end(self) -> None:
        """Nothing."""


class _Drawing(LogitsProcessorList):  # type: ignore[misc]
    """The call's processors, then a draw: each row's token by its run's uniforms; no other token stays possible.

    The library's list asks for each processor's signature at every step; here it is asked for once.
    """

    def __init__(
        self, processors: Sequence[Any], traces: Sequence[Trace], length: int, scores: list[torch.Tensor] | None
    ) -> None:
        super().__init__(processors)
        self._take_more = [len(inspect.signature(one.__call__).parameters) > 2 for one in processors]
        """By processor: whether it takes the model's arguments too, not only tokens and scores."""
        self._keys = [Keys(seed=trace.seed, run=trace.run) for trace in traces]
        self._padding = [length - trace.prompt_tokens for trace in traces]
        self._scores = scores
        """What each token was drawn from, shape (rows, vocabulary), where the call wants it."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **named: Any) -> torch.Tensor:
        for processor, takes_more in zip(self, self._take_more, strict=True):
            scores = processor(input_ids, scores, **(named if takes_more else {}))
        if self._scores is not None:
            self._scores.append(scores)
        length, places = input_ids.shape[1], zip(self._keys, self._padding, strict=True)
        uniforms = [keys.uniform(length - padding) for keys, padding in places]
        drawn = torch.tensor(draw_rows(scores.float().cpu().numpy(), uniforms), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


class _Criteria(StoppingCriteriaList):  # type: ignore[misc]
    """The call's criteria, which note what they say."""

    def __init__(self, criteria: Sequence[Any]) -> None:
        super().__init__(criteria)
        self._said: list[list[Any]] = []
        """By step and criterion: which rows are done, shape (rows,), or one answer for all."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **named: Any) -> torch.Tensor:
        said = [criterion(input_ids, scores, **named) for criterion in self]
        self._said.append(said)
        if len(said) == 1 and torch.is_tensor(said[0]):
            return said[0]
        return reduce(or_, said, torch.zeros_like(input_ids[:, 0], dtype=torch.bool))

    def done(self, rows: int, only_stops: bool) -> list[list[bool]]:
        """By row and step: whether the row was done; `only_stops` leaves the limit of tokens out."""
        done = torch.zeros(len(self._said), rows, dtype=torch.bool)
        for step, said in zip(done, self._said, strict=True):
            for criterion, answer in zip(self, said, strict=True):
                if not (only_stops and type(criterion) is MaxLengthCriteria):
                    step |= torch.as_tensor(answer, device="cpu")
        found: list[list[bool]] = done.T.tolist()
        return found


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
    scores: list[torch.Tensor] | None = None
    if config.do_sample:
        scores = [] if config.return_dict_in_generate and config.output_scores else None
        processors = _Drawing(processors, traces, input_ids.shape[1], scores)
        config = copy.copy(config)
        config.do_sample = False
    if not config.return_dict_in_generate and config.max_length >= LONG:  # a returned cache must be the library's
        let_grow(prepared.get("past_key_values"))
    out = loop(input_ids, processors, noting, config, **prepared)
    if scores is not None:
        out.scores = tuple(scores)
    _write(traces, (out if torch.is_tensor(out) else out.sequences)[:, input_ids.shape[1] :].tolist(), noting)
    return out


def _write(traces: Sequence[Trace], written: list[list[int]], noting: _Criteria) -> None:
    """Fill in the traces: what each row wrote, and why it ended."""
    done, stopped = (noting.done(len(traces), only_stops) for only_stops in (False, True))
    for row, trace in enumerate(traces):
        last = done[row].index(True) if True in done[row] else len(done[row]) - 1
        trace.tokens += written[row][: last + 1]
        trace.cost = trace.forwards = len(trace.tokens)
        trace.sources = ["model"] * len(trace.tokens)
        trace.finish_reason = "stop" if stopped[row][last] else "length"
