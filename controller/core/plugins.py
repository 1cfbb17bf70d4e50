"""Parts of other packages, by name: entry points add stages, drafters, signals, graders and tasks.

A plugin is imported when its name is first used. So a broken one is an error for those who name it, and for nobody
else. No plugin is asked for a name of reasonctl's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, Literal, TypeVar, get_args

from .errors import ControllerError

PluginKind = Literal["stages", "drafters", "signals", "graders", "tasks"]
PLUGIN_KINDS: tuple[PluginKind, ...] = get_args(PluginKind)
"""What a plugin can add. The entry points of a kind are in the group `reasonctl.KIND`."""

T = TypeVar("T")

_UNREADABLE = (OSError, ValueError, TypeError)
"""What importlib.metadata raises for a package whose entry_points.txt is damaged."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of an installed package. Nothing of it is imported yet."""

    kind: PluginKind
    """What it adds."""
    name: str
    """How a user names it."""
    package: str
    """The package that brings it, with its version."""
    point: EntryPoint
    """Where it is: `module:attribute`."""

    @property
    def title(self) -> str:
        """How an error names it."""
        return f"the plugin {self.name!r} ({self.kind}) of {self.package}"

    def load(self) -> Any:
        """Import what the entry point names.

        Raises:
            ControllerError: It can't be imported, whatever its module raises.
        """
        return self.guarded(self.point.load, "can't be loaded")

    def guarded(self, call: Callable[[], T], fails: str) -> T:
        """What a call of foreign code gives.

        Args:
            call: The call.
            fails: What is said of the plugin if the call raises.

        Raises:
            ControllerError: The call raised. Its own ControllerErrors pass as they are.
        """
        try:
            return call()
        except ControllerError:
            raise
        except (Exception, SystemExit) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ControllerError(f"{self.title} {fails} ({said:.200}); update or uninstall {self.package}") from error

    def refuse(self, wanted: str) -> ControllerError:
        """The error for a plugin that loads as something else than what its kind must be."""
        return ControllerError(f"{self.title} must be {wanted}; {self.point.value!r} isn't: update or uninstall it")


def installed(kind: PluginKind) -> Iterator[Plugin]:
    """All plugins of a kind, whether or not they can be loaded."""
    seen = set()
    for package in distributions():
        points = _points(package, kind)
        if not points:
            continue
        name = package.metadata["Name"]
        if name in seen:
            continue  # another copy, further down the path
        seen.add(name)
        for point in points:
            yield Plugin(kind, point.name, f"{name} {package.version}", point)


def plugin_names(kind: PluginKind) -> tuple[str, ...]:
    """The names of all plugins of a kind, sorted."""
    return tuple(sorted({plugin.name for plugin in installed(kind)}))


def find_plugin(kind: PluginKind, name: str) -> Plugin | None:
    """The plugin of a name; None if no package brings one.

    Raises:
        ControllerError: Several packages do.
    """
    found = [plugin for plugin in installed(kind) if plugin.name == name]
    if len(found) > 1:
        packages = " and ".join(plugin.package for plugin in found)
        raise ControllerError(f"{packages} both bring {name!r} ({kind}); uninstall one of them")
    return found[0] if found else None


def _points(package: Distribution, kind: PluginKind) -> list[EntryPoint]:
    """A package's entry points of a kind; none where its list of them is damaged."""
    try:
        return list(package.entry_points.select(group=f"reasonctl.{kind}"))
    except _UNREADABLE:
        return []
