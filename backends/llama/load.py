"""Loads a GGUF file as a `Model`. The file is checked first: llama.cpp itself answers with noise or an abort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from llama_cpp import Llama
from llama_cpp import llama_cpp as C
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from reasonctl.controller import ControllerError
from reasonctl.controller.core import check_cache
from reasonctl.controller.thinking import LONGEST_CUE, chosen_template

from ..gguf import read_header
from ..memory import free_memory
from ..model import Message, Model
from .engine import LlamaEngine
from .native import unlogged
from .tokenizer import LlamaTokenizer, end_tokens

LARGEST_DEFAULT_CONTEXT = 8192
"""Tokens of context where the user asks for none: a cache for a million trained tokens would not fit most machines."""
LARGEST_SHARED_CONTEXT = 32768
"""Cells that the runs of a batch share where the user asks for no context: more runs wait for room."""

_FILE_TYPES = {
    getattr(C, name): name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_")
    for name in dir(C)
    if name.startswith("LLAMA_FTYPE_")
}


def load_gguf(
    path: str | Path,
    *,
    context: int = 0,
    threads: int | None = None,
    hidden: bool = True,
    batch: int = 1,
    drafted: int = 0,
) -> Model:
    """Open a .gguf file with llama.cpp.

    Args:
        path: the file.
        context: tokens of context of one run; 0 = the model's own, at most LARGEST_DEFAULT_CONTEXT.
        threads: None = the library's choice.
        hidden: the engine can give hidden states.
        batch: runs that share a forward. Without a `context` they share LARGEST_SHARED_CONTEXT cells at most.
        drafted: most drafted tokens a step, as `LlamaEngine` takes it.

    Raises:
        ControllerError: the file is no whole GGUF model, or llama.cpp can't load it.
    """
    path = Path(path)
    header = read_header(path)
    room = _room(header, context, batch)
    if batch > 1:
        what = f"a batch of {batch} runs, with {room.cells} cells that they share, may"
        check_cache(room.cells * _cell_bytes(header), free_memory(), what)
    llm = _opened(path, str(header.get("general.architecture", "?")), room.cells, threads)
    with unlogged():
        engine = LlamaEngine(llm, hidden=hidden, batch=batch, drafted=drafted)
        engine.longest = min(room.run, engine.room)  # the runs of a batch share more cells
    model = wrap_llama(path.name, llm, engine, LlamaTokenizer(llm))
    return model if batch == 1 else replace(model, context=room.run)


def load_vocabulary(path: Path) -> LlamaTokenizer:
    """The tokenizer of a .gguf file, without its weights.

    Raises:
        ControllerError: the file is no whole GGUF model, or llama.cpp can't read its vocabulary.
    """
    read_header(path)
    try:
        with unlogged():
            return LlamaTokenizer(Llama(str(path), vocab_only=True, verbose=False))
    except (ValueError, TemplateError) as error:
        raise ControllerError(f"llama.cpp can't read the vocabulary of {path}: {str(error):.200}") from None


def _opened(path: Path, architecture: str, cells: int, threads: int | None) -> Llama:
    """The Llama; raises ControllerError where llama.cpp can't load it."""
    try:
        with without_amx(), unlogged():
            return Llama(str(path), n_ctx=cells, n_threads=threads, n_threads_batch=threads, verbose=False)
    except TemplateError as error:  # a Llama compiles the file's chat templates
        raise ControllerError(
            f"{path} has a chat template that can't be read: {str(error):.200}; download it again"
        ) from None
    except ValueError as error:
        raise ControllerError(
            f"llama.cpp can't load {path} (architecture {architecture!r}, {cells} tokens of context): {error}"
        ) from None


class _Room(NamedTuple):
    """Tokens of context."""

    run: int
    """Of one run."""
    cells: int
    """Of all runs of a batch."""


def _room(header: Mapping[str, Any], context: int, batch: int) -> _Room:
    """The context to ask for; raises ControllerError for an impossible one."""
    if context < 0:
        raise ControllerError(f"context is {context}; it must be 0 (the model's own) or more")
    architecture = header.get("general.architecture", "?")
    trained = int(header.get(f"{architecture}.context_length", 0)) or LARGEST_DEFAULT_CONTEXT
    # llama.cpp rounds contexts up to 256s, and llama-cpp-python's own arrays are as long as what is asked for.
    run = _rounded(context or min(trained, LARGEST_DEFAULT_CONTEXT))
    if batch == 1:
        return _Room(run, run)
    cells = _rounded(batch * (run + LONGEST_CUE))
    return _Room(run, cells if context else max(run, min(cells, LARGEST_SHARED_CONTEXT)))


def _cell_bytes(header: Mapping[str, Any]) -> int:
    """Bytes of keys and values of one token in float16; 0 where the header doesn't say."""
    architecture = header.get("general.architecture", "?")

    def number(name: str, default: int = 0) -> int:
        found = header.get(f"{architecture}.{name}", default)
        return found if isinstance(found, int) else default

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key, value = (number(f"attention.{name}_length", width) for name in ("key", "value"))
    return 2 * number("block_count") * number("attention.head_count_kv", heads) * (key + value)


def _rounded(tokens: int) -> int:
    return (tokens + 255) // 256 * 256


def wrap_llama(name: str, llm: Llama, engine: LlamaEngine, tokenizer: LlamaTokenizer) -> Model:
    """A loaded Llama under its engine as a `Model`."""
    session = engine.session()
    session.close()
    template = chosen_template(templates_of(llm))
    file_type = int(llm.metadata.get("general.file_type", -1))
    # -1 lets llama.cpp decide by the devices that the model is on.
    flash = {0: "off", 1: "on"}.get(int(llm.context_params.flash_attn_type), "auto")
    return Model(
        name=name,
        backend="llama.cpp",
        library=llm,
        engine=engine,
        tokenizer=tokenizer,
        eos=end_tokens(llm),
        depth=engine.context.depth,
        width=int(C.llama_model_n_embd(llm.model)),
        context=engine.context.size,
        template=template,
        settings={"quantisation": _FILE_TYPES.get(file_type, "unknown"), "flash_attention": flash},
        prompt=_prompter(llm, tokenizer, template),
        can=session.can,
        start=_beginning(llm),
        parameters=int(C.llama_model_n_params(llm.model)),
        chat=None if template is None else _conversation(llm, template),
        special=_special(llm),
    )


def templates_of(llm: Llama) -> dict[str, str]:
    """The chat templates in a model's file, by name: "default", and others that calls may name."""
    prefix, metadata = "tokenizer.chat_template", llm.metadata
    named = {name.removeprefix(f"{prefix}."): text for name, text in metadata.items() if name.startswith(f"{prefix}.")}
    return {**named, "default": metadata[prefix]} if prefix in metadata else named


def _beginning(llm: Llama) -> tuple[int, ...]:
    """BOS, where the model wants one before a text."""
    return (llm.token_bos(),) if llm._model.add_bos_token() and llm.token_bos() >= 0 else ()


def _prompter(llm: Llama, tokenizer: LlamaTokenizer, template: str | None) -> Callable[[str], list[int]]:
    """A function from a question to a prompt's tokens."""
    if template is None:
        return lambda question: [*_beginning(llm), *tokenizer.encode(question)]
    chat = _chatter(llm, template)
    return lambda question: chat([Message("user", question)])


def _chatter(llm: Llama, template: str) -> Callable[[Sequence[Message]], list[int]]:
    """A function from a conversation to a prompt's tokens."""
    formatter = Jinja2ChatFormatter(template=template, **_special(llm), add_generation_prompt=True)

    def prompt(messages: Sequence[Message]) -> list[int]:
        text = formatter(messages=[message._asdict() for message in messages]).prompt
        # The template writes its own BOS.
        tokens: list[int] = llm.tokenize(text.encode("utf-8"), add_bos=False, special=True)
        return tokens

    return prompt


def _special(llm: Llama) -> dict[str, str]:
    """The texts of the tokens that a template may name."""
    tokens = {"bos_token": llm.token_bos(), "eos_token": llm.token_eos()}
    return {name: llm._model.token_get_text(token) if token >= 0 else "" for name, token in tokens.items()}


def _conversation(llm: Llama, template: str) -> Callable[[Sequence[Message]], list[int] | None]:
    """As `_chatter`; None where the template refuses the conversation."""
    chat = _chatter(llm, template)

    def prompt(messages: Sequence[Message]) -> list[int] | None:
        try:
            return chat(messages)
        except (TemplateError, ValueError, TypeError):  # raise_exception(), and what no template catches
            return None

    return prompt


@contextmanager
def without_amx() -> Iterator[None]:
    """Load Llamas without AMX kernels, which crash on quantised batches (ggml-org/llama.cpp#20824).

    Llama has no argument for it, so its default parameters are changed inside this block.
    """
    if b"AMX_INT8 = 1" not in C.llama_print_system_info():
        yield
        return
    defaults = C.llama_model_default_params

    def params() -> Any:
        made = defaults()
        made.use_extra_bufts = False
        return made

    C.llama_model_default_params = params
    try:
        yield
    finally:
        C.llama_model_default_params = defaults
