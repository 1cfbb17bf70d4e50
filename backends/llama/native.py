"""llama.cpp's native side: the rebuilt context, raw batches, rows of logits, and block outputs.

Every ctypes structure that must outlive a call is kept here. Sessions are unknown here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import Llama, _internals
from llama_cpp import llama_cpp as C

from reasonctl.controller import ControllerError, Draft
from reasonctl.controller.core import UNLIMITED, Floats

from .cache_kind import MOST_SEQUENCES, CacheKind, most_rows

MOST_VIEWS = 64
"""Views of logit rows that are kept; making one costs more than finding it."""


_DROPPED = C.llama_log_callback(lambda level, text, data: None)
"""A log that nobody reads; it must outlive every call that may write to it."""


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep llama.cpp's log off stderr, such as its warning that the runs of a batch need a larger context than one.

    llama-cpp-python numbers the levels of the log one too low, so it prints warnings as errors even where it is to be
    silent. What goes wrong is raised.
    """
    callback, data = C.llama_log_callback(), ctypes.c_void_p()
    C.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    C.llama_log_set(_DROPPED, ctypes.c_void_p())
    try:
        yield
    finally:
        C.llama_log_set(callback, data)


def rebuild(llm: Llama, **changes: Any) -> None:
    """Replace the Llama's context by one with its own parameters and these changes; its cache is empty then.

    Raises:
        ControllerError: llama.cpp can't make it. The Llama then has a context with its own parameters, if it can.
    """
    params = type(llm.context_params).from_buffer_copy(llm.context_params)
    for name, value in changes.items():
        setattr(params, name, value)  # a callback is kept alive by the structure, which the context keeps
    llm._ctx.close()
    _forget(llm._model._exit_stack, llm._ctx)
    try:
        with nullcontext() if llm.verbose else unlogged():
            llm._ctx = _internals.LlamaContext(model=llm._model, params=params, verbose=llm.verbose)
    except ValueError:
        if not changes:
            raise ControllerError(f"llama.cpp can't make a context of {params.n_ctx} tokens; lower n_ctx") from None
        rebuild(llm)
        raise ControllerError(f"llama.cpp can't rebuild the context of {params.n_ctx} tokens; lower n_ctx") from None
    llm.n_tokens = 0
    llm._requires_eval = True
    if llm._lora_adapter is not None:
        adapters = (C.llama_adapter_lora_p_ctypes * 1)(llm._lora_adapter)
        if C.llama_set_adapters_lora(llm.ctx, adapters, 1, (ctypes.c_float * 1)(llm.lora_scale)):
            raise ControllerError(f"llama.cpp can't apply the LoRA {llm.lora_path!r} to the new context; detach")


def _forget(stack: Any, context: _internals.LlamaContext) -> None:
    """Take a closed context off its model's exit stack, which would keep it for as long as the model lives."""
    callbacks = stack._exit_callbacks
    kept = [entry for entry in callbacks if getattr(entry[1], "__wrapped__", None) != context.close]
    callbacks.clear()
    callbacks.extend(kept)


class Context:
    """A user's Llama with its context rebuilt for sessions, and the facts of that context."""

    def __init__(self, llm: Llama, batch: int, checkpoints: bool, drafted: int, eval_callback: Any = None) -> None:
        """Rebuild the context; `close` gives the original one back.

        Args:
            llm: the user's Llama.
            batch: runs at a time.
            checkpoints: there are sequence ids for checkpoints, where the cache needs them.
            drafted: most drafted tokens a step.
            eval_callback: llama.cpp's cb_eval, or None: a callback slows every decode down.
        """
        model = llm.model
        self.llm = llm
        self.cache = CacheKind.of(llm)
        """What it keeps of a sequence."""
        wanted = self.cache.sequence_ids(batch, checkpoints)
        self.sequences = min(wanted, most_rows(llm), MOST_SEQUENCES)
        """Sequence ids; llama.cpp aborts the process with more than n_batch."""
        self.fixed = self._fixed(wanted, checkpoints)
        """Why tokens can't be taken back; "" where they can."""
        self.ids_each = 1 if self.cache.whole or self.fixed else 2
        """Sequence ids of a session: its own, and its checkpoint's."""
        rebuild(llm, **self._changes(drafted, eval_callback))
        self.owner = llm._ctx
        """The library's object for the context."""
        self.address = llm.ctx
        self.memory = C.llama_get_memory(llm.ctx)
        self.size = int(C.llama_n_ctx(llm.ctx))
        """Cells of the cache, shared by all sequences."""
        self.batch = int(C.llama_n_batch(llm.ctx))
        """Most rows of one llama_decode."""
        self.ubatch = int(C.llama_n_ubatch(llm.ctx))
        """Most rows that its graph computes at once."""
        self.past_states = int(C.llama_n_rs_seq(llm.ctx))
        """States of each sequence besides the last one, those after the tokens before: so many can be cut off."""
        self.vocabulary = int(llm.n_vocab())
        self.logits_all = bool(llm._logits_all)
        """The Llama was built with logits_all=True: its `scores` have a row for every token in its cache."""
        self.depth = int(C.llama_model_n_layer(model))

    def _fixed(self, wanted: int, checkpoints: bool) -> str:
        if self.cache.whole:
            return ""
        kind = "is recurrent" if self.cache.recurrent else "has windows that forget"
        if self.cache.recurrent and self.cache.window:
            return "this model's cache has recurrent states and windows that forget; load it with swa_full=True"
        if not checkpoints:
            return f"this model's cache {kind}, and its engine was opened without checkpoints"
        if self.sequences < wanted:
            return (
                f"this model's cache {kind} and its checkpoints need {wanted} sequences, which n_batch="
                f"{self.sequences} doesn't allow; load it with n_batch={wanted} or more"
            )
        return ""

    def _changes(self, drafted: int, eval_callback: Any) -> dict[str, Any]:
        """What the rebuilt context has of its own."""
        changes = {"n_seq_max": self.sequences, "kv_unified": True, "n_batch": most_rows(self.llm)}
        if not self.fixed and (cuts := self.cache.cuts(self.llm, drafted, self.sequences)):
            changes["n_rs_seq"] = cuts
        return changes if eval_callback is None else changes | {"cb_eval": eval_callback}

    @property
    def most_cut(self) -> int:
        """Most tokens of a draft that can be cut off, and nothing is fed again."""
        if self.cache.recurrent:
            return self.past_states
        # A window's cells are overwritten when later tokens need them.
        return self.ubatch - 1 if self.cache.window else UNLIMITED

    @property
    def open(self) -> bool:
        """False once the context is gone: closed, rebuilt by another engine, or closed by the user."""
        return self.llm._ctx is self.owner and self.owner.ctx is not None

    def close(self) -> None:
        """Give the Llama its original context back; nothing happens where this one is gone already."""
        if self.open:
            rebuild(self.llm)


class LogitRows:
    """The logits of the last decode, as views into llama.cpp's buffer."""

    def __init__(self, context: Context) -> None:
        self.serial = 0
        """Number of decodes; a Step of an older one is stale."""
        self._context = context.address
        self._vocabulary = context.vocabulary
        # It gives the address as an int: making an array of a pointer costs 5 us per row.
        self._address_of = C._lib["llama_get_logits_ith"]
        self._address_of.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self._address_of.restype = ctypes.c_void_p
        self._views: dict[int, Floats] = {}

    def row(self, i: int) -> Floats:
        """Shape (vocabulary,), float32: row `i` of the last decode."""
        address = self._address_of(self._context, i)
        view = self._views.get(address)
        if view is None:
            if not address:
                raise IndexError(f"row {i} of the last decode has no logits")
            if len(self._views) > MOST_VIEWS:
                self._views.clear()
            view = np.ctypeslib.as_array((ctypes.c_float * self._vocabulary).from_address(address))
            self._views[address] = view
        return view


class Batch:
    """A llama_batch over numpy arrays: filling a slice costs less than writing ctypes pointers one by one."""

    def __init__(self, rows: int, width: int) -> None:
        """Room for `rows` rows, each of at most `width` sequences."""
        self.token = np.zeros(rows, np.int32)
        self.pos = np.zeros(rows, np.int32)
        self.n_ids = np.ones(rows, np.int32)
        self.ids = np.zeros((rows, width), np.int32)
        self.wanted = np.zeros(rows, np.int8)
        # llama.cpp takes one pointer per row, and a null pointer after the last.
        self._pointers = np.zeros(rows + 1, np.uintp)
        self._pointers[:rows] = self.ids.ctypes.data + np.arange(rows, dtype=np.uintp) * np.uintp(self.ids.strides[0])
        arrays: dict[str, npt.NDArray[Any]] = {
            "token": self.token,
            "pos": self.pos,
            "n_seq_id": self.n_ids,
            "seq_id": self._pointers,
            "logits": self.wanted,
        }
        self.bytes = sum(array.nbytes for array in (*arrays.values(), self.ids))
        """Memory of the arrays."""
        kinds = dict(C.llama_batch._fields_)
        self.struct = C.llama_batch(
            n_tokens=0, **{name: ctypes.cast(array.ctypes.data, kinds[name]) for name, array in arrays.items()}
        )

    @property
    def rows(self) -> int:
        """Rows that are filled."""
        return int(self.struct.n_tokens)

    def clear(self) -> None:
        """Fill from the first row again."""
        self.struct.n_tokens = 0

    def plain(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """One row of each sequence and nothing else, all with logits."""
        n = len(tokens)
        self.token[:n] = tokens
        self.pos[:n] = positions
        self.n_ids[:n] = 1
        self.ids[:n, 0] = sequences
        self.wanted[:n] = 1
        self.struct.n_tokens = n

    def chain(self, tokens: Sequence[int], start: int, ids: Sequence[int], logits: bool = False) -> None:
        """Add rows that belong to the sequences `ids`, from position `start` on; `logits`: with all of their logits."""
        first, end = self.rows, self.rows + len(tokens)
        self.token[first:end] = tokens
        self.pos[first:end] = np.arange(start, start + len(tokens), dtype=np.int32)
        self.n_ids[first:end] = len(ids)
        self.ids[first:end, : len(ids)] = ids
        self.wanted[first:end] = logits
        self.struct.n_tokens = end

    def tree(self, token: int, start: int, draft: Draft, below: Sequence[Sequence[int]], ids: Sequence[int]) -> None:
        """Add the row of `token` and those of a draft after it, all with logits.

        Args:
            token: the last pending token.
            start: its position.
            draft: the tree; each node's row belongs to the sequences of the leaves below it.
            below: leaves under the root and under each node, as `session.leaves_below` gives them.
            ids: the sequence of each leaf.
        """
        first = self.rows
        self.chain((token,), start, ids)
        for node, depth in enumerate(draft.depths()):
            row = first + 1 + node
            leaves = below[node + 1]
            self.token[row] = draft.tokens[node]
            self.pos[row] = start + 1 + depth
            self.n_ids[row] = len(leaves)
            self.ids[row, : len(leaves)] = [ids[leaf] for leaf in leaves]
        self.struct.n_tokens = first + 1 + len(draft)
        self.wanted[first : self.rows] = 1


def _ggml() -> Any:
    """libggml-base, which is in the process already; llama_cpp's own handles don't export these names."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    found = [path for pattern in ("libggml-base.*", "ggml-base.dll") for path in sorted(folder.glob(pattern))]
    if not found:
        raise ControllerError(f"no ggml-base library in {folder}: no hidden states; reinstall llama-cpp-python")
    lib = ctypes.CDLL(str(found[0]))
    lib.ggml_get_name.argtypes = [ctypes.c_void_p]
    lib.ggml_get_name.restype = ctypes.c_char_p
    lib.ggml_nbytes.argtypes = [ctypes.c_void_p]
    lib.ggml_nbytes.restype = ctypes.c_size_t
    lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    lib.ggml_backend_tensor_get.restype = None
    return lib


_BLOCK_OUTPUTS = {"nemotron_h": "nemotron_h_block_out", "nemotron_h_moe": "nemotron_h_block_out"}
"""Name of the block outputs by architecture, where it isn't `l_out`."""


class Capture:
    """Copies rows of block outputs (tensors `l_out-k`) out of a decode, through llama.cpp's eval callback."""

    def __init__(self, width: int, architecture: str) -> None:
        """The context must be made with `callback` as its cb_eval.

        Args:
            width: the hidden size.
            architecture: the model's, as its file names it.
        """
        self._width = width
        self._output = _BLOCK_OUTPUTS.get(architecture, "l_out")
        self._bytes = 4 * width
        self._ggml = _ggml()
        self._names: dict[bytes, int] = {}
        self._rows = 0
        self._whole = True
        self._interrupted = False
        self._parts: dict[int, list[Floats]] = {}
        names = self._names
        name_of = self._ggml.ggml_get_name
        copy = self._copy

        def callback(tensor: int, ask: bool, _: int | None) -> bool:
            # Called for each of about 1000 nodes per token: the path on which nothing is read must stay this short.
            if not names:
                return False
            try:
                return name_of(tensor) in names if ask else copy(tensor)
            except KeyboardInterrupt:  # ctypes would swallow it
                self._interrupted = True
                return True

        self.callback = C.ggml_backend_sched_eval_callback(callback)

    def reading(self, layers: Sequence[int], rows: int, whole: bool, decode: Callable[[], None]) -> dict[int, Floats]:
        """Run a decode and read block outputs.

        Args:
            layers: blocks to read, from 0.
            rows: number of last rows to keep.
            whole: the decode runs the graph once, so a block that was read needs no further question.
            decode: runs it.

        Returns:
            By layer, shape (rows, width).
        """
        self._rows = rows
        self._whole = whole
        self._parts = {layer: [] for layer in layers}
        self._names.update({f"{self._output}-{layer}".encode(): layer for layer in layers})
        try:
            decode()
        finally:
            self._names.clear()
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        # A prompt longer than n_ubatch comes in several parts; the last block has rows for outputs only.
        found = {layer: np.concatenate(parts)[-rows:] for layer, parts in self._parts.items() if parts}
        if missing := [layer for layer in layers if layer not in found or len(found[layer]) < rows]:
            raise ControllerError(
                f"llama.cpp gives no output of block {missing[0]} ({self._output}) for this architecture"
            )
        return found

    def _copy(self, tensor: int) -> bool:
        """True always: False would abort the rest of the graph."""
        size = self._ggml.ggml_nbytes(tensor)
        rows = min(self._rows, size // self._bytes)
        if rows:
            part = np.empty((rows, self._width), np.float32)
            self._ggml.ggml_backend_tensor_get(tensor, part.ctypes.data, size - part.nbytes, part.nbytes)
            name = self._ggml.ggml_get_name(tensor)
            self._parts[self._names[name]].append(part)
            if self._whole:
                del self._names[name]  # the rest of the graph need not be asked about
        return True
