"""Which extra of reasonctl installs a library."""

from __future__ import annotations

LIBRARIES = {
    "llama": ("llama_cpp", "gguf"),
    "hf": ("torch", "transformers", "accelerate", "gguf"),
    "calibrate": ("sklearn", "joblib", "threadpoolctl", "mapie", "math_verify", "reasoning_gym", "matplotlib"),
    "grammar": ("xgrammar",),
    "dask": ("distributed", "dask"),
}
"""What is imported, by the extra that brings it."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """One line that names the extra of the missing library; None if no extra of ours brings it.

    >>> missing_extra(ModuleNotFoundError(name="sklearn.pipeline"))
    "this needs sklearn, which isn't installed; pip install 'reasonctl[calibrate]'"
    """
    library = (error.name or "").partition(".")[0]
    for extra, libraries in LIBRARIES.items():
        if library in libraries:
            return f"this needs {library}, which isn't installed; pip install 'reasonctl[{extra}]'"
    return None
