"""A sealed file: one .safetensors with tensors and a JSON card under a digest, written whole or not at all. No pickle.

This file makes sure that a file is whole. probe_file.py and heads_file.py say what is in one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, parse

_CHUNK = 1 << 20

Tensors = dict[str, npt.NDArray[Any]]
Content = TypeVar("Content")


def check_target(path: str | os.PathLike[str], force: bool) -> None:
    """Check that a file can be put at `path`. Call it before the work that makes the file.

    Args:
        path: The file to be written.
        force: Whether an existing file may be replaced.

    Raises:
        ControllerError: `path` is a folder, exists already, or is in no folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ControllerError(f"{target} is a folder; give a file name such as {target / 'my.probe.safetensors'}")
    if target.exists() and not force:
        raise ControllerError(f"{target} exists already; overwrite it with --force or give another name")
    if not target.parent.is_dir():
        raise ControllerError(f"{target.parent} is no folder; make it first")


@dataclass(frozen=True)
class Sealed:
    """One kind of file."""

    key: str
    """The key of its card in the file's metadata."""
    format: int
    """The version of the format."""
    what: str
    """How messages call it."""
    make: str
    """The command that makes one."""

    def save(self, path: str | os.PathLike[str], tensors: Tensors, card: dict[str, Any]) -> None:
        """Write the file whole or not at all; the same content gives the same bytes.

        Args:
            path: The file.
            tensors: Arrays by name.
            card: The card, as JSON values.

        Raises:
            ControllerError: The file can't be written; what was there before stays.
        """
        tensors = _stored(tensors)
        header = canonical({"card": card, "format": self.format, "sha256": self.digest(tensors, card)})
        write_whole(path, pack(tensors, metadata={self.key: header}))

    def load(self, path: str | os.PathLike[str], content: Callable[[Tensors, dict[str, Any]], Content]) -> Content:
        """Read a file, verify it, and make its content.

        Args:
            path: The file.
            content: Makes the content from tensors and card. Its ControllerErrors get the path in front.

        Returns:
            What `content` gives.

        Raises:
            ControllerError: The file is missing, truncated, changed, or of another kind.
        """
        if Path(path).is_dir():
            raise ControllerError(f"{path} is a folder; give the .safetensors file in it")
        try:
            with safe_open(os.fspath(path), framework="np") as opened:
                header = (opened.metadata() or {}).get(self.key)
                if header is None:
                    raise ControllerError(f"{path} is no {self.what}: it has no {self.key} card. Make one: {self.make}")
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if missing else f"truncated or no safetensors file ({error!s:.200})"
            raise ControllerError(f"{path} can't be read as a {self.what}: {reason}".partition("\n")[0]) from None
        try:
            return content(tensors, self._verified(tensors, header))
        except ControllerError as error:
            raise ControllerError(f"{path}: {error}") from None

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file can be read and is of this kind. It need not be whole."""
        try:
            with safe_open(os.fspath(path), framework="np") as opened:
                return self.key in (opened.metadata() or {})
        except (SafetensorError, OSError):
            return False

    def digest(self, tensors: Mapping[str, npt.NDArray[Any]], card: Any) -> str:
        """sha256 over format, card, and every tensor's name, type, shape and bytes."""
        written, tensors = json.dumps(card, sort_keys=True, separators=(",", ":")), _stored(tensors)
        digest = hashlib.sha256(f"{self.format}\n{written}\n".encode())
        for name in sorted(tensors):
            array = tensors[name]
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _verified(self, tensors: Tensors, header: str) -> dict[str, Any]:
        again = f"Make it again: {self.make}"
        try:
            found = Fields.of(parse(header, "its card"), "its card")
            version, digest, card = found.whole("format"), found.text("sha256"), found.inner("card").values
        except ControllerError as error:
            raise ControllerError(f"its card is broken ({error}); the file was changed. {again}") from None
        if version != self.format:
            raise ControllerError(
                f"it has format {version!r}, this reasonctl reads {self.format}; upgrade, or calibrate again"
            )
        if digest != self.digest(tensors, card):
            raise ControllerError(f"hash mismatch: tensors or card were changed since. {again}")
        return card


def check_floats(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ControllerError unless the tensors hold float64 numbers, as they were written."""
    for name, array in tensors.items():
        if array.dtype != np.float64:
            raise ControllerError(f"its tensor {name!r:.80} holds {array.dtype}; it must hold float64")


def _stored(tensors: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    """The tensors as a file holds them: contiguous, and a single number as an array of length 1."""
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def canonical(value: Any) -> str:
    """JSON with one spelling per value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a new file in the target's folder, then rename it over the target. After a failure the new file is gone.

    Args:
        path: The target; a link is followed.
        data: All bytes of the file.

    Raises:
        ControllerError: The file can't be written; what was there before stays.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view[:_CHUNK]) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or error
        raise ControllerError(f"{target} can't be written ({reason}); free space or give another place") from None
    finally:
        with suppress(OSError):  # on a read-only file system even a file that isn't there can't be removed
            temporary.unlink()
