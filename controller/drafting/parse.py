"""Drafters as short texts: `ngram(8)`, `hierarchy(16, corpus=FILE)`, `sequoia(MODEL, 16)`; the grammar is text.py's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.errors import ControllerError
from ..core.text_form import Arguments, call_in
from .drafter import Drafter
from .hierarchy import Hierarchy
from .models.model_drafter import DraftModel, ModelDrafter
from .models.triforce import TriForce
from .ngrams import load_table
from .planning.plan import Kind
from .prompt_lookup import PromptLookup

Load = Callable[[str], DraftModel]

_MODEL_DRAFTS: dict[str, Kind] = {
    "model": "chain",
    "cascade": "chain",
    "sequoia": "sequoia",
    "dyspec": "dyspec",
    "dyspec_greedy": "dyspec-greedy",
}
_DRAFTS = ("none", "ngram", "hierarchy", "triforce", *_MODEL_DRAFTS)


def parse_draft(text: str, load: Load | None = None) -> Drafter | None:
    """`none`, `ngram(8)`, `hierarchy(48, model=FILE, corpus=FILE)`; what stands in parentheses may be left out.

    With a smaller model: `model(MODEL, 8)` drafts chains, `cascade(MODEL, 8)` chains that n-grams draft for,
    `sequoia(MODEL, 16)`, `dyspec(MODEL, 16)` and
    `dyspec_greedy(MODEL, 16)` trees; `triforce(6, budget=1024, model=MODEL)` drafts with the model's
    own sparse cache. `load` opens MODEL.

    >>> parse_draft("ngram(4)")
    PromptLookup(longest=3, shortest=1, size=4)
    """
    name, given = call_in(text, "draft", _DRAFTS)
    arguments = given or []
    if name == "none":
        return None
    if name in _MODEL_DRAFTS:
        return _model_drafter(name, arguments, load)
    if name == "triforce":
        return _triforce(arguments, load)
    size, files = _size_and_named(name, arguments, ("model", "corpus") if name == "hierarchy" else ())
    if name == "ngram":
        return PromptLookup(size=size or PromptLookup.size)
    tables = {key: load_table(Path(value)) for key, value in files.items()}
    return Hierarchy(size=size or Hierarchy.size, model=tables.get("model"), corpus=tables.get("corpus"))


def _model_drafter(name: str, arguments: Arguments, load: Load | None) -> ModelDrafter:
    if not arguments or arguments[0][0] is not None or not arguments[0][1]:
        raise ControllerError(f"draft {name} needs a smaller model: {name}(MODEL) or {name}(MODEL, 16)")
    size, _ = _size_and_named(name, arguments[1:], ())
    kind = _MODEL_DRAFTS[name]
    inner = PromptLookup() if name == "cascade" else None
    model = _opened(str(arguments[0][1]), name, load)
    return ModelDrafter(model, kind=kind, size=size or (8 if kind == "chain" else 16), inner=inner)


def _triforce(arguments: Arguments, load: Load | None) -> TriForce:
    size, named = _size_and_named("triforce", arguments, ("budget", "model"))
    inner: Drafter | None = None
    if "model" in named:
        inner = ModelDrafter(_opened(named["model"], "triforce", load), kind="chain", size=8, inner=PromptLookup())
    return TriForce(inner, size=size or 6, budget=_whole(named.get("budget", 1024), "triforce's budget"))


def _opened(model: str, name: str, load: Load | None) -> DraftModel:
    if load is None:
        raise ControllerError(f"draft {name} needs a model, which can't be opened here; make the drafter yourself")
    return load(model)


def _size_and_named(name: str, arguments: Arguments, keys: tuple[str, ...]) -> tuple[int | None, dict[str, str]]:
    """(size, named values) of `name(8, key=...)`."""
    size, named = None, {}
    for key, value in arguments:
        if key is None:
            size = _whole(value, "draft size")
        elif key in keys and value != "":
            named[key] = str(value)
        else:
            takes = "".join(f", {k}=..." for k in keys)
            raise ControllerError(f"draft {name} takes a size{takes}; not {key}={value}")
    return size, named


def _whole(value: object, what: str) -> int:
    text = str(value).removesuffix(".0")
    if not text.isdecimal() or int(text) < 1:
        raise ControllerError(f"{what} is {value}; it must be a whole number, at least 1")
    return int(text)
