"""The sampling arguments of a transformers call as a policy: its own logits processors, then a keyed draw.

Owns which processors may run under rollbacks, and how a batch's processors become one row's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation import logits_process as hf

from ..controller import ControllerError, Policy, Row

LAW = (
    hf.TemperatureLogitsWarper, hf.TopKLogitsWarper, hf.TopPLogitsWarper, hf.TopHLogitsWarper, hf.MinPLogitsWarper,
    hf.TypicalLogitsWarper, hf.EpsilonLogitsWarper, hf.EtaLogitsWarper,
)  # fmt: skip
"""Sampling arguments proper: a policy of the controller's own takes their place. All others are constraints."""

_BLIND = (*LAW, hf.InfNanRemoveLogitsProcessor, hf.LogitNormalization, hf.SuppressTokensLogitsProcessor)
"""Processors that never look at the tokens."""

_STATELESS = (
    *_BLIND, hf.MinLengthLogitsProcessor, hf.MinNewTokensLengthLogitsProcessor, hf.RepetitionPenaltyLogitsProcessor,
    hf.EncoderRepetitionPenaltyLogitsProcessor, hf.NoRepeatNGramLogitsProcessor, hf.EncoderNoRepeatNGramLogitsProcessor,
    hf.SequenceBiasLogitsProcessor, hf.NoBadWordsLogitsProcessor, hf.PrefixConstrainedLogitsProcessor,
    hf.ForcedBOSTokenLogitsProcessor, hf.ForcedEOSTokenLogitsProcessor, hf.ExponentialDecayLengthPenalty,
    hf.SuppressTokensAtBeginLogitsProcessor, hf.WatermarkLogitsProcessor,
)  # fmt: skip


def check_stateless(processors: Sequence[Any], why: str) -> None:
    """Raises ControllerError for the first processor that may remember what a rejected token did to it."""
    for processor in processors:
        if type(processor) not in _STATELESS and not getattr(processor, "stateless", False):
            raise ControllerError(
                f"logits processor {type(processor).__name__} may keep state, which {why} would break; "
                "leave it out, or set `stateless = True` on it if its output depends on its arguments only"
            )


def for_row(processor: Any, row: int, rows: int) -> Any:
    """The processor of one row of a batch of `rows`; only those that hold the batch's prompts differ by row."""
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
    return processor


def _changed(processor: Any, **attributes: Any) -> Any:
    processor = copy.copy(processor)
    vars(processor).update(attributes)
    return processor


@dataclass(frozen=True)
class Processed:
    """`inner` over logits that transformers' processors have changed.

    ids: the run's tokens as the processors expect them, padding included, shape (1, length).
    """

    processors: tuple[Any, ...]
    inner: Policy
    ids: Callable[[Sequence[int]], torch.Tensor]

    @property
    def blind(self) -> bool:
        """No processor looks at the tokens."""
        return all(type(processor) in _BLIND for processor in self.processors)

    def start(self) -> Any:
        return self.inner.start()

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        ids = self.ids(() if self.blind else row.tokens)
        scores = torch.from_numpy(row.logits.copy())[None].to(ids.device)
        for processor in self.processors:
            scores = processor(ids, scores)
        logits = scores[0].float().cpu().numpy()
        return self.inner.step(state, row.scored(logits))
