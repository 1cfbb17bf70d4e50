"""Which models are on this machine: the bundled ones, reasonctl's own cache, and the Hugging Face hub's.

Headers and configs are read, and no weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reasonctl.controller import ControllerError, Tokenizer
from reasonctl.controller.core import cache_folder, parse, read_bytes

from .extras import missing
from .gguf import read_header
from .load import BUNDLED, MASKED_KINDS, TINY_MASKED, tiny_folder
from .model import fingerprint_of

MOST_CONFIG = 1 << 20
"""Largest config.json, in bytes."""
_DEPTH, _WIDTH = ("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd")

Format = Literal["gguf", "transformers", "masked"]


class Shape(NamedTuple):
    """What a header says of a model's size."""

    depth: int
    """Number of blocks."""
    width: int
    """Length of hidden states."""


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine. None of its weights are loaded."""

    name: str
    """The MODEL argument that means it."""
    where: Literal["bundled", "cache", "hub"]
    """Where it was found."""
    format: Format
    """What runs it: llama.cpp, transformers, or the loop of masked models."""
    path: Path
    """Its file, or its folder."""
    size: int
    """Bytes on disk."""
    shape: Shape | None
    """None where its header doesn't say, or can't be read."""
    problem: str = ""
    """Why it can't be read; empty where it can."""

    def fingerprint(self) -> str:
        """`Model.fingerprint` of the model, from its vocabulary alone; takes seconds for a large one.

        Raises:
            ControllerError: The vocabulary can't be read, or the library isn't installed.
        """
        if self.shape is None:
            raise ControllerError(f"{self.path} doesn't say how many layers it has and how wide they are")
        return fingerprint_of(self.shape.depth, self.shape.width, self._vocabulary())

    def _vocabulary(self) -> Tokenizer:
        if self.format == "gguf":
            from .llama.load import load_vocabulary

            return load_vocabulary(self.path)
        from .hf.load import load_tokenizer

        return load_tokenizer(self.path)


def local_models() -> Iterator[LocalModel]:
    """All of them: the bundled ones, then those of the cache, then those of the hub."""
    for name in BUNDLED:
        yield _gguf(tiny_folder(name) / f"{name}.gguf", "bundled", name)
    yield _folder(tiny_folder(TINY_MASKED), "bundled", TINY_MASKED)
    for path in sorted((cache_folder() / "models").glob("*.gguf")):
        yield _gguf(path, "cache", str(path))
    yield from _hub_models()


def hub_problem() -> str:
    """Why models of the hub can't be listed; "" where they can."""
    return missing("hf")


def _hub_models() -> Iterator[LocalModel]:
    """What the hub's cache holds of its main branch: GGUF files by their paths, and repositories by their ids."""
    if hub_problem():
        return
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):  # there is none, or it is a file
        return
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        if repository.repo_type != "model" or not repository.revisions:
            continue
        revision = repository.refs.get("main") or max(repository.revisions, key=lambda one: one.last_modified)
        names = {file.file_name: file for file in revision.files}
        for name in sorted(name for name in names if name.endswith(".gguf")):
            path = names[name].file_path
            yield _gguf(path, "hub", str(path))
        if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
            yield _folder(revision.snapshot_path, "hub", repository.repo_id)


def _gguf(path: Path, where: Literal["bundled", "cache", "hub"], name: str) -> LocalModel:
    size = path.stat().st_size if path.is_file() else 0
    try:
        header = read_header(path)
    except ControllerError as error:
        return LocalModel(name, where, "gguf", path, size, None, str(error))
    kind = header.get("general.architecture", "?")
    shape = _shape(header, (f"{kind}.block_count",), (f"{kind}.embedding_length",))
    return LocalModel(name, where, "gguf", path, size, shape)


def _folder(path: Path, where: Literal["bundled", "cache", "hub"], name: str) -> LocalModel:
    size = sum(os.stat(file).st_size for file in path.iterdir() if file.is_file())
    try:
        config = parse(read_bytes(path / "config.json", "a model's config", MOST_CONFIG), str(path / "config.json"))
    except ControllerError as error:
        return LocalModel(name, where, "transformers", path, size, None, str(error))
    config = config if isinstance(config, dict) else {}
    masked = str(config.get("model_type", "")).lower() in MASKED_KINDS
    inner = config.get("text_config")
    shape = _shape({**config, **(inner if isinstance(inner, dict) else {})}, _DEPTH, _WIDTH)
    return LocalModel(name, where, "masked" if masked else "transformers", path, size, shape)


def _shape(values: Mapping[str, Any], depths: tuple[str, ...], widths: tuple[str, ...]) -> Shape | None:
    depth, width = (next((values[name] for name in names if name in values), None) for names in (depths, widths))
    return Shape(depth, width) if isinstance(depth, int) and isinstance(width, int) else None
