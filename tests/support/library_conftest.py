"""The conftest.py of llama-cpp-python's own tests: local models for its downloads; REASONCTL_ATTACH=1 attaches Llamas.

`tests/library_tests.py` copies it next to them. The tests compare texts of other models in one place, see there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import llama_cpp

from reasonctl import Controller, attach
from reasonctl.backends.load import tiny_folder
from support.gguf_models import make_gguf

HOME = Path.home() / ".cache/reasonctl/models"
MODELS: dict[str, Callable[[], Path]] = {
    "lmstudio-community/Qwen3.5-0.8B-GGUF": lambda: HOME / "qwen2.5-coder-0.5b.gguf",
    "ggml-org/models": lambda: HOME / "smollm2.gguf",
    "QuantFactory/mamba-130m-hf-GGUF": lambda: make_gguf("mamba", Path(tempfile.mkdtemp())),
    "tiiuae/Falcon-H1-Tiny-90M-Instruct-GGUF": lambda: tiny_folder().parent / "tiny_hybrid/tiny-hybrid.gguf",
}
"""By the repository that a test asks for, a model of its kind."""

Stock = llama_cpp.Llama
HANDLES: list[Any] = []


def local(repo_id: str, filename: str, **more: Any) -> str:
    """In place of huggingface_hub's download."""
    return str(MODELS[repo_id]())


class Attached(Stock):
    """A Llama that is attached where it writes text."""

    def __new__(cls, *args: Any, **named: Any) -> Any:
        llm = Stock(*args, **named)
        if not named.get("vocab_only") and not named.get("embedding"):
            HANDLES.append(attach(llm, Controller()))
        return llm


huggingface_hub.hf_hub_download = local
if os.environ.get("REASONCTL_ATTACH") == "1":
    llama_cpp.Llama = Attached


def pytest_sessionfinish() -> None:
    """Say how much of it was controlled."""
    print(f"\n{sum(one.runs for one in HANDLES)} runs of the controlled loop, {len(HANDLES)} attached Llamas")
