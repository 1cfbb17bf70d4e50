"""Reads vLLM's configuration: what is asked of reasonctl, which blocks are read, and what can't go together.

It takes vLLM's objects and imports nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasonctl.controller import ControllerError, Thinking, Tokenizer
from reasonctl.controller.thinking import chosen_template, read_template
from reasonctl.probes import ProbeExit

from ..hf.tokenizer import HFTokenizer
from ..model import fingerprint_of
from .following import Exits
from .options import EngineOptions


@dataclass(frozen=True)
class ServedModel:
    """The model that vLLM has loaded, as a card is compared with it."""

    depth: int
    """Number of blocks."""
    width: int
    """Hidden size."""
    template: str | None
    """The chat template."""
    settings: dict[str, str]
    """What changes hidden states slightly."""
    tokenizer: Tokenizer
    """Its tokenizer."""

    def fingerprint(self) -> str:
        """As `Model.fingerprint`."""
        return fingerprint_of(self.depth, self.width, self.tokenizer)


def served_model(vllm_config: Any, tokenizer: Any) -> ServedModel:
    """From vLLM's configuration and the transformers tokenizer that it uses."""
    model, cache = vllm_config.model_config, str(vllm_config.cache_config.cache_dtype)
    return described(model.hf_text_config, tokenizer, model.dtype, model.quantization, cache)


def described(config: Any, tokenizer: Any, dtype: object, quantisation: object, cache: str = "auto") -> ServedModel:
    """A model as a card is compared with it.

    Args:
        config: The transformers configuration of its text part.
        tokenizer: The transformers tokenizer.
        dtype: Of the weights.
        quantisation: vLLM's name of it; None: there is none.
        cache: The type of the cache's entries; "auto": that of the weights.
    """
    template = getattr(tokenizer, "chat_template", None)
    return ServedModel(
        int(config.num_hidden_layers),
        int(config.hidden_size),
        chosen_template(template if isinstance(template, str | dict) else None),
        {
            "dtype": str(dtype).removeprefix("torch."),
            "attention": "vllm" if cache == "auto" else f"vllm, cache {cache}",
            "format": str(quantisation or "safetensors"),
        },
        HFTokenizer(tokenizer),
    )


def engine_options(vllm_config: Any) -> EngineOptions | None:
    """The engine's options; None where nobody asked for anything.

    Raises:
        ControllerError: An option is impossible, or the engine is set up in a way that can't do what they ask.
    """
    options = EngineOptions.of(vllm_config.additional_config)
    if options is not None:
        check_engine(vllm_config)
    return options


def check_engine(vllm_config: Any) -> None:
    """Raise ControllerError for settings of vLLM under which no row is one request's next token in this process."""
    parallel = vllm_config.parallel_config
    refused = (
        (vllm_config.speculative_config is not None, "speculative decoding", "leave --speculative-config out"),
        (parallel.enable_batch_sharded_sampling, "batch-sharded sampling", "leave --enable-batch-sharded-sampling out"),
        (parallel.pipeline_parallel_size > 1, "pipeline parallelism", "use --tensor-parallel-size"),
    )
    for asked, what, remedy in refused:
        if asked:
            raise ControllerError(f"reasonctl's exits and vLLM's {what} don't go together; {remedy}")


def blocks_of(vllm_config: Any) -> tuple[int, ...]:
    """The blocks whose outputs are read, ascending; none where nothing is asked for.

    Raises:
        ControllerError: As `engine_options` does, or the probe is for a model of another depth.
    """
    options = engine_options(vllm_config)
    if options is None:
        return ()
    return tuple(sorted(set(options.rule().layers(int(vllm_config.model_config.hf_text_config.num_hidden_layers)))))


def exits_of(rule: ProbeExit, vllm_config: Any, tokenizer: Any) -> tuple[Exits, list[str]]:
    """How the engine makes exits, and warnings about small differences to the card's model.

    Raises:
        ControllerError: The probe is for another model, or its signal reads what vLLM has no way to give.
    """
    model = served_model(vllm_config, tokenizer)
    warnings = rule.check(model)
    vocabulary = int(vllm_config.model_config.get_vocab_size())
    thinking: Thinking = read_template(model.template).thinking
    return Exits.of(rule, model.tokenizer, thinking, tokenizer.eos_token_id, vocabulary), warnings
