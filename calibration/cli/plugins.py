"""`ctl plugins`: what other packages add, and whether it can be loaded."""

from __future__ import annotations

from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.core import PLUGIN_KINDS, Plugin, PluginKind, installed
from reasonctl.controller.drafting import DRAFTS
from reasonctl.controller.sampling import BUILT_IN
from reasonctl.probes.signals import SIGNALS

from ..tasks.sources import OWN_TASKS
from .console import Console
from .options import Options

OWN: dict[PluginKind, frozenset[str]] = {
    "stages": BUILT_IN,
    "drafters": frozenset(DRAFTS),
    "signals": frozenset(SIGNALS),
    "graders": frozenset(),
    "tasks": frozenset(OWN_TASKS),
}
"""Names that no plugin is asked for."""


def plugins(options: Options) -> None:
    """Print every plugin with its package and its state. All of them are imported for that."""
    show = Console(as_json=options.json)
    rows = [_row(plugin) for kind in PLUGIN_KINDS for plugin in installed(kind)]
    for row in rows:
        show.say(f"{row['name']}  ({row['kind']}, {row['package']}): {row['state']}")
    if not rows:
        show.say("no package adds anything; how one does: docs/plugins.md")
    show.result({"plugins": rows})


def _row(plugin: Plugin) -> dict[str, Any]:
    state = "ok"
    if plugin.name in OWN[plugin.kind]:
        state = "never used: reasonctl has its own of this name"
    else:
        try:
            plugin.load()
        except ControllerError as error:
            state = str(error)
    return {"name": plugin.name, "kind": plugin.kind, "package": plugin.package, "state": state}
