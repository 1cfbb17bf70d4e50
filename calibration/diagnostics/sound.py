"""Irrelevant sound: silence, noise of a given level, and a part of a file."""

from __future__ import annotations

import hashlib
import io
import math
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal

from reasonctl.controller import ControllerError
from reasonctl.controller.core import read_bytes

Samples = npt.NDArray[np.float32]

MOST_SECONDS = 30
"""Longest sound: what audio encoders of Whisper's kind take."""
MOST_BYTES = 64 << 20
"""Largest file."""
QUIETEST, LOUDEST = -120.0, -10.0
"""Levels of noise, in dBFS. Louder Gaussian noise would be clipped, and so have another level than it says."""


def check_sound(spec: str) -> None:
    """Raise ControllerError, before any work, for what names no sound."""
    if spec == "silence":
        return
    if spec.startswith("noise:"):
        _level(spec)
    else:
        read_wave(spec)


def sound_of(spec: str, seconds: int, rate: int, key: int) -> Samples:
    """A sound.

    Args:
        spec: `silence`, `noise:LEVEL` (white Gaussian noise, its root mean square in dBFS: 0 is a square wave at
            full scale), or a .wav file, which is repeated or cut.
        seconds: How long.
        rate: Samples a second.
        key: Decides the noise.

    Returns:
        Shape (seconds * rate,), from -1 to 1.

    Raises:
        ControllerError: The spec names no sound.

    >>> float(abs(sound_of("silence", 1, 16000, 0)).max()), sound_of("noise:-40", 2, 8000, 0).shape
    (0.0, (16000,))
    """
    size = seconds * rate
    if spec == "silence":
        return np.zeros(size, dtype=np.float32)
    if spec.startswith("noise:"):
        drawn = np.random.default_rng([key, 40]).standard_normal(size)
        scaled = drawn * (10 ** (_level(spec) / 20) / np.sqrt(np.mean(drawn**2)))
        noise: Samples = np.clip(scaled, -1.0, 1.0).astype(np.float32)
        return noise
    samples, own = read_wave(spec)
    common = math.gcd(rate, own)
    at_rate = scipy.signal.resample_poly(samples.astype(np.float64), rate // common, own // common)
    found: Samples = np.clip(np.resize(at_rate, size), -1.0, 1.0).astype(np.float32)
    return found


def sounds_digest(specs: Sequence[str]) -> str:
    """Tells sounds of the same names apart: SHA-256 of the files' bytes; "" where none is a file."""
    files = [spec for spec in specs if spec != "silence" and not spec.startswith("noise:")]
    digest = hashlib.sha256(b"".join(read_bytes(Path(one), "a sound", MOST_BYTES) for one in files))
    return digest.hexdigest() if files else ""


def _level(spec: str) -> float:
    text = spec.removeprefix("noise:")
    try:
        level = float(text)
    except ValueError:
        level = np.nan
    if not QUIETEST <= level <= LOUDEST:
        raise ControllerError(
            f"noise has the level {text[:40]!r}; give dBFS from {QUIETEST:g} to {LOUDEST:g}, such as noise:-40"
        )
    return level


def read_wave(path: str) -> tuple[Samples, int]:
    """The samples of a .wav file of whole numbers, channels averaged, and its rate.

    Raises:
        ControllerError: It can't be read, or holds no such sound.
    """
    data = read_bytes(Path(path), "a sound", MOST_BYTES)
    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError, ValueError) as error:
        raise ControllerError(f"{path!r} is no .wav file that can be read ({error}); save it as PCM") from None
    frames = frames[: len(frames) // (width * channels) * width * channels]
    if not frames or width not in (1, 2, 3, 4) or rate < 1:
        raise ControllerError(f"{path!r} holds no samples of 8 to 32 bits; save it as PCM, 16 bits")
    if width == 1:
        values = np.frombuffer(frames, dtype=np.uint8).astype(np.float64) - 128.0
    elif width == 3:
        parts = np.frombuffer(frames, dtype=np.uint8).reshape(-1, 3).astype(np.int64)
        whole = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        values = np.where(whole < 1 << 23, whole, whole - (1 << 24)).astype(np.float64)
    else:
        values = np.frombuffer(frames, dtype=f"<i{width}").astype(np.float64)
    scaled = (values / float(1 << (8 * width - 1))).reshape(-1, channels).mean(axis=1)
    return scaled.astype(np.float32), rate
