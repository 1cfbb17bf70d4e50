"""The product's own source: modules, what they import, their functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
PACKAGES = ("controller", "backends", "probes", "calibration")
OURS = "reasonctl"


@dataclass(frozen=True)
class Import:
    """One name that a module imports, wherever in it: at the top, in a function, or for type checkers only."""

    name: str
    """Dotted and absolute."""
    relative: bool
    """Whether it is written with leading dots."""


@dataclass(frozen=True)
class Module:
    """A file of the product."""

    name: str
    """Dotted, without `reasonctl`; a package has the name of its folder."""
    text: str
    """Its source."""
    is_package: bool = False
    """Whether it is an `__init__.py`."""

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.text)

    @property
    def file(self) -> str:
        """Its path in the repository."""
        return self.name.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Everything imported; `from a import b` gives a.b, for b may be a module."""
        return tuple(self._imported())

    def _imported(self) -> Iterator[Import]:
        here = [OURS, *self.name.split(".")]
        package = here if self.is_package else here[:-1]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, False) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from (Import(f"{base}.{alias.name}", node.level > 0) for alias in node.names)

    def functions(self) -> Iterator[tuple[str, int]]:
        """(name, lines) of every function and method, decorators apart."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@cache
def modules() -> dict[str, Module]:
    """Every file of the product, by its dotted name. They are read and parsed once."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found[name] = Module(name, path.read_text(encoding="utf-8"), is_package)
    return found


def ours(imported: Import, known: Mapping[str, Module]) -> str | None:
    """The module of ours that an import reads; None if it reads another library."""
    if not imported.name.startswith(f"{OURS}."):
        return None
    name = imported.name.removeprefix(f"{OURS}.")
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, by way of others or not; a module that imports itself is one.

    Tarjan's strongly connected components.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1 or name in edges.get(name, ()):
                found.append(group)

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return found
