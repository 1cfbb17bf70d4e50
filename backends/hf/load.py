"""Loads a transformers model as a `Model`: a local folder, a hub id, or a GGUF file dequantised."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub import constants
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from reasonctl.controller import ControllerError
from reasonctl.controller.thinking import chosen_template

from ..extras import require
from ..gguf import read_header
from ..model import Message, Model
from .engine import HFEngine
from .tokenizer import HFTokenizer

BROKEN = (OSError, ValueError, KeyError, IndexError, RuntimeError, ImportError, SafetensorError, struct.error)
"""What transformers raises for files that are missing, truncated or of an unknown kind."""

HUB_SECONDS = 5.0
"""After so long without an answer the hub counts as out of reach."""


def load_transformers(
    name: str,
    *,
    gguf_file: str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    fold_attention: bool = False,
) -> Model:
    """Load a model and its tokenizer.

    Args:
        name: a local folder, a hub id, or `hf:FILE.gguf`.
        gguf_file: a file in that folder.
        dtype: None keeps the checkpoint's.
        threads: of all of torch; None leaves them as they are.
        fold_attention: as in `attach`.

    Raises:
        ControllerError: there is no readable model.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    source = name
    if name.startswith("hf:"):
        file = Path(name[3:]).expanduser()
        source, gguf_file = str(file.parent), file.name
    header = _check_files(name, Path(source).expanduser(), gguf_file)
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    tokenizer, library = _read(name, source, dtype, options)
    if gguf_file:
        name = f"hf:{Path(source) / gguf_file}"
        # transformers doesn't read a GGUF's chat template.
        tokenizer.chat_template = tokenizer.chat_template or header.get("tokenizer.chat_template")
    engine = HFEngine(library, fold_attention, longest=_context(library))
    return wrap_transformers(name, library, tokenizer, engine, gguf=gguf_file is not None)


def _read(name: str, source: str, dtype: torch.dtype | None, options: dict[str, Any]) -> tuple[Any, Any]:
    """The library's tokenizer and model. Raises ControllerError where it can't read them."""
    offline = not Path(source).expanduser().is_dir() and not hub_answers()
    if offline:
        options["local_files_only"] = True  # or every file is asked for again and again, for a minute
    # What goes wrong is said in one line below, not in the library's log.
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        return tokenizer, AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto", **options).eval()
    except Exception as error:
        # The tokenizers library raises bare Exceptions; whatever isn't one of these kinds is a defect and stays loud.
        if not isinstance(error, BROKEN) and type(error) is not Exception:
            raise
        raise ControllerError(_why(name, error, offline)) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path) -> HFTokenizer:
    """The tokenizer in a model's folder, without the weights. Raises ControllerError where it can't be read."""
    try:
        return HFTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except BROKEN as error:
        raise ControllerError(_why(str(folder), error, offline=False)) from error


def _why(name: str, error: Exception, offline: bool) -> str:
    """What went wrong in one line."""
    if offline:
        return (
            f"there is no folder {name!r}, and without the network no model of that name but a cached one; "
            "ctl models lists those that are here, or download it elsewhere and give its folder's path"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"can't load {name!r} with transformers: {reason}"


def hub_answers() -> bool:
    """Whether the hub can be reached: over a proxy it is for transformers to say."""
    if constants.HF_HUB_OFFLINE:
        return False
    if "https" in getproxies():
        return True
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=HUB_SECONDS).close()
    except OSError:
        return False
    return True


def wrap_transformers(
    name: str, library: Any, tokenizer: Any, engine: HFEngine | None = None, *, gguf: bool = False
) -> Model:
    """A loaded transformers model and its tokenizer as a `Model`; engine: what runs it, None for a new one."""
    engine = engine or HFEngine(library, longest=_context(library))
    config = library.config.get_text_config(decoder=True)
    return Model(
        name=name,
        backend="transformers",
        library=library,
        engine=engine,
        tokenizer=HFTokenizer(tokenizer),
        eos=_eos(library, tokenizer),
        depth=engine.can.layers or int(config.num_hidden_layers),
        width=int(config.hidden_size),
        context=_context(library),
        template=chosen_template(templates_of(tokenizer)),
        settings={
            "dtype": str(library.dtype).removeprefix("torch."),
            "attention": str(getattr(library.config, "_attn_implementation", None)),
            "format": _format(library, gguf),
        },
        prompt=lambda question: _prompt(tokenizer, question),
        can=engine.can,
        start=tuple(token for token in tokenizer.encode("") if token == tokenizer.bos_token_id),
        parameters=int(library.num_parameters()),
        chat=partial(_conversation, tokenizer) if tokenizer.chat_template else None,
        special={name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)},
    )


def _context(library: Any) -> int:
    """Most tokens of a sequence, as the model's configuration says."""
    config = library.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def templates_of(tokenizer: Any) -> str | dict[str, str] | None:
    """The tokenizer's chat template, or several by name; None if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str | dict) else None


def _check_files(name: str, folder: Path, gguf_file: str | None) -> dict[str, Any]:
    """The header of a local GGUF file, else {}. Raises ControllerError for what is visibly no model."""
    local = name.startswith(("hf:", "/", "./", "../", "~")) or folder.exists()
    if local and not folder.is_dir():
        raise ControllerError(f"there is no folder {str(folder)!r}; give a transformers folder or a hub id")
    if local and gguf_file is not None:
        require("hf", "gguf")
        return read_header(folder / gguf_file)
    if local and not (folder / "config.json").is_file():
        raise ControllerError(f"{str(folder)!r} holds no config.json; give a folder that save_pretrained wrote")
    return {}


def _eos(library: Any, tokenizer: Any) -> frozenset[int]:
    eos = library.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])


def _format(library: Any, gguf: bool) -> str:
    if gguf:
        return "gguf, dequantised"
    quantisation = getattr(library.config, "quantization_config", None)
    if quantisation is None:
        return "safetensors"
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation.quant_method
    return str(getattr(method, "value", method))


def _prompt(tokenizer: Any, question: str) -> list[int]:
    if not tokenizer.chat_template:
        return [int(token) for token in tokenizer.encode(question)]
    return _rendered(tokenizer, [Message("user", question)])


def _conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int] | None:
    """A prompt's tokens; None where the template refuses the conversation."""
    try:
        return _rendered(tokenizer, messages)
    except (TemplateError, ValueError, TypeError):  # raise_exception(), and what no template catches
        return None


def _rendered(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    asked = [message._asdict() for message in messages]
    tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in tokens]
