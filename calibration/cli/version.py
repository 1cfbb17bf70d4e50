"""`ctl --version`: what a report of a problem should name."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from .config import sources

LIBRARIES = (
    "click",
    "numpy",
    "scipy",
    "safetensors",
    "llama-cpp-python",
    "gguf",
    "torch",
    "transformers",
    "huggingface-hub",
    "scikit-learn",
    "mapie",
    "xgrammar",
    "fastapi",
)
"""Those whose version changes what a command does."""


def lines(context: click.Context) -> list[str]:
    """The versions, and the files that set defaults."""
    files = [str(source.path) for source in sources()]
    return [
        f"{context.info_name}, version {of('reasonctl')}",
        f"Python {sys.version.split()[0]}, {platform.system()} {platform.machine()}",
        *(f"{name} {of(name)}" for name in LIBRARIES),
        f"defaults from: {', '.join(files) or 'no file'}",
    ]


def of(package: str) -> str:
    """A package's version, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
