"""The logits processors of a transformers call as a constraint before a policy.

Here is which of the library's processors keep no state, and how a batch's processors become one row's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers.generation import LogitsProcessorList
from transformers.generation import logits_process as hf

from reasonctl.controller import Candidates, Constrained, MinP, Policy, Row, Stage, Temperature, TopK, TopP

from ..processors import check_stateless, copied, forked
from .with_state import Guided

WARPERS = (
    hf.TemperatureLogitsWarper,
    hf.TopKLogitsWarper,
    hf.TopPLogitsWarper,
    hf.TopHLogitsWarper,
    hf.MinPLogitsWarper,
    hf.TypicalLogitsWarper,
    hf.EpsilonLogitsWarper,
    hf.EtaLogitsWarper,
)
"""Processors that a policy of the controller's own takes the place of. All others are constraints."""

_ONE_TOKEN = 1e-9
"""The stage takes no 0; the library's top_p=0 keeps one token, as this share does."""

_STAGES: dict[type, Callable[[Any], Stage]] = {
    hf.TemperatureLogitsWarper: lambda p: Temperature(p.temperature),
    hf.TopKLogitsWarper: lambda p: TopK(p.top_k),
    hf.TopPLogitsWarper: lambda p: TopP(max(p.top_p, _ONE_TOKEN)),
    hf.MinPLogitsWarper: lambda p: MinP(p.min_p),
}
"""How the usual processors are written in a policy's text."""

_BLIND = (*WARPERS, hf.InfNanRemoveLogitsProcessor, hf.LogitNormalization, hf.SuppressTokensLogitsProcessor)
"""Processors that never read the tokens."""

_STATELESS = (
    *_BLIND,
    hf.MinLengthLogitsProcessor,
    hf.MinNewTokensLengthLogitsProcessor,
    hf.RepetitionPenaltyLogitsProcessor,
    hf.EncoderRepetitionPenaltyLogitsProcessor,
    hf.NoRepeatNGramLogitsProcessor,
    hf.EncoderNoRepeatNGramLogitsProcessor,
    hf.SequenceBiasLogitsProcessor,
    hf.NoBadWordsLogitsProcessor,
    hf.PrefixConstrainedLogitsProcessor,
    hf.ForcedBOSTokenLogitsProcessor,
    hf.ForcedEOSTokenLogitsProcessor,
    hf.ExponentialDecayLengthPenalty,
    hf.SuppressTokensAtBeginLogitsProcessor,
    hf.WatermarkLogitsProcessor,
)


def check_processors(processors: Sequence[Any], why: str) -> None:
    """Raises ControllerError for the first processor of a call that may remember tokens taken back."""
    check_stateless([processor for processor in processors if type(processor) not in _STATELESS], why)


def check_batch(processors: Sequence[Any]) -> None:
    """Raises ControllerError for what rows apart change: the library's with a state, and what can't be copied."""
    of_library = [one for one in processors if type(one).__module__ == hf.__name__]
    check_processors(of_library, "running a batch row by row")
    for one in processors:
        _own(one, "running a batch row by row")


def anew(processors: Sequence[Any]) -> LogitsProcessorList:
    """The processors as they are before the call, to be asked about its text once more when it stands.

    Raises:
        ControllerError: one may keep a state, and can't be copied.
    """
    return LogitsProcessorList(_own(one, "computing scores when the text stands") for one in processors)


def _own(processor: Any, why: str) -> Any:
    """A processor with a state of its own; itself where it keeps none. Raises ControllerError where that can't be."""
    if type(processor) in _STATELESS:
        return processor
    if isinstance(processor, Guided):
        return processor.of_row(0, 1)
    held = vars(processor).values() if hasattr(processor, "__dict__") else ()
    return copied(processor, why, shared=[one for one in held if isinstance(one, torch.nn.Module)])


def for_row(processor: Any, row: int, rows: int) -> Any:
    """The processor of one row of a batch of `rows`: without the other rows' prompts, and with a state of its own.

    Raises:
        ControllerError: it may keep a state, and can't be copied.
    """
    if isinstance(processor, Guided):
        return processor.of_row(row, rows)
    if isinstance(processor, hf.RepetitionPenaltyLogitsProcessor) and torch.is_tensor(processor.prompt_ignore_length):
        return _changed(processor, prompt_ignore_length=processor.prompt_ignore_length[row : row + 1])
    if isinstance(processor, hf.EncoderRepetitionPenaltyLogitsProcessor):
        # These prompts are the call's, before num_return_sequences repeats each one.
        i = row * len(processor.encoder_input_ids) // rows
        return _changed(processor, encoder_input_ids=processor.encoder_input_ids[i : i + 1])
    if isinstance(processor, hf.EncoderNoRepeatNGramLogitsProcessor):
        i = row * processor.batch_size // rows
        return _changed(processor, batch_size=1, generated_ngrams=processor.generated_ngrams[i : i + 1])
    if isinstance(processor, hf.PrefixConstrainedLogitsProcessor):
        allowed = processor._prefix_allowed_tokens_fn
        return _changed(processor, _prefix_allowed_tokens_fn=lambda _, tokens: allowed(row, tokens))
    return _own(processor, "running a batch row by row") if rows > 1 else processor  # each counts its row's calls


def _changed(processor: Any, **attributes: Any) -> Any:
    processor = copy.copy(processor)
    vars(processor).update(attributes)
    return processor


@dataclass(frozen=True)
class Processors(Stage):
    """transformers' processors as one constraint; its state are copies of those that have a `fork()`."""

    name = "logits_processor"
    kind = "constraint"
    stateful = True
    processors: tuple[Any, ...]
    ids: Callable[[Sequence[int]], torch.Tensor]
    """Turns a run's tokens into what the processors expect: padding included, shape (1, length)."""

    @property
    def blind(self) -> bool:
        """No processor reads the tokens."""
        return all(type(processor) in _BLIND for processor in self.processors)

    def __str__(self) -> str:
        """The warpers as the stages that they are, in their order; other processors by their class's name."""
        return " | ".join(filter(None, map(_written, self.processors))) or str(Temperature(1.0))

    def start(self) -> tuple[Any, ...]:
        return self.processors

    def step(self, state: tuple[Any, ...], scores: Candidates, row: Row) -> tuple[Any, Candidates]:
        ids = self.ids(() if self.blind else row.tokens)
        state = forked(state)
        values = torch.from_numpy(scores.logits.copy())[None].to(ids.device)
        for processor in state:
            values = processor(ids, values)
        return state, Candidates(values[0].float().cpu().numpy())


def _written(processor: Any) -> str:
    """A processor in a policy's text; "" where it changes nothing."""
    found = _STAGES.get(type(processor))
    if found is None:
        return type(processor).__name__
    stage = found(processor)
    return "" if stage in (TopP(1.0), MinP(0.0)) else str(stage)


@dataclass(frozen=True)
class UserProcessors(Processors):
    """Processors of the user's own. They may count their calls, so they see the target's rows only."""

    drafts = False


def with_processors(processors: Sequence[Any], inner: Policy, ids: Callable[[Sequence[int]], torch.Tensor]) -> Policy:
    """A policy that sees the logits after the call's processors, in their order."""
    stages = [
        (Processors if known else UserProcessors)(tuple(group), ids)
        for known, group in groupby(processors, lambda processor: type(processor) in _STATELESS)
    ]
    return Constrained(stages, inner) if stages else inner
