"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("controller", "backends", "probes", "calibration")


def modules() -> list[str]:
    names = []
    for package in PACKAGES:
        root = importlib.import_module(f"reasonctl.{package}")
        names += [f"reasonctl.{package}.{found.name}" for found in pkgutil.iter_modules(root.__path__)]
    return names


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
