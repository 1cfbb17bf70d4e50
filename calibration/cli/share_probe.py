"""`ctl probe`: packs a probe with its card, shows one, and says whether a model is the one it was made for."""

from __future__ import annotations

from pathlib import Path

from reasonctl.probes.files import check_model, find_probe, load_probe

from ..pages.probe_card import markdown, pack
from .console import Console
from .options import Options
from .recipes import open_model


def pack_probe(probe: str, options: Options, *, out: str) -> None:
    """Write a folder that can be shared. out: the folder."""
    show = Console(as_json=options.json)
    written = pack(load_probe(find_probe(probe)), Path(out), force=options.force)
    show.say(f"written: {', '.join(map(str, written))}; share it with: hf upload OWNER/NAME {out}")
    show.result({"out": out, "files": [path.name for path in written]})


def show_probe(probe: str, options: Options) -> None:
    """Print the card in Markdown."""
    show = Console(as_json=options.json)
    content = load_probe(find_probe(probe))
    show.say(markdown(content))
    show.result({"card": content.card.to_dict()})


def fit_check(model: str, probe: str, options: Options) -> None:
    """Compare a model with a probe's card. Raises ControllerError for another model than the probe's."""
    show = Console(as_json=options.json)
    card = load_probe(find_probe(probe)).card
    warnings = check_model(card, open_model(model, options))
    for warning in warnings:
        show.say(f"warning: {warning}", "yellow")
    said = "differs slightly from" if warnings else "is"
    show.say(f"{model} {said} the model that the probe was fitted on", "bold")
    show.result({"fits": True, "warnings": warnings})
