"""One call of a library made twice, in stock and attached: what is compared, and the words for how it came out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from reasonctl.controller import ControllerError

_IDS = re.compile(r"(cmpl-)[0-9a-f-]{36}")
_NEW_EACH_TIME = ("id", "created", "x-request-id")


class Case(NamedTuple):
    """One call."""

    name: str
    call: Callable[[Any], Any]
    """Makes the call on what the table's `open` gives, and returns everything that is to be compared."""
    opening: Mapping[str, Any] = {}
    """How the model is opened."""
    random: bool = False
    """It draws, and an attached model draws other tokens with the same seed: only the answer's form is compared."""
    runs: bool = True
    """The attached call is a run of ours, so that the handle's counter moves."""


class Outcome(NamedTuple):
    """How one call came out."""

    result: str
    """A word of `RESULTS`."""
    why: str = ""


RESULTS = {
    "equal": "the same answer: each value, chunk and tensor",
    "drawn": "a random call: the same form; other tokens, as an attached model draws by keys of its own",
    "fails": "the library itself fails; the attached call fails in the same way, or in one line of ours",
    "refused": "refused in one line that names the argument",
    "different": "another answer",
    "crash": "an error that isn't the library's own",
}


class CantCompare(BaseException):
    """A result of a kind that `plain` doesn't know: the test is at fault, and no call's failure."""


class Failed(NamedTuple):
    """An error in a call's place."""

    error: str
    ours: bool


def made(call: Callable[[Any], Any], model: Any) -> Any:
    """What a call gives, or the error that it raises."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return plain(call(model))
        except Exception as error:  # noqa: BLE001  whatever either raises is what is compared
            text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return Failed(text, isinstance(error, ControllerError))


def compared(stock: Any, ours: Any, case: Case, runs: int) -> Outcome:
    """The outcome of one call, of its two results and the runs that the attached one made."""
    if isinstance(ours, Failed):
        if isinstance(stock, Failed) and ours.error == stock.error:
            return Outcome("fails", stock.error[:110])
        if isinstance(stock, Failed) and ours.ours:
            return Outcome("fails", f"{stock.error[:60]}; here: {ours.error[:90]}")
        return Outcome("refused" if ours.ours else "crash", ours.error[:160])
    if isinstance(stock, Failed):
        return Outcome("different", f"only stock fails: {stock.error[:100]}")
    if case.runs and runs == 0:
        return Outcome("different", "our loop wasn't run")
    if case.random:
        stock, ours = form(stock), form(ours)
    where = difference(stock, ours)
    return Outcome("different", where) if where else Outcome("drawn" if case.random else "equal")


def plain(value: Any) -> Any:
    """A result as dictionaries, lists, tensors and plain values, without what differs between two stock calls."""
    if isinstance(value, str):
        return _IDS.sub(r"\1", value)
    if isinstance(value, torch.Tensor | np.ndarray | np.generic | bytes | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items() if name not in _NEW_EACH_TIME}
    if hasattr(value, "layers"):  # a cache
        return [{part: getattr(layer, part, None) for part in ("keys", "values")} for layer in value.layers]
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    raise CantCompare(f"can't compare a {type(value).__name__}")


def form(value: Any) -> Any:
    """The keys and types of a result; of a list, which forms there are in it."""
    if isinstance(value, dict):
        return {name: form(one) for name, one in value.items()}
    if isinstance(value, list):
        return sorted({repr(form(one)) for one in value})
    return type(value).__name__


def difference(a: Any, b: Any, where: str = "answer") -> str:
    """The first place where two results differ; "" where nowhere."""
    if type(a) is not type(b):
        return f"{where} is a {type(a).__name__} in stock and a {type(b).__name__} here"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where} has the keys {sorted(map(str, a.keys() ^ b.keys()))} in one of both"
        found = (difference(a[name], b[name], f"{where}.{name}") for name in a)
        return next(filter(None, found), "")
    if isinstance(a, list):
        if len(a) != len(b):
            return f"{where} has {len(a)} parts in stock and {len(b)} here"
        found = (difference(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(a, b, strict=True)))
        return next(filter(None, found), "")
    if isinstance(a, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return "" if same else f"{where}: tensors of {tuple(a.shape)} and {tuple(b.shape)} differ{_by(a, b)}"
    if isinstance(a, np.ndarray):
        return "" if np.array_equal(a, b, equal_nan=a.dtype.kind == "f") else f"{where}: arrays differ"
    return "" if a == b or (a != a and b != b) else f"{where} is {a!r:.60} in stock and {b!r:.60} here"


def _by(a: torch.Tensor, b: torch.Tensor) -> str:
    if a.shape != b.shape or not a.dtype.is_floating_point:
        return ""
    return f" by {float((a - b).abs().nan_to_num().max()):.2g}"
