"""Runs in batches on vLLM's `LLM`: every run goes on until it is over, and exits are made on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reasonctl.controller import ControllerError

from .client_run import Asked, ClientRun

SEED_STEP = 0x9E3779B97F4A7C15
"""Added to a run's seed for each further part, modulo 2^63."""


def run_all(llm: Any, runs: Sequence[ClientRun], params: Sequence[Mapping[str, Any]]) -> None:
    """Make runs to their ends, all that are asked for at the same time in one batch.

    Args:
        llm: A `vllm.LLM` that was started with the worker and the processor of this room.
        runs: The runs; they hold their results.
        params: Entries of each run's SamplingParams, such as its temperature and its seed. Limits, stop tokens and
            arguments are set here.

    Raises:
        ControllerError: vLLM's engine has ended.
    """
    left = [(run, own) for run, own in zip(runs, params, strict=True) if run.finish is None]
    while left:
        asked = [(run, own, run.asked()) for run, own in left]
        open_ = [(run, own, one) for run, own, one in asked if one is not None]
        if not open_:
            return
        prompts = [{"prompt_token_ids": one.prompt} for _, _, one in open_]
        outputs = _generated(llm, prompts, [_params(own, one) for _, own, one in open_])
        for (run, _, _), output in zip(open_, outputs, strict=True):
            _feed(run, output.outputs[0])
        left = [(run, own) for run, own, _ in open_]


def _generated(llm: Any, prompts: list[Any], params: list[Any]) -> Any:
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return llm.generate(prompts, params, use_tqdm=False)
    except EngineDeadError as error:
        raise ControllerError(
            "vLLM's engine has ended amid the runs; the first error above is its own, and runs of earlier batches are "
            "kept"
        ) from error


def _feed(run: ClientRun, completion: Any) -> None:
    logprobs = completion.logprobs or [{} for _ in completion.token_ids]
    for token, known in zip(completion.token_ids, logprobs, strict=True):
        run.push(int(token), known[token].logprob if token in known else math.nan)
        if run.interrupted:
            return
    run.ended(completion.finish_reason)


def _params(own: Mapping[str, Any], asked: Asked) -> Any:
    from vllm import SamplingParams

    given = {
        **own,
        "max_tokens": asked.most,
        "stop_token_ids": [*(own.get("stop_token_ids") or ()), *asked.stop_tokens],
        "extra_args": {**(own.get("extra_args") or {}), **asked.arguments},
    }
    if own.get("seed") is not None:
        given["seed"] = seed_of(own["seed"], asked.turn)
    return SamplingParams(**given)


def seed_of(seed: int, turn: int) -> int:
    """The seed of a run's part: a part never draws the numbers of an earlier one.

    >>> seed_of(7, 0), seed_of(7, 1) == seed_of(7, 2)
    (7, False)
    """
    return (seed + turn * SEED_STEP) % (1 << 63)
