"""Reads a GGUF file's metadata and checks that the file is whole. No weights are loaded."""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError

from .extras import require

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_U32 = 4
_F32 = 0
MOST_ENTRIES = 1 << 20
"""Most tensors, and most metadata keys, of a file."""
MOST_DIMENSIONS = 4
"""Most dimensions of a tensor; ggml has no more."""
MOST_NESTED = 4
"""Deepest nesting of arrays."""
MOST_KEY = (1 << 16) - 1
"""Longest key, in bytes, as the format has it."""
_TEXTS = ("general.architecture", "tokenizer.chat_template", "tokenizer.ggml.model")
_VOCABULARY = "tokenizer.ggml.tokens"
_WHOLE = {"context_length": (0, 1 << 26), "block_count": (1, 512), "embedding_length": (1, 1 << 24)}
"""Least and largest value of the keys of an architecture that are read here, or by llama.cpp unchecked.

llama-cpp-python reserves 4 bytes a token of the trained context with each text; llama.cpp ends at more than 512 layers.
"""


def read_header(path: Path) -> dict[str, Any]:
    """Metadata by key, arrays left out.

    Raises:
        ControllerError: there is no such file, it is no GGUF file, it is damaged, or its end is missing.
    """
    require("llama", "gguf")
    if path.is_dir():
        raise ControllerError(f"{path} is a folder; give a .gguf file in it")
    if not path.is_file():
        raise ControllerError(f"there is no file {path}; give the path of a .gguf file")
    try:
        if not path.stat().st_size:
            raise ControllerError(f"{path} is empty; download it again")
        return _read(path)
    except OSError as error:
        raise ControllerError(f"{path} can't be read: {error.strerror}") from None


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ControllerError(f"{path} is no GGUF file: it starts with {bytes(data[:4])!r}, not with b'GGUF'")
        try:
            return _Reader(data, path).header()
        except (struct.error, UnicodeDecodeError, _DamagedError) as error:
            raise ControllerError(f"{path} is damaged or cut off in its header ({error}); download it again") from None


class _DamagedError(Exception):
    """The header says what no whole file says."""


class _Reader:
    """A cursor over the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = len(b"GGUF")

    def header(self) -> dict[str, Any]:
        """Metadata by key, and the check that all tensors are there."""
        version = self._number("<I")
        if version not in (2, 3):
            raise ControllerError(f"{self._path} is GGUF version {version}; only 2 and 3 can be read: convert it")
        tensors, keys = self._number("<Q"), self._number("<Q")
        if max(tensors, keys) > MOST_ENTRIES:
            raise _DamagedError(f"{tensors} tensors and {keys} keys, more than {MOST_ENTRIES:,}")
        found = self._metadata(keys)
        self._check_values(found)
        if not tensors:
            raise ControllerError(f"{self._path} holds a vocabulary only, no weights; give a model file")
        end = max(self._tensor_end() for _ in range(tensors))
        alignment = int(found.get("general.alignment", 32))
        data_start = -(-self._at // alignment) * alignment  # rounded up
        wanted = data_start + end
        if wanted > len(self._data):
            raise ControllerError(
                f"{self._path} is cut off: {len(self._data)} of {wanted} bytes are there; download it again"
            )
        return found

    def _metadata(self, keys: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string(MOST_KEY)
            kind = self._number("<I")
            if key in found:
                raise _DamagedError(f"the key {key!r:.60} twice")
            if kind == _ARRAY:
                self._skip_array(1, distinct=key == _VOCABULARY)
                continue
            if key == "general.alignment" and kind != _U32:
                raise _DamagedError("general.alignment is of another type than u32")
            found[key] = self._string() if kind == _STRING else self._scalar(kind)
        return found

    def _check_values(self, found: dict[str, Any]) -> None:
        """What is read of a header must be of its type; llama.cpp ends the process on some of these."""
        for key in _TEXTS:
            if not isinstance(found.get(key, ""), str):
                raise _DamagedError(f"{key} is {found[key]!r}, no text")
        architecture = found.get("general.architecture", "?")
        for name, (low, high) in _WHOLE.items():
            key = f"{architecture}.{name}"
            value = found.get(key, high)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise _DamagedError(f"{key:.60} is {value!r:.40}, no whole number from {low} to {high}")
        for key, value in found.items():
            if key.endswith("_epsilon") and not (isinstance(value, float) and 0 <= value < math.inf):
                raise _DamagedError(f"{key:.60} is {value!r:.40}, no positive number")
        alignment = found.get("general.alignment", 32)
        if alignment < 1 or alignment & (alignment - 1):
            raise _DamagedError(f"general.alignment is {alignment}, no power of two")

    def _tensor_end(self) -> int:
        """Offset of the end of one tensor, from the start of the data."""
        from gguf.constants import GGML_QUANT_SIZES

        name = self._string(MOST_KEY)
        dimensions = self._number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise _DamagedError(f"tensor {name!r:.60} has {dimensions} dimensions, more than {MOST_DIMENSIONS}")
        shape = [int(self._number("<Q")) for _ in range(dimensions)]
        kind = self._number("<I")
        weights_per_block, bytes_per_block = GGML_QUANT_SIZES.get(kind, (1, 0))
        if name.endswith("_norm.weight") and kind != _F32:
            # llama.cpp ends the process when it computes with another type, F16 included.
            raise _DamagedError(f"tensor {name!r:.60} is of the type {kind}; a norm is F32, {_F32}")
        offset = int(self._number("<Q"))
        return offset + math.prod(shape) // int(weights_per_block) * int(bytes_per_block)

    def _skip_array(self, depth: int, *, distinct: bool = False) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        least = 12 if kind == _ARRAY else 8 if kind == _STRING else struct.calcsize(self._layout(kind))
        if count > (len(self._data) - self._at) // least or depth > MOST_NESTED:
            raise _DamagedError("an array is longer than the file, or nested too deeply")
        if kind == _ARRAY:
            for _ in range(count):
                self._skip_array(depth + 1)
        elif kind == _STRING:
            self._skip_texts(count, distinct)
        else:
            self._at += count * least

    def _skip_texts(self, count: int, distinct: bool) -> None:
        """Vocabularies have 300 000 texts, so this loop is the cost of reading a header."""
        at, data = self._at, self._data
        size = len(data)
        unpack = struct.Struct("<Q").unpack_from
        seen: set[bytes] = set()
        for _ in range(count):
            start = at + 8
            at = start + unpack(data, at)[0]
            if at > size:
                raise _DamagedError("a text is longer than the file")
            if distinct and at > start:
                text = data[start:at]
                if text in seen:
                    # llama.cpp ends the process on it.
                    raise _DamagedError(f"the vocabulary holds the token {text!r:.40} twice")
                seen.add(text)
        self._at = at

    def _layout(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _DamagedError(f"a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _scalar(self, kind: int) -> Any:
        return self._number(self._layout(kind))

    def _number(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _string(self, most: int | None = None) -> str:
        size = self._number("<Q")
        if size > len(self._data) - self._at or (most is not None and size > most):
            raise _DamagedError("a text is longer than the file, or a name than 65,535 bytes")
        self._at += size
        return bytes(self._data[self._at - size : self._at]).decode("utf-8")
