"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
PACKAGES = ("controller", "backends", "probes", "calibration")
IN_VLLM = {"reasonctl.backends.vllm.captured", "reasonctl.backends.vllm.processor", "reasonctl.backends.vllm.worker"}
"""They are vLLM's own subclasses, which only its environment can import, and have no examples."""


def modules() -> list[str]:
    names = []
    for package in PACKAGES:
        root = importlib.import_module(f"reasonctl.{package}")
        names += [root.__name__, *(found.name for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."))]
    return names


@pytest.mark.parametrize("name", [name for name in modules() if name not in IN_VLLM])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_module_is_seen() -> None:
    files = {
        "reasonctl." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert set(modules()) == files
