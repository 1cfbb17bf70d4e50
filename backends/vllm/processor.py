"""vLLM's logits processor: `--logits-processors reasonctl.backends.vllm:ExitProcessor`, one class for both runners.

It reads each request's new token, asks the probe at cues, and forces what makes an exit. The rows of a step are read in
one transfer, and scored at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
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

from .captured import CAPTURED, shared_scores
from .configured import engine_options, exits_of, record_options
from .following import Following
from .monitoring import Monitored
from .options import RecordOptions, RequestOptions
from .recording import Recorder
from .requests import Requests, Row
from .start import WORKER

_log = logging.getLogger("vllm.reasonctl")


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
        self._context = int(vllm_config.model_config.max_model_len)
        record = record_options(vllm_config)
        options = None if record is not None else engine_options(vllm_config)
        if record is not None:
            self._record(record, vllm_config)
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
        first = get_tp_group().is_first_rank
        self._monitored: Monitored | None = Monitored(rule, options.replicas, _log.warning) if first else None
        _log.info("reasonctl: %s", rule.why)

    def _record(self, record: RecordOptions, vllm_config: Any) -> None:
        """Record at cues, in place of control."""
        tokenizer = cached_tokenizer_from_config(model_config=vllm_config.model_config)
        exits, _ = exits_of(record.rule(), vllm_config, tokenizer)
        self.requests = Recorder(exits)
        self._layers, self._monitored = record.blocks, None

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
        """The step's tokens are read in one transfer, and in another one the histories of requests that have come."""
        ids, positions = torch.stack((ctx.input_ids.long(), ctx.pos.long())).cpu().numpy()
        totals = (positions + 1).tolist()
        whole = self._states.prefill_len.np  # a shorter one is a part of a prompt
        ready = [(row, slot) for row, slot in enumerate(ctx.idx_mapping_np.tolist()) if totals[row] >= int(whole[slot])]
        self._take_over([(row, slot) for row, slot in ready if slot in self._new], totals)
        for row, slot in ready:
            held = self._held[slot]
            if totals[row] - len(held.prompt) == len(held.output) + 1:
                held.output.append(int(ids[row]))
            if held.request is not None and not held.request.over:
                yield Row(row, held.request, held.output[held.request.seen :])

    def _take_over(self, new: list[tuple[int, int]], totals: list[int]) -> None:
        """Follow requests, given by row and slot, whose tokens are there now; totals: tokens so far, by row."""
        if not new:
            return
        slots = torch.tensor([slot for _, slot in new], device=self._states.all_token_ids.gpu.device)
        longest = max(totals[row] for row, _ in new)
        texts = self._states.all_token_ids.gpu[slots, :longest].cpu().numpy()
        for (row, slot), text in zip(new, texts, strict=True):
            tokens, prompt = text[: totals[row]].tolist(), int(self._states.prompt_len.np[slot])
            held = self._held[slot] = _Held(self._new.pop(slot), tokens[:prompt], tokens[prompt:])
            self._begin(held, CAPTURED.batch.req_ids[row])

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
        forced = self.requests.step(rows, lambda asked: self._read(logits, asked, last[asked]))
        _forbid(logits, [(row.row, token) for row in rows if (token := row.request.reserved) is not None])
        _force(logits, forced)
        return logits

    def _begin(self, held: _Held, name: str) -> None:
        """Follow a request that has come, or come back.

        Raises:
            ControllerError: Another worker than ours runs the model, so that there are no hidden states.
        """
        assert self.requests is not None
        if CAPTURED.runner is None:
            raise ControllerError("no hidden states reach the processor; start vLLM with --worker-cls " + WORKER)
        most = min(held.params.max_tokens or self._context, self._context - len(held.prompt))
        options = self._options(name, held.params)
        held.request = self.requests.begin(name, options, held.prompt, most)
        if self._monitored is not None:
            self._monitored.begin(name, held.request)

    def _options(self, name: str, params: Any) -> RequestOptions:
        """A request's arguments; one that can't be controlled runs in full, and the log says why."""
        assert self.requests is not None
        options = RequestOptions.of(params.extra_args)
        if options.off:
            return options
        if params.structured_outputs is not None:
            why = "its grammar would refuse the tokens of an exit"
        else:
            try:
                options.check(self.requests.exits.rule)
                self.requests.check(options)
                return options
            except ControllerError as error:
                why = str(error)
        _log.warning("reasonctl: request %s runs in full: %s", name, why)
        return replace(options, off=True)

    def _forget_finished(self) -> None:
        assert self.requests is not None
        for name, request in self.requests.finish(CAPTURED.take_finished()).items():
            if self._monitored is not None:
                self._monitored.end(name, request)

    def _read(self, logits: torch.Tensor, asked: list[int], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The features of some rows, in one transfer; a recorder gets their entropies too."""
        if isinstance(self.requests, Recorder):
            picked = logits[asked].double().log_softmax(-1)
            self.requests.folder = CAPTURED.records
            self.requests.entropies = -(picked.exp() * picked).nansum(-1).cpu().numpy()
        return self._features(rows)

    def _features(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Shape (rows, size): what the probe reads at each."""
        hidden = CAPTURED.hidden(rows)
        return np.concatenate([hidden[layer] for layer in self._layers], axis=1, dtype=np.float64)


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
    return shared_scores(scores, get_tp_group())
