"""One way to open every backend's engine, for the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reasonctl.backends.toy import ToyEngine


class Plain:
    """A Step that holds one row."""

    def __init__(self, logits: Any) -> None:
        self._logits = logits

    def logits(self, node: int) -> Any:
        """The row, whatever the node."""
        return self._logits


@dataclass(frozen=True)
class Bench:
    """An engine under test, and what equality means on it."""

    engine: Any
    """The engine."""
    tolerance: float
    """Largest difference of logits that counts as equal; 0: bit-exact."""
    shape_tolerance: float | None
    """The same between batches of different shapes. None: only the argmax is compared."""


def toy() -> Bench:
    """An n-gram model with a table of probabilities."""
    return Bench(ToyEngine(vocabulary=11, order=3, seed=5), 0.0, 0.0)


def transformers(config: str) -> Callable[[], Bench]:
    """What opens a small random model of a kind."""

    def make() -> Bench:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

        from reasonctl.backends.hf.engine import HFEngine

        torch.manual_seed(0)
        kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
        config_class, model_class = kinds[config]
        small = config_class(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
        return Bench(HFEngine(model_class(small).eval()), 1e-4, 1e-4)

    return make


def llama_cpp() -> Bench:
    """As `ctl` loads it. Stock llama.cpp also sums in other orders where a fork's cells lie elsewhere (AMX buffers)."""
    from reasonctl.backends.load import load_model

    return Bench(load_model("tiny", threads=1).engine, 0.0, None)


ENGINES: dict[str, Callable[[], Bench]] = {
    "toy": toy,
    "hf-llama": transformers("llama"),
    "hf-qwen2": transformers("qwen2"),
    "llama.cpp": llama_cpp,
}
