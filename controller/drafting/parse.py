"""Drafters as short texts: `ngram(8)`, `hierarchy(16, corpus=FILE)`, `sequoia(MODEL, 16)`.

`core/text_form.py` owns the grammar.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..core.errors import ControllerError
from ..core.plugins import find_plugin, plugin_names
from ..core.text_form import Arguments, call_in, shown
from .drafter import Drafter
from .hierarchy import Hierarchy
from .models.model_drafter import DraftModel, ModelDrafter
from .models.triforce import TriForce
from .ngrams import load_table
from .planning.plan import Kind
from .prompt_lookup import PromptLookup

Load = Callable[[str], DraftModel]
"""Opens the model that a text names."""

_MODEL_DRAFTS: dict[str, Kind] = {
    "model": "chain",
    "cascade": "chain",
    "sequoia": "sequoia",
    "dyspec": "dyspec",
    "dyspec_greedy": "dyspec-greedy",
}
"""How drafts branch, by the name of a drafter with a model."""
DRAFTS = ("none", "ngram", "hierarchy", "triforce", *_MODEL_DRAFTS)
"""Every drafter of ours that a text can name."""
CHAIN_SIZE = 8
"""Most tokens of a chain of a smaller model, unless the text says so."""
TREE_SIZE = 16
"""Most tokens of a tree of a smaller model, unless the text says so."""
TRIFORCE_SIZE = 6
"""Most tokens of TriForce's chains, unless the text says so."""
MOST_DIGITS = 9
"""Longest number of tokens, in digits."""
TRIFORCE_BUDGET = 1024
"""Tokens of the past that TriForce's chains are drawn with, unless the text says so."""


def parse_draft(text: str, load: Load | None = None) -> Drafter | None:
    """Make a drafter from its text; what stands in parentheses may be left out.

    - `none`
    - `ngram(8)`: n-grams of the text so far.
    - `hierarchy(48, model=FILE, corpus=FILE)`: n-grams of the text, of earlier runs and of databases.
    - `model(MODEL, 8)`: chains of a smaller model. `cascade(MODEL, 8)`: the same, with n-grams as inner drafter.
    - `sequoia(MODEL, 16)`, `dyspec(MODEL, 16)`, `dyspec_greedy(MODEL, 16)`: trees of a smaller model.
    - `triforce(6, budget=1024, model=MODEL)`: the target itself with a part of its cache.
    - `name(...)`: what a plugin's entry point of this name, in the group `reasonctl.drafters`, makes of the arguments.

    Args:
        text: The drafter.
        load: Opens MODEL; None = a text with a model is refused.

    Raises:
        ControllerError: The text is no drafter, or its model or file can't be opened.

    >>> parse_draft("ngram(4)")
    PromptLookup(longest=3, shortest=1, size=4)
    """
    name, found = call_in(text, "draft", DRAFTS, more=lambda: plugin_names("drafters"))
    arguments = found or []
    if name == "none":
        return None
    if name in _MODEL_DRAFTS:
        return _model_drafter(name, arguments, load)
    if name == "triforce":
        return _triforce(arguments, load)
    if name not in DRAFTS:
        return _plugged(name, arguments)
    if name == "ngram":
        return PromptLookup(size=_size_and_named(name, arguments, ()).size or PromptLookup.size)
    given = _size_and_named(name, arguments, ("model", "corpus"))
    tables = {key: load_table(Path(value)) for key, value in given.named.items()}
    return Hierarchy(size=given.size or Hierarchy.size, model=tables.get("model"), corpus=tables.get("corpus"))


def _model_drafter(name: str, arguments: Arguments, load: Load | None) -> ModelDrafter:
    if not arguments or arguments[0][0] is not None or not arguments[0][1]:
        raise ControllerError(f"draft {name} needs a smaller model: {name}(MODEL) or {name}(MODEL, 16)")
    size = _size_and_named(name, arguments[1:], ()).size
    kind = _MODEL_DRAFTS[name]
    model = _opened(str(arguments[0][1]), name, load)
    inner = PromptLookup() if name == "cascade" else None
    return ModelDrafter(model, kind=kind, size=size or (CHAIN_SIZE if kind == "chain" else TREE_SIZE), inner=inner)


def _triforce(arguments: Arguments, load: Load | None) -> TriForce:
    size, named = _size_and_named("triforce", arguments, ("budget", "model"))
    inner: Drafter | None = None
    if "model" in named:
        model = _opened(named["model"], "triforce", load)
        inner = ModelDrafter(model, kind="chain", size=CHAIN_SIZE, inner=PromptLookup())
    budget = _whole(named.get("budget", TRIFORCE_BUDGET), "triforce's budget")
    return TriForce(inner, size=size or TRIFORCE_SIZE, budget=budget)


def _plugged(name: str, arguments: Arguments) -> Drafter:
    """What a plugin makes of the arguments. Raises ControllerError where it takes others, or makes no drafter."""
    plugin = find_plugin("drafters", name)
    assert plugin is not None, "call_in knows the name from its plugin"
    make = plugin.load()
    places = [value for key, value in arguments if key is None]
    named = {key: value for key, value in arguments if key is not None}
    try:
        inspect.signature(make).bind(*places, **named)
    except (TypeError, ValueError) as error:
        raise ControllerError(f"draft {name} takes other arguments: {error!s:.200}; see {plugin.package}") from None
    made = plugin.guarded(lambda: make(*places, **named), "makes no drafter")
    if not isinstance(made, Drafter):
        raise plugin.refuse("a function or class that gives a Drafter")
    return made


def _opened(model: str, name: str, load: Load | None) -> DraftModel:
    if load is None:
        raise ControllerError(f"draft {name} needs a model, which can't be opened here; make the drafter yourself")
    return load(model)


class _Given(NamedTuple):
    """The arguments of `name(8, key=...)`."""

    size: int | None
    """The first argument; None = not given."""
    named: dict[str, str]
    """The others, by their names."""


def _size_and_named(name: str, arguments: Arguments, keys: tuple[str, ...]) -> _Given:
    """Read the arguments; raises ControllerError for a name that is not in `keys`."""
    size, named = None, {}
    for key, value in arguments:
        if key is None:
            size = _whole(value, "draft size")
        elif key in keys and value != "":
            named[key] = str(value)
        else:
            takes = "".join(f", {k}=..." for k in keys)
            raise ControllerError(f"draft {name} takes a size{takes}; not {key!s:.40}={shown(value)}")
    return _Given(size, named)


def _whole(value: object, what: str) -> int:
    text = str(value).removesuffix(".0")
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
        raise ControllerError(f"{what} is {shown(value)}; it must be a whole number, at least 1 and below a billion")
    return int(text)
