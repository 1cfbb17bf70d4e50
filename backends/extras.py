"""Optional libraries: one that is missing is said in one line, with the extra that brings it."""

from __future__ import annotations

from importlib.util import find_spec

from reasonctl.controller import ControllerError

LIBRARIES = {
    "llama": ("llama_cpp", "gguf"),
    "hf": ("torch", "transformers", "accelerate", "gguf", "huggingface_hub"),
    "calibrate": ("sklearn", "joblib", "threadpoolctl", "mapie", "math_verify", "reasoning_gym", "matplotlib"),
    "grammar": ("xgrammar",),
    "dask": ("distributed", "dask"),
    "serve": ("fastapi", "uvicorn", "openai", "pydantic", "prompt_toolkit"),
    "samples": ("fastchrf", "sacrebleu"),
    "embedding": ("sentence_transformers",),
    "vllm": ("vllm", "transformers"),
}
"""What is imported, by the extra of this project that brings it."""


def require(extra: str, *libraries: str) -> None:
    """Find libraries without importing them.

    Args:
        extra: the extra that brings them.
        libraries: names as they are imported.

    Raises:
        ControllerError: one of them isn't installed.
    """
    absent = [library for library in libraries if not _installed(library)]
    if absent:
        raise ControllerError(install_line(extra, *absent))


def missing(extra: str) -> str:
    """What a user reads where a library of an extra is missing; "" where all are installed."""
    absent = [library for library in LIBRARIES[extra] if not _installed(library)]
    return install_line(extra, *absent) if absent else ""


def install_line(extra: str, *missing: str) -> str:
    """What a user reads where libraries of an extra are missing."""
    return f"{' and '.join(missing)} not installed; install with: pip install 'reasonctl[{extra}]'"


def missing_line(error: ModuleNotFoundError) -> str | None:
    """The same for an import that failed; None if no extra brings what it wanted.

    >>> missing_line(ModuleNotFoundError(name="sklearn.pipeline"))
    "sklearn not installed; install with: pip install 'reasonctl[calibrate]'"
    """
    library = (error.name or "").partition(".")[0]
    extra = next((extra for extra, libraries in LIBRARIES.items() if library in libraries), None)
    return None if extra is None else install_line(extra, library)


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:
        return False
