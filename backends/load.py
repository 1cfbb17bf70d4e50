"""Which loader a MODEL argument means: a bundled model, a .gguf file, `hf:FILE.gguf`, a transformers folder or id."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Literal

from reasonctl.controller import ControllerError, Drafter, parse_draft
from reasonctl.controller.core import parse, read_bytes

from .machine import check_cores
from .masked import MaskedText
from .memory import own_memory
from .model import Model

Choice = Literal["llama.cpp", "transformers", "vllm"]

TINY = "tiny"
TINY_HYBRID = "tiny-hybrid"

BUNDLED = (TINY, TINY_HYBRID)
"""The models that come with the package, by name: a Llama, and a hybrid of short convolutions and attention."""

TINY_MASKED = "tiny-masked"
"""The bundled masked model: `tiny`, adapted to write its answer in any order."""

MASKED_KINDS = ("llada", "dream")
"""What a masked model's config.json says as its model_type; DiffuCoder's is Dream's."""

BUNDLED_PROBE = Path(str(files("reasonctl.backends.tiny_probe"))) / "tiny.probe.safetensors"
"""The probe of `tiny`; it lies apart from the weights, since other engines would read it as one of them."""


def tiny_folder(name: str = TINY) -> Path:
    """The folder of a bundled model: NAME.gguf, and the same weights for transformers."""
    return Path(str(files(__package__))) / name.replace("-", "_")


def is_masked(name: str) -> bool:
    """Whether a MODEL argument names a masked model: the bundled one, or a folder whose config.json says so."""
    file = Path(name).expanduser() / "config.json"
    if name == TINY_MASKED or not file.is_file():
        return name == TINY_MASKED
    config = parse(read_bytes(file, "a model's config"), str(file))
    return isinstance(config, dict) and str(config.get("model_type", "")).lower() in MASKED_KINDS


def load_masked(name: str, *, threads: int | None = None) -> MaskedText:
    """Load a masked model by the CLI's MODEL argument; see `is_masked`. Raises ControllerError where it can't be."""
    from .hf.masked.load import load_masked_folder

    check_cores("threads", threads)
    folder = tiny_folder(name) if name == TINY_MASKED else Path(name).expanduser()
    return load_masked_folder(name, folder, threads)


def load_model(
    name: str,
    *,
    backend: Choice | None = None,
    context: int = 0,
    threads: int | None = None,
    hidden: bool = True,
    fold_attention: bool = False,
    batch: int = 1,
    drafted: int = 0,
) -> Model:
    """Load a model by the CLI's MODEL argument.

    Args:
        name: `tiny`, `tiny-hybrid`, a .gguf file, `hf:FILE.gguf`, a transformers folder or a hub id.
        backend: only bundled models come in both formats; elsewhere the name decides, and a contradiction is an error.
        context: tokens of context of one run on llama.cpp; 0 = the model's own.
        threads: as many as `check_cores` takes; None = the library's choice.
        hidden: the engine can give hidden states (llama.cpp installs a callback for that only if asked).
        fold_attention: on transformers, as in `attach`; llama.cpp has kernels of its own.
        batch: runs that a job decodes together. On llama.cpp the context is made for so many.
        drafted: most drafted tokens a step; 0 = none. On llama.cpp, models with states make room to take them back.

    Raises:
        ControllerError: the model can't be loaded, or its library isn't installed.
    """
    check_cores("threads", threads)
    if is_masked(name):
        raise ControllerError(f"{name!r} is a masked model, and only ctl run, eval and bench take those; give another")
    if backend == "vllm":
        return _in_vllm(name, batch)
    path, before = _path(name, backend), own_memory()
    if path.endswith(".gguf") and not path.startswith("hf:"):
        from .llama.load import load_gguf

        model = load_gguf(Path(path), context=context, threads=threads, hidden=hidden, batch=batch, drafted=drafted)
    else:
        model = _in_transformers(path, threads, fold_attention, batch)
    model.engine.loaded_bytes = max(0, own_memory() - before)
    return replace(model, name=name) if name in BUNDLED else model


def _in_transformers(path: str, threads: int | None, fold_attention: bool, batch: int) -> Model:
    from .hf.load import load_transformers

    try:
        model = load_transformers(path, threads=threads, fold_attention=fold_attention)
    except ControllerError as error:
        near = [] if Path(path).expanduser().exists() else get_close_matches(path[:64], (*BUNDLED, TINY_MASKED), n=1)
        raise ControllerError(f"{error}; did you mean {near[0]}?" if near else str(error)) from error
    if batch > 1:
        model.engine.most_sessions = 2 * batch  # each run, and a trial of each
    return model


def _in_vllm(name: str, batch: int) -> Model:
    from .vllm.load import load_vllm

    return load_vllm(name, str(tiny_folder(name)) if name in BUNDLED else name, batch=batch)


def backend_of(name: str, backend: Choice | None = None) -> Choice:
    """The library that a name is run in where nobody names another; both arguments are those of `load_model`."""
    if backend is not None:
        return backend
    return "llama.cpp" if name in BUNDLED or (name.endswith(".gguf") and not name.startswith("hf:")) else "transformers"


def _path(name: str, backend: Choice | None) -> str:
    """What to load for a name. Raises ControllerError where the name means another backend."""
    if name in BUNDLED:
        folder = tiny_folder(name)
        return str(folder if backend == "transformers" else folder / f"{name}.gguf")
    wanted = backend_of(name)
    if backend not in (None, wanted):
        hint = "prefix it with hf: to run it in transformers" if wanted == "llama.cpp" else "give a .gguf file"
        raise ControllerError(f"{name!r} runs in {wanted}, not in {backend}; {hint}")
    return name


def load_drafter(text: str, *, threads: int | None = None) -> Drafter | None:
    """The drafter of `--draft`; opens the draft model where the text names one. Raises ControllerError.

    A draft model folds its attention: whatever its rounding, the target's distribution stays.
    """
    return parse_draft(text, lambda name: load_model(name, threads=threads, hidden=False, fold_attention=True))
