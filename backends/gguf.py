"""Reads a GGUF file's metadata and checks that the file is whole; loads no weights."""

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
    if not path.stat().st_size:
        raise ControllerError(f"{path} is empty; download it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ControllerError(f"{path} is no GGUF file: it starts with {bytes(data[:4])!r}, not with b'GGUF'")
        try:
            return _Reader(data, path).header()
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise ControllerError(f"{path} is damaged or cut off in its header ({error}); download it again") from None


class _Reader:
    """A cursor over the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = len(b"GGUF")

    def header(self) -> dict[str, Any]:
        version = self._number("<I")
        if version not in (2, 3):
            raise ControllerError(f"{self._path} is GGUF version {version}; only 2 and 3 can be read: convert it")
        tensors, keys = self._number("<Q"), self._number("<Q")
        found: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string()
            kind = self._number("<I")
            if kind == _ARRAY:
                self._skip_array()
            else:
                found[key] = self._string() if kind == _STRING else self._number(_SCALARS[kind])
        if not tensors:
            raise ControllerError(f"{self._path} holds a vocabulary only, no weights; give a model file")
        end = max(self._tensor_end() for _ in range(tensors))
        alignment = int(found.get("general.alignment", 32)) or 32
        data_start = -(-self._at // alignment) * alignment  # rounded up
        wanted = data_start + end
        if wanted > len(self._data):
            raise ControllerError(
                f"{self._path} is cut off: {len(self._data)} of {wanted} bytes are there; download it again"
            )
        return found

    def _tensor_end(self) -> int:
        """Offset of the end of one tensor, from the start of the data."""
        from gguf.constants import GGML_QUANT_SIZES

        self._string()  # its name
        shape = [int(self._number("<Q")) for _ in range(self._number("<I"))]
        weights_per_block, bytes_per_block = GGML_QUANT_SIZES.get(self._number("<I"), (1, 0))
        offset = int(self._number("<Q"))
        return offset + math.prod(shape) // int(weights_per_block) * int(bytes_per_block)

    def _skip_array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == _ARRAY:
            for _ in range(count):
                self._skip_array()
        elif kind == _STRING:
            # Vocabularies: 300 000 strings, so this loop is the cost of reading a header.
            at = self._at
            data = self._data
            unpack = struct.Struct("<Q").unpack_from
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
            self._at = at
        else:
            self._at += count * struct.calcsize(_SCALARS[kind])

    def _number(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _string(self) -> str:
        size = self._number("<Q")
        if size > len(self._data) - self._at:
            raise KeyError("a text longer than the file")
        self._at += size
        return bytes(self._data[self._at - size : self._at]).decode("utf-8")
