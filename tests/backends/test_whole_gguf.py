"""Whole GGUF files with odd values: what our check lets through, llama.cpp reads or refuses; nothing ends the process.

The check can't know all that llama.cpp asserts, so files are opened in processes of their own.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from reasonctl.backends.gguf import read_header
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import ControllerError
from support import open_gguf

TINY = tiny_folder() / "tiny.gguf"
WHOLE = [0, 1, 2, 3, 7, 13, 63, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1]
REAL = [0.0, -1.0, 1e-30, 1e30, math.nan, math.inf]
RULED_OUT = [
    ("llama.context_length", 2**31 - 1),
    ("llama.block_count", 2**15),
    ("llama.block_count", 513),
    ("llama.attention.layer_norm_rms_epsilon", -1.0),
    ("llama.attention.layer_norm_rms_epsilon", math.nan),
]
"""Values on which llama.cpp ends the process, or takes gigabytes for a line of text."""


def places() -> list[tuple[str, int, np.dtype]]:
    """Name, offset and type of every number in the header: metadata, and shapes, types and offsets of tensors."""
    reader = GGUFReader(TINY)
    parts = [
        (name, field.parts[field.data[0]])
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and len(field.types) == 1 and field.types[0].name != "STRING"
    ]
    parts += [(tensor.name, part) for tensor in reader.tensors for part in tensor.field.parts[3:]]
    return [(name, part.ctypes.data - reader.data.ctypes.data, part.dtype) for name, part in parts]


def with_value(at: int, kind: np.dtype, value: float) -> bytes:
    """The bundled model with one number changed."""
    data = bytearray(TINY.read_bytes())
    data[at : at + kind.itemsize] = np.array(value).astype(kind).tobytes()
    return bytes(data)


def odd_files(folder: Path, n: int, seed: int) -> list[str]:
    """Paths of whole files with one odd number each that our own check lets through."""
    rng, known, made = random.Random(seed), places(), []
    while len(made) < n:
        name, at, kind = rng.choice(known)
        path = folder / f"{len(made)}.gguf"
        path.write_bytes(with_value(at, kind, rng.choice(REAL if kind.kind == "f" else WHOLE[: 8 * kind.itemsize])))
        try:
            read_header(path)
        except ControllerError as error:
            assert "\n" not in str(error), name
            continue
        made.append(str(path))
    return made


def endings(paths: list[str]) -> dict[str, int]:
    """How opening each file ended."""
    done = subprocess.run(
        [sys.executable, open_gguf.__file__, *paths], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    lines = [line.rsplit(" ", 1) for line in done.stdout.decode().splitlines() if line.endswith(tuple("0123456789"))]
    return {path: int(code) for path, code in lines if path in paths}


@pytest.mark.parametrize(("key", "value"), RULED_OUT)
def test_what_ends_llama_cpp_is_refused_before_it_reads_the_file(tmp_path, key, value):
    at, kind = next((at, kind) for name, at, kind in places() if name == key)
    path = tmp_path / "m.gguf"
    path.write_bytes(with_value(at, kind, value))
    with pytest.raises(ControllerError, match=key):
        read_header(path)


@pytest.mark.parametrize("kind", [1, 3, 30])
def test_a_norm_that_is_not_f32_is_refused_before_llama_cpp_computes_with_it(tmp_path, kind):
    at, layout = [(at, layout) for name, at, layout in places() if name == "output_norm.weight"][-2]
    path = tmp_path / "m.gguf"
    path.write_bytes(with_value(at, layout, kind))
    with pytest.raises(ControllerError, match=r"output_norm.*F32"):
        read_header(path)


def check(folder: Path, n: int, seed: int) -> None:
    paths = odd_files(folder, n, seed)
    found = endings(paths)
    assert len(found) == n
    assert {path: code for path, code in found.items() if code not in (open_gguf.READ, open_gguf.REFUSED)} == {}


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_an_odd_whole_file_is_read_or_refused(tmp_path):
    check(tmp_path, 10, 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
@pytest.mark.parametrize("seed", range(10))
def test_many_odd_whole_files(tmp_path, seed):
    check(tmp_path, 60, 2 + seed)
