"""Audio-language models of transformers: a question, with a sound before it or without, and the answer's text.

Everything but the tokens' choice is the library's own: its processor makes the prompt, its prefill reads the sound. The
call is under a controller, so a run's numbers are keyed as everywhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, MistralCommonBackend

from reasonctl.controller import Controller, ControllerError, Policy

from ..machine import check_cores
from .attach import attach_transformers
from .load import BROKEN

WEIGHTS_READ = 64
"""Values of each parameter that tell a model from another one of its shape."""


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
        return int(extractor_of(self.processor).sampling_rate)

    def identity(self) -> dict[str, str]:
        """What distinguishes it from models whose runs differ."""
        digest, size = hashlib.sha256(), 0
        for one in self.library.parameters():
            size += one.numel()
            digest.update(one.detach().flatten()[:WEIGHTS_READ].float().cpu().numpy().tobytes())
        found = {"class": type(self.library).__name__, "parameters": str(size), "dtype": str(self.library.dtype)}
        return found | {"weights": digest.hexdigest()}

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
        content: list[dict[str, Any]] = [] if sound is None else [self._sound_part(sound)]
        content.append({"type": "text", "text": question})
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        handle = attach_transformers(self.library, Controller(policy=policy))
        try:
            with torch.inference_mode():
                written = self.library.generate(**inputs, max_new_tokens=most, seed=seed)
            finish = handle.traces[-1].finish_reason
        finally:
            handle.detach()
        new = written[0, inputs["input_ids"].shape[1] :]
        text = self.processor.tokenizer.decode(new, skip_special_tokens=True)
        return Spoken(text, len(new), str(finish))

    def _sound_part(self, sound: npt.NDArray[np.float32]) -> dict[str, Any]:
        """The sound as a part of a message: samples, or a file where mistral-common makes the prompt."""
        if isinstance(self.processor.tokenizer, MistralCommonBackend):
            return {"type": "audio", "base64": base64.b64encode(wave_bytes(sound, self.rate)).decode()}
        return {"type": "audio", "audio": sound}


def extractor_of(processor: Any) -> Any:
    """What turns samples into a model's input; None where the processor takes no sound."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def wave_bytes(sound: npt.NDArray[np.float32], rate: int) -> bytes:
    """A .wav file of 32 bits a sample, so that no noise is too quiet for it."""
    whole = np.clip(np.round(sound.astype(np.float64) * (1 << 31)), -(1 << 31), (1 << 31) - 1).astype("<i4")
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(4)
        file.setframerate(rate)
        file.writeframes(whole.tobytes())
    return written.getvalue()


def load_sound_model(name: str, *, threads: int | None = None) -> SoundModel:
    """Load a model that takes sound: a folder of transformers with its processor.

    Raises:
        ControllerError: There is no such model, or it takes no sound.
    """
    if not Path(name).expanduser().is_dir():
        raise ControllerError(
            f"{name!r} is no folder; sound needs a folder of an audio-language model and its processor"
        )
    check_cores("threads", threads)
    if threads is not None:
        torch.set_num_threads(threads)
    processor = _read(name, lambda: AutoProcessor.from_pretrained(name))
    _check_processor(name, processor)
    library = _read(name, lambda: _class_of(name).from_pretrained(name, dtype="auto").eval())
    return SoundModel(getattr(library, "thinker", library), processor)


def _read(name: str, read: Callable[[], Any]) -> Any:
    """What the library reads of a folder; ControllerError for one that it can't read."""
    try:
        return read()
    except BROKEN as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ControllerError(f"can't load {name!r} as an audio-language model: {reason}") from error


def _check_processor(name: str, processor: Any) -> None:
    """Raise ControllerError where a processor can't make a prompt with a sound."""
    mistral = isinstance(getattr(processor, "tokenizer", None), MistralCommonBackend)
    if (Path(name).expanduser() / "tekken.json").exists() and not mistral:
        raise ControllerError(
            f"the prompts of {name!r} are made by mistral-common, which isn't installed; "
            "pip install 'mistral-common[audio]'"
        )
    if extractor_of(processor) is None or not (mistral or getattr(processor, "chat_template", None)):
        raise ControllerError(f"{name!r} has no processor for sound with a chat template; give an audio-language model")


def _class_of(name: str) -> Any:
    """The library's class for a folder: the one that its configuration names, else that of its type."""
    named = (getattr(AutoConfig.from_pretrained(name), "architectures", None) or [""])[0]
    found = getattr(transformers, str(named), None)
    return found if hasattr(found, "generate") else AutoModelForMultimodalLM
