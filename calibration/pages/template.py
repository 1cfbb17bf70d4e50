"""Reads the templates of the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template


def page_template(name: str, **filters: Callable[..., str]) -> Template:
    """A template of this folder. Values are escaped, and a name without a value is an error.

    Args:
        name: The file's name.
        filters: What the template may call on a value.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters)
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))
