"""Audio-language models of transformers: a question, with a sound before it or without, and the answer's text.

Everything but the tokens' choice is the library's own: its processor makes the prompt, its prefill reads the sound. The
call is under a controller, so a run's numbers are keyed as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from reasonctl.controller import Controller, ControllerError, Policy

from .attach import attach_transformers
from .load import BROKEN


class Spoken(NamedTuple):
    """A model's answer."""

    text: str
    """The answer."""
    tokens: int
    """Tokens that were generated."""
    finish: str
    """Why it ended: `stop` or `length`."""


@dataclass(frozen=True)
class SoundModel:
    """A model that takes sound, and its processor."""

    library: Any
    """The transformers model."""
    processor: Any
    """The transformers processor, with a chat template."""

    @property
    def rate(self) -> int:
        """Samples a second of the sound that it takes."""
        return int(self.processor.feature_extractor.sampling_rate)

    def identity(self) -> dict[str, str]:
        """What distinguishes it from models whose runs differ."""
        size = sum(one.numel() for one in self.library.parameters())
        return {"class": type(self.library).__name__, "parameters": str(size), "dtype": str(self.library.dtype)}

    def answer(
        self, question: str, sound: npt.NDArray[np.float32] | None, policy: Policy, *, seed: int, most: int
    ) -> Spoken:
        """One run.

        Args:
            question: The text.
            sound: Samples at `rate`, put before the text. None: there is none.
            policy: How tokens are chosen.
            seed: Of the run.
            most: Most new tokens.
        """
        content: list[dict[str, Any]] = [] if sound is None else [{"type": "audio", "audio": sound}]
        content.append({"type": "text", "text": question})
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        tokenizer = self.processor.tokenizer
        handle = attach_transformers(self.library, Controller(policy=policy), tokenizer=tokenizer)
        try:
            with torch.inference_mode():
                written = self.library.generate(**inputs, max_new_tokens=most, seed=seed)
            finish = handle.traces[-1].finish_reason
        finally:
            handle.detach()
        new = written[0, inputs["input_ids"].shape[1] :]
        return Spoken(tokenizer.decode(new, skip_special_tokens=True), len(new), str(finish))


def load_sound_model(name: str, *, threads: int | None = None) -> SoundModel:
    """Load a model that takes sound: a folder of transformers with its processor.

    Raises:
        ControllerError: There is no such model, or it takes no sound.
    """
    if not Path(name).expanduser().is_dir():
        raise ControllerError(
            f"{name!r} is no folder; sound needs a folder of an audio-language model and its processor"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        processor = AutoProcessor.from_pretrained(name)
        library = AutoModelForMultimodalLM.from_pretrained(name, dtype="auto").eval()
    except BROKEN as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ControllerError(f"can't load {name!r} as an audio-language model: {reason}") from error
    if not hasattr(processor, "feature_extractor") or getattr(processor, "chat_template", None) is None:
        raise ControllerError(f"{name!r} has no processor for sound with a chat template; give an audio-language model")
    return SoundModel(library, processor)
