"""A model that vLLM is to run, read without its weights: configuration, tokenizer and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError, Thinking
from reasonctl.controller.thinking import read_template

from ..extras import require
from .configured import ServedModel, described


@dataclass(frozen=True)
class ModelFolder:
    """A transformers folder, or a hub id."""

    path: str
    """As vLLM takes it."""
    config: Any
    """The transformers configuration."""
    tokenizer: Any
    """The transformers tokenizer."""

    @classmethod
    def read(cls, name: str) -> ModelFolder:
        """Read what vLLM will read.

        Raises:
            ControllerError: It is no model that vLLM and transformers can read.
        """
        require("vllm", "transformers")
        from transformers import AutoConfig, AutoTokenizer

        path = Path(name).expanduser()
        if name.endswith(".gguf") or name.startswith("hf:"):
            raise ControllerError(
                f"{name!r} is a GGUF file, which vLLM doesn't run here; give the model's transformers folder or hub id"
            )
        if path.is_dir():
            _check_weights(path)
        try:
            source = str(path) if path.is_dir() else name
            return cls(source, AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source))
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ControllerError(f"can't read {name!r} as a transformers model: {reason}") from error

    @cached_property
    def text_config(self) -> Any:
        """The configuration of its text part."""
        return self.config.get_text_config(decoder=True)

    @property
    def dtype(self) -> str:
        """Of its weights, as the folder says."""
        found = getattr(self.config, "dtype", None) or getattr(self.text_config, "dtype", None)
        return "auto" if found is None else str(found).removeprefix("torch.")

    @cached_property
    def served(self) -> ServedModel:
        """The model as a probe's card is compared with it."""
        quantisation = getattr(self.config, "quantization_config", None)
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
        return described(self.text_config, self.tokenizer, self.dtype, method)

    @property
    def thinking(self) -> Thinking:
        """How the model thinks, as its template says."""
        return read_template(self.served.template).thinking

    @property
    def eos(self) -> frozenset[int]:
        """Every token that ends a text."""
        found = getattr(self.text_config, "eos_token_id", None)
        listed = found if isinstance(found, list) else [found]
        return frozenset(int(token) for token in [*listed, self.tokenizer.eos_token_id] if token is not None)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A conversation's tokens, by the template; without one, those of its last message."""
        if not self.tokenizer.chat_template:
            return [int(token) for token in self.tokenizer.encode(messages[-1]["content"])]
        tokens = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(token) for token in tokens]

    def stop_token(self) -> int:
        """A token that means an exit to a client: one that the model has no use for.

        Raises:
            ControllerError: All of its tokens mean something.
        """
        pad = self.tokenizer.pad_token_id
        if pad is not None and pad not in self.eos:
            return int(pad)
        unused = int(getattr(self.text_config, "vocab_size", 0)) - 1
        if unused > max(self.tokenizer.get_vocab().values()):
            return unused  # a row of padding in the vocabulary
        raise ControllerError(
            "the model has neither a padding token nor an unused row in its vocabulary, so no token can mean an exit; "
            "use a probe that was calibrated with --form append-open"
        )


def _check_weights(path: Path) -> None:
    """vLLM reads every .safetensors of a folder as weights, so that a probe next to them ends its start."""
    strangers = [file.name for file in path.glob("*.safetensors") if ".probe." in file.name or "probe" in file.stem]
    if strangers:
        raise ControllerError(
            f"{str(path)!r} holds {strangers[0]!r}, which vLLM would read as weights; move the probe to another folder"
        )
