"""llama.cpp as an engine: one context, its sequence ids as sessions, chains and trees in one llama_decode.

Owns the rebuilt context of the user's Llama; loads no model and samples nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_cpp import Llama
from llama_cpp import llama_cpp as C

from reasonctl.controller import Capabilities, ControllerError, Decode, Draft
from reasonctl.controller.core.decode import Floats

from .native import Batch, Capture, logits_function, rebuild
from .session import LlamaSession, leaves_below

SEQUENCES = 16
"""Sequence ids of the context: live sessions and leaves of trees share them; id 0 is the user's own."""


class LlamaEngine:
    """The forward pass over a llama_cpp.Llama, whose one context is rebuilt and given back by `close`.

    hidden: install the callback that reads block outputs; without it nothing is slowed down.
    """

    batch = 1

    def __init__(self, llm: Llama, hidden: bool) -> None:
        if llm.context_params.embeddings:
            raise ControllerError("this Llama was built with embedding=True and writes no text; build it without")
        self.llm, model = llm, llm.model
        self.depth = int(C.llama_model_n_layer(model))
        self._capture = Capture(int(C.llama_model_n_embd(model))) if hidden else None
        self.sequences = min(SEQUENCES, llm.n_batch)  # llama.cpp aborts the process with more than n_batch
        changes: dict[str, Any] = {"n_seq_max": self.sequences, "kv_unified": True}
        if self._capture is not None:
            changes["cb_eval"] = self._capture.callback
        rebuild(llm, **changes)
        self._context, self._ctx = llm._ctx, llm.ctx
        self.memory = C.llama_get_memory(self._ctx)
        self.context, self.rows = int(C.llama_n_ctx(self._ctx)), int(C.llama_n_batch(self._ctx))
        self.parallel, self.vocabulary = int(C.llama_n_ubatch(self._ctx)), int(llm.n_vocab())
        windowed = C.llama_model_n_swa(model) > 0 and not llm.context_params.swa_full
        # Recurrent states and windows that forget can't take tokens back.
        self.editable = not (C.llama_model_is_recurrent(model) or C.llama_model_is_hybrid(model) or windowed)
        self.free = list(range(self.sequences - 1, 0, -1))
        self.live: dict[int, LlamaSession] = {}
        self.serial = 0
        self._one, self._many = Batch(1, 1), Batch(self.rows, self.sequences)
        self._logits_at, self._views = logits_function(), dict[int, Floats]()
        self._one.plain()

    def session(self) -> LlamaSession:
        """An empty sequence."""
        return LlamaSession(self, self.take(1)[0])

    def user_session(self) -> LlamaSession:
        """The sequence that the Llama's own methods work on, with what they left in it."""
        session = LlamaSession(self, 0)
        session.adopt(self.llm.n_tokens)
        return session

    def close(self) -> None:
        """Give the Llama its original context back."""
        if self.open:
            rebuild(self.llm)
        self.serial += 1

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine."""
        llm, params = self.llm, self.llm.context_params
        weights = f"{Path(llm.model_path).name} {C.llama_model_size(llm.model)}"
        cache = f"{params.type_k} {params.type_v} {params.flash_attn_type}"
        return f"llama.cpp {weights} threads {llm.n_threads} {llm.n_threads_batch} cache {cache} ubatch {self.parallel}"

    @property
    def open(self) -> bool:
        """False once the context is gone: closed, rebuilt by another engine, or closed by the user."""
        return self.llm._ctx is self._context and self._context.ctx is not None

    def take(self, n: int) -> list[int]:
        """n free sequence ids."""
        if n > len(self.free):
            raise ControllerError(
                f"{n} more sequences are needed and {len(self.free)} of {self.sequences} are free; "
                "close sessions, or draft trees with fewer leaves"
            )
        return [self.free.pop() for _ in range(n)]

    def capabilities(self, session: LlamaSession) -> Capabilities:
        """What it can do right now: a tree's leaves need free sequence ids, and all sequences share the cells."""
        branches = len(self.free) + 1 if self.editable else 0
        others = sum(other.cells for other in self.live.values() if other is not session)
        free = self.context - max(session.length, others + session.length - session.shared)
        return Capabilities(
            self.editable, branches, self.editable, self.depth, self.vocabulary, rows=self.rows, free=free
        )

    def forward(self, requests: Sequence[Decode]) -> tuple[LlamaStep]:
        """One llama_decode (several for a prompt longer than n_batch)."""
        if len(requests) != 1:
            raise ControllerError(f"llama.cpp takes one request per forward here, not {len(requests)}")
        request = requests[0]
        session, pending, draft = request.session, request.pending, request.draft
        if self.llm._ctx is not self._context or self._context.ctx is None:
            raise RuntimeError("this engine is closed: the Llama was closed, or its context rebuilt")
        assert isinstance(session, LlamaSession)
        session.settle()
        self.serial += 1
        if len(pending) == 1 and not draft.tokens and not request.layers:
            at = session.length
            if at >= self.context:
                self._overflow(session, 1)
            one = self._one
            one.token[0], one.pos[0], one.ids[0, 0] = pending[0], at, session.id
            code = C.llama_decode(self._ctx, one.struct)
            if code:
                self._fail(code, session, 1)
            session.length = session.reach = at + 1
            return (LlamaStep(self, 0, {}),)
        return (self._wide(session, pending, draft, request.layers),)

    def logits(self, row: int) -> Floats:
        """Shape (vocabulary,): a view of the last decode's row `row`."""
        address = self._logits_at(self._ctx, row)
        view = self._views.get(address)
        if view is None:
            if not address:
                raise IndexError(f"row {row} of the last decode has no logits")
            if len(self._views) > 4 * SEQUENCES:
                self._views.clear()
            view = self._views[address] = Batch.floats(address, self.vocabulary)
        return view

    def _wide(self, session: LlamaSession, pending: Sequence[int], draft: Draft, layers: Sequence[int]) -> LlamaStep:
        """Prompts, drafts and rows whose hidden state is read."""
        n, drafted = len(pending), len(draft)
        self._check(session, n, drafted, layers)
        # The last decode holds the last pending row and all of the draft.
        last = min(n - (n - 1) // self.rows * self.rows, n)
        last = last if last + drafted <= self.rows else 1
        at, fed, below = session.length, n - last, leaves_below(draft)
        session.branch(len(below[0]))
        for start in range(0, fed, self.rows):
            chunk = pending[start : min(start + self.rows, fed)]
            self._many.chain(chunk, at + start, session.id)
            self._decode(session, n + drafted)
        session.spread(at + fed)
        self._many.tree(pending[fed:], at + fed, draft, below, session.ids)
        if layers:
            assert self._capture is not None
            whole = last + drafted <= self.parallel
            hidden = self._capture.reading(layers, 1 + drafted, whole, lambda: self._decode(session, n + drafted))
        else:
            self._decode(session, n + drafted)
            hidden = {}
        session.length, session.draft, session.below, session.reach = at + n, draft, below, at + n + drafted
        return LlamaStep(self, last - 1, hidden)

    def _check(self, session: LlamaSession, n: int, drafted: int, layers: Sequence[int]) -> None:
        if n < 1:
            raise ControllerError("a Decode needs at least one pending token")
        if session.length + n + drafted > self.context:
            self._overflow(session, n + drafted)
        if drafted and not self.editable:
            raise ControllerError("this model's cache can't forget rejected tokens (recurrent or windowed): no drafts")
        if 1 + drafted > self.rows:
            raise ControllerError(
                f"a draft has {drafted} tokens; at most n_batch - 1 = {self.rows - 1} fit one forward"
            )
        if layers and self._capture is None:
            raise ControllerError("hidden states were asked of an engine without them; open it with hidden=True")
        if any(not 0 <= layer < self.depth for layer in layers):
            raise ControllerError(f"layers {tuple(layers)} were asked for; this model has 0 to {self.depth - 1}")

    def _decode(self, session: LlamaSession, wanted: int) -> None:
        code = C.llama_decode(self._ctx, self._many.struct)
        if code:
            self._fail(code, session, wanted)

    def _overflow(self, session: LlamaSession, wanted: int) -> None:
        raise ControllerError(
            f"{session.length} tokens and {wanted} more don't fit the context of {self.context}; "
            "shorten the prompt, lower max_tokens, or load the model with a larger n_ctx"
        )

    def _fail(self, code: int, session: LlamaSession, wanted: int) -> None:
        """llama_decode's return codes, said in words; the session stays as it was before the request."""
        session.drop()
        if code == 1:
            live = self.sequences - len(self.free)
            raise ControllerError(
                f"no room for {wanted} more tokens in the context of {self.context}, shared by {live} sequences; "
                "close other sessions, or load the model with a larger n_ctx"
            )
        reason = {2: "was aborted", -1: "refused the batch (is every token below n_vocab?)"}.get(code, "failed")
        raise RuntimeError(f"llama_decode {reason}: code {code}")


class LlamaStep:
    """Rows of one llama_decode; `root` is the batch row of the last pending token."""

    __slots__ = ("_engine", "_hidden", "_root", "_serial")

    def __init__(self, engine: LlamaEngine, root: int, hidden: dict[int, Floats]) -> None:
        self._engine, self._root, self._hidden, self._serial = engine, root, hidden, engine.serial

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32: a view into llama.cpp's buffer."""
        if self._serial != self._engine.serial:
            self._stale()
        return self._engine.logits(self._root + 1 + node)

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,), float32."""
        if self._serial != self._engine.serial:
            self._stale()
        if layer not in self._hidden:
            raise KeyError(f"layer {layer} was not asked for in this Decode")
        row: Floats = self._hidden[layer][1 + node]
        return row

    def _stale(self) -> None:
        raise RuntimeError("stale Step: the engine has run another forward since; copy rows before it")
