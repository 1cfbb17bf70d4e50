"""vLLM's worker with auxiliary hidden states switched on: `--worker-cls reasonctl.backends.vllm.Worker`.

EAGLE-3 speculation reads the outputs of some blocks, so vLLM's models return them and its CUDA graphs have buffers for
them. This worker asks for the blocks that the probe reads, and hands them to the processor before sampling.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.parallel_state import get_tp_group
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.platforms import current_platform

from reasonctl.controller import ControllerError

from .captured import CAPTURED
from .configured import blocks_of

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class Worker(PlatformWorker):  # type: ignore[misc]
    """The platform's worker; the outputs of the probe's blocks are captured in each step."""

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        """Load the model and have it return the blocks' outputs.

        Raises:
            ControllerError: The model has no auxiliary hidden states, or the engine is set up in a way that loses them.
        """
        blocks = blocks_of(self.vllm_config)
        result = super().load_model(*args, **kwargs)
        CAPTURED.runner, CAPTURED.blocks = self.model_runner, blocks
        if not blocks:
            return result
        model = self.model_runner.get_model()
        if not supports_eagle3(model):
            raise ControllerError(
                f"vLLM's {type(model).__name__} returns no auxiliary hidden states, which a probe reads; use a model "
                "that has them (Llama, Qwen2, Qwen3, Gemma and others; docs/scale.md), or ctl serve on transformers"
            )
        model.set_aux_hidden_state_layers(tuple(block + 1 for block in blocks))  # vLLM counts the embedding as 0
        self.model_runner.use_aux_hidden_state_outputs = True
        return result

    def record_into(self, folder: str) -> None:
        """Have the engine's first process write what is recorded into a folder; called once, after the start."""
        CAPTURED.records = folder if get_tp_group().is_first_rank else ""

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a forward; requests that have ended since the last one are noted."""
        CAPTURED.finish(scheduler_output.finished_req_ids)
        return super().execute_model(scheduler_output, *args, **kwargs)

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample the forward's tokens, with its hidden states in the processor's reach."""
        CAPTURED.begin(self.model_runner.execute_model_state)
        try:
            return super().sample_tokens(grammar_output)
        finally:
            CAPTURED.end()
