"""vLLM's logits processor: `--logits-processors reasonctl.backends.vllm:ExitProcessor`, one class for both runners.

It reads each request's new token, asks the probe at cues, and forces what makes an exit. The rows of a step are read in
one transfer, and scored at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import LogitsProcessor as RunnerV1Processor
from vllm.v1.sample.logits_processor import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as RunnerV2Processor

from reasonctl.controller import ControllerError
from reasonctl.probes.signals import features_at

from .captured import CAPTURED
from .configured import engine_options, exits_of
from .following import Following
from .monitoring import Monitored
from .options import RequestOptions
from .requests import Requests, Row

_log = logging.getLogger("vllm.reasonctl")

MOST = 1 << 30
"""Tokens of a request without a limit of its own; the model's context ends it."""


@dataclass
class _Held:
    """A request in the batch."""

    params: Any
    """Its SamplingParams."""
    prompt: list[int]
    """Its prompt's tokens."""
    output: list[int]
    """Its tokens after them: runner V1's own list, or one that is kept here."""
    request: Following | None = None
    """How it is followed. None: it has just come."""


class ExitProcessor(RunnerV1Processor, RunnerV2Processor):  # type: ignore[misc]
    """Asks the probe at cues and makes exits, in the process that samples."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        """Made by vLLM: with (device, is_pin_memory) by runner V1, with (req_states,) by runner V2.

        Raises:
            ControllerError: An option is impossible, or the probe is for another model.
        """
        self._states: Any = rest[0] if len(rest) == 1 else None
        """Runner V2's requests. None: runner V1."""
        self._held: dict[int, _Held] = {}
        """Requests by their row (V1) or slot (V2)."""
        self._new: dict[int, Any] = {}
        """V2: the params of requests whose tokens aren't there yet, by slot."""
        self.requests: Requests | None = None
        options = engine_options(vllm_config)
        if options is None:
            return
        rule = options.rule()
        exits, warnings = exits_of(
            rule, vllm_config, cached_tokenizer_from_config(model_config=vllm_config.model_config)
        )
        for warning in warnings:
            _log.warning("reasonctl: %s", warning)
        self.requests = Requests(exits, _shared)
        self._layers = rule.layers(int(vllm_config.model_config.hf_text_config.num_hidden_layers))
        self._monitored = Monitored(rule, options.replicas, _log.warning)
        _log.info("reasonctl: %s", rule.why)

    @classmethod
    def validate_params(cls, params: Any) -> None:
        """Refuse a request's impossible arguments: the server answers with HTTP 400 and the text."""
        try:
            RequestOptions.of(params.extra_args)
        except ControllerError as error:
            raise ValueError(str(error)) from None

    # Runner V1

    def is_argmax_invariant(self) -> bool:
        """An exit changes greedy decoding too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow what vLLM does to its batch."""
        if self.requests is None:
            return
        self._forget_finished()
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._held.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            self._held[index] = _Held(params, prompt or [], output)
        for one, two, direction in batch_update.moved:
            first, second = self._held.pop(one, None), self._held.pop(two, None)
            if first is not None:
                self._held[two] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                self._held[one] = second
        ids = CAPTURED.runner.input_batch.req_ids if CAPTURED.runner is not None else []
        for index, held in self._held.items():
            if held.request is None:
                self._begin(held, ids[index])

    def _rows_of_v1(self, n: int) -> Iterator[Row]:
        unfinished = CAPTURED.runner.discard_request_mask.np
        for index, held in self._held.items():
            request = held.request
            if index >= n or request is None or request.over or unfinished[index]:
                continue
            fresh = held.output[request.seen :]
            if -1 in fresh:
                raise ControllerError(
                    "vLLM gave a token that isn't there yet, as it does to processors of an entry point; start it with "
                    "--logits-processors reasonctl.backends.vllm:ExitProcessor"
                )
            yield Row(index, request, fresh)

    # Runner V2

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """A request has got a slot; its tokens are there at the first `apply`."""
        self._held.pop(req_idx, None)
        self._new.pop(req_idx, None)
        if self.requests is None:
            return False
        self._new[req_idx] = sampling_params
        return True

    def _rows_of_v2(self, ctx: Any) -> Iterator[Row]:
        """The step's tokens are read in one transfer; the history of a request once, when it comes."""
        ids, positions = torch.stack((ctx.input_ids.long(), ctx.pos.long())).cpu().numpy()
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            total = int(positions[row]) + 1
            if total < int(self._states.prefill_len.np[slot]):
                continue  # a part of a prompt
            if slot in self._new:
                tokens = self._states.all_token_ids.gpu[slot, :total].cpu().tolist()
                prompt = int(self._states.prompt_len.np[slot])
                held = self._held[slot] = _Held(self._new.pop(slot), tokens[:prompt], tokens[prompt:])
                self._begin(held, CAPTURED.batch.req_ids[row])
            held = self._held[slot]
            if total - len(held.prompt) == len(held.output) + 1:
                held.output.append(int(ids[row]))
            if held.request is not None and not held.request.over:
                yield Row(row, held.request, held.output[held.request.seen :])

    # Both

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Decide at the cues of this step, and force the tokens of exits."""
        if self.requests is None or not (self._held or self._new) or not CAPTURED.states:
            return logits
        if self._states is not None:
            self._forget_finished()
        rows = list(self._rows_of_v1(logits.shape[0]) if ctx is None else self._rows_of_v2(ctx))
        if not rows:
            return logits
        last = CAPTURED.last_rows(logits.shape[0])
        forced = self.requests.step(rows, lambda asked: self._features(last[asked]))
        _forbid(logits, [(row.row, token) for row in rows if (token := row.request.reserved) is not None])
        _force(logits, forced)
        return logits

    def _begin(self, held: _Held, name: str) -> None:
        assert self.requests is not None
        options = RequestOptions.of(held.params.extra_args)
        held.request = self.requests.begin(name, options, held.prompt, held.params.max_tokens or MOST)
        self._monitored.begin(name, held.request)

    def _forget_finished(self) -> None:
        assert self.requests is not None
        for name, request in self.requests.finish(CAPTURED.take_finished()).items():
            self._monitored.end(name, request)

    def _features(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Shape (rows, size): what the probe reads at each."""
        hidden = CAPTURED.hidden(rows)
        return np.stack([features_at({k: v[i] for k, v in hidden.items()}, self._layers) for i in range(len(rows))])


def _forbid(logits: torch.Tensor, pairs: list[tuple[int, int]]) -> None:
    """The model itself never writes the stop token of a client's request: only an exit does."""
    if pairs:
        index, tokens = torch.tensor(pairs, device=logits.device).T
        logits[index, tokens] = -math.inf


def _force(logits: torch.Tensor, pairs: list[tuple[int, int]]) -> None:
    """One token in each of these rows is possible, and no other."""
    if pairs:
        index, tokens = torch.tensor(pairs, device=logits.device).T
        logits.index_fill_(0, index, -math.inf)
        logits[index, tokens] = 0.0


def _shared(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The scores of the engine's first process. All have asked about the same rows, and may have rounded otherwise."""
    group = get_tp_group()
    if group.world_size == 1:
        return scores
    values = torch.from_numpy(scores.copy())
    torch.distributed.broadcast(values, src=group.ranks[0], group=group.cpu_group)
    return values.numpy()
