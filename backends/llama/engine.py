"""llama.cpp as an engine: one context, its sequence ids as sessions, chains and trees in one llama_decode.

The engine runs forwards over a Llama that somebody else has loaded; it samples nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llama_cpp import Llama
from llama_cpp import llama_cpp as C

from reasonctl.controller import ControllerError, Decode, Engine, Step
from reasonctl.controller.core import Floats

from ..token_ids import check_ids
from .native import Batch, Capture, Context, LogitRows
from .sequences import SEQUENCES, Sequences
from .session import LlamaSession, leaves_below


class LlamaEngine(Engine):
    """The forward pass over a Llama, whose one context is rebuilt and given back by `close`."""

    def __init__(self, llm: Llama, hidden: bool) -> None:
        """Rebuild the Llama's context.

        Args:
            llm: the Llama; its cache is empty afterwards.
            hidden: install the callback that reads block outputs. Without it no decode is slowed down.

        Raises:
            ControllerError: the Llama writes no text, or there is no room for the context.
        """
        if llm.context_params.embeddings:
            raise ControllerError("this Llama was built with embedding=True and writes no text; build it without")
        if llm.n_batch < 2:
            raise ControllerError(
                f"this Llama has n_batch={llm.n_batch}, which is also the most sequences that llama.cpp gives it; "
                f"a controller needs 2: build it with n_batch={SEQUENCES} or more"
            )
        self._capture = Capture(int(C.llama_model_n_embd(llm.model))) if hidden else None
        self.context = Context(llm, SEQUENCES, None if self._capture is None else self._capture.callback)
        self.sequences = Sequences(self.context)
        self._rows = LogitRows(self.context)
        self._one = Batch(1, 1)
        self._one.plain()
        self._many = Batch(self.context.batch, self.context.sequences)

    def session(self) -> LlamaSession:
        """An empty sequence."""
        return LlamaSession(self, self.sequences, self.sequences.take(1)[0])

    def user_session(self) -> LlamaSession:
        """The sequence that the Llama's own methods work on, with what they left in it."""
        session = LlamaSession(self, self.sequences, 0)
        session.recorded = self.context.logits_all
        session.adopt(self.context.llm.n_tokens)
        return session

    def close(self) -> None:
        """Give the Llama its original context back."""
        self.context.close()
        self._rows.serial += 1

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine."""
        llm = self.context.llm
        params = llm.context_params
        weights = f"{Path(llm.model_path).name} {C.llama_model_size(llm.model)}"
        threads = f"threads {llm.n_threads} {llm.n_threads_batch}"
        cache = f"cache {params.type_k} {params.type_v} {params.flash_attn_type}"
        return f"llama.cpp {weights} {threads} {cache} ubatch {self.context.ubatch}"

    def forward(self, requests: Sequence[Decode]) -> tuple[LlamaStep]:
        """One llama_decode for one request (several for a prompt longer than n_batch).

        Raises:
            ControllerError: more than one request, no room in the context, or a draft or layer that can't be had.
            RuntimeError: the context or the session is closed, or llama_decode failed.
        """
        if len(requests) != 1:
            raise ControllerError(f"llama.cpp takes one request per forward here, not {len(requests)}")
        request = requests[0]
        context, session = self.context, request.session
        if context.llm._ctx is not context.owner or context.owner.ctx is None:
            raise RuntimeError("this engine is closed: the Llama was closed, or its context rebuilt")
        assert isinstance(session, LlamaSession)
        session.settle()
        self._rows.serial += 1
        if len(request.pending) > 1 or request.draft.tokens or request.layers:
            return (self._wide(session, request),)
        if not request.pending:
            raise ControllerError(_NOTHING_PENDING)
        if not 0 <= request.pending[0] < context.vocabulary:
            check_ids(request.pending, context.vocabulary, _FED)
        position = session.length
        if position >= context.size:
            self._overflow(session, 1)
        one = self._one
        one.token[0] = request.pending[0]
        one.pos[0] = position
        one.ids[0, 0] = session.id
        code = C.llama_decode(context.address, one.struct)
        if code:
            self._fail(code, session, 1)
        session.length = session.reach = position + 1
        if session.recorded:
            self._record(position, 1)
        return (LlamaStep(self._rows, 0, {}),)

    def _wide(self, session: LlamaSession, request: Decode) -> LlamaStep:
        """Prompts, drafts, and rows whose hidden state is read."""
        self._check(session, request)
        pending, draft, layers = request.pending, request.draft, request.layers
        n = len(pending)
        start = session.length
        wanted = n + len(draft)
        last = self._last_part(n, len(draft))
        before = n - last
        below = leaves_below(draft)
        session.branch(len(below[0]))
        for done in range(0, before, self.context.batch):
            chunk = pending[done : min(done + self.context.batch, before)]
            self._many.chain(chunk, start + done, session.id, session.recorded)
            self._decode(session, wanted)
            if session.recorded:
                self._record(start + done, len(chunk))
        session.share(start + before)
        self._many.tree(pending[before:], start + before, draft, below, session.ids, session.recorded)
        hidden: dict[int, Floats] = {}
        if layers:
            assert self._capture is not None
            whole = last + len(draft) <= self.context.ubatch
            hidden = self._capture.reading(layers, 1 + len(draft), whole, lambda: self._decode(session, wanted))
        else:
            self._decode(session, wanted)
        session.advance(n, draft, below)
        if session.recorded:  # the draft is a chain, see `LlamaSession.can`; what is rejected is written over
            self._record(start + before, last + len(draft))
        return LlamaStep(self._rows, last - 1, hidden)

    def _record(self, position: int, rows: int) -> None:
        """Copy rows of the last decode to where the library's own `eval` puts them."""
        scores = self.context.llm.scores
        for i in range(rows):
            scores[position + i] = self._rows.row(i)

    def _last_part(self, n: int, drafted: int) -> int:
        """How many of `n` pending tokens share the last decode with the draft; the others are fed before."""
        batch = self.context.batch
        last = n - (n - 1) // batch * batch
        return last if last + drafted <= batch else 1

    def _check(self, session: LlamaSession, request: Decode) -> None:
        context, drafted = self.context, len(request.draft)
        if not request.pending:
            raise ControllerError(_NOTHING_PENDING)
        check_ids(request.pending, context.vocabulary, _FED)
        check_ids(request.draft.tokens, context.vocabulary, "a draft")
        wanted = len(request.pending) + drafted
        if session.length + wanted > context.size:
            self._overflow(session, wanted)
        if drafted and not context.editable:
            raise ControllerError("this model's cache can't forget rejected tokens (recurrent or windowed): no drafts")
        if 1 + drafted > context.batch:
            raise ControllerError(
                f"a draft has {drafted} tokens; at most n_batch - 1 = {context.batch - 1} fit one forward"
            )
        if request.layers and self._capture is None:
            raise ControllerError("hidden states were asked of an engine without them; open it with hidden=True")
        if any(not 0 <= layer < context.depth for layer in request.layers):
            raise ControllerError(f"layers {request.layers} were asked for; this model has 0 to {context.depth - 1}")

    def _decode(self, session: LlamaSession, wanted: int) -> None:
        code = C.llama_decode(self.context.address, self._many.struct)
        if code:
            self._fail(code, session, wanted)

    def _overflow(self, session: LlamaSession, wanted: int) -> NoReturn:
        raise ControllerError(
            f"{session.length} tokens and {wanted} more don't fit the context of {self.context.size}; "
            "shorten the prompt, lower max_tokens, or load the model with a larger n_ctx"
        )

    def _fail(self, code: int, session: LlamaSession, wanted: int) -> NoReturn:
        """Raise what a return code of llama_decode means; the session stays as it was before the request."""
        session.drop()
        if code == 1:
            raise ControllerError(
                f"no room for {wanted} more tokens in the context of {self.context.size}, "
                f"shared by {self.sequences.in_use} sequences; "
                "close other sessions, or load the model with a larger n_ctx"
            )
        reason = {2: "was aborted", -1: "refused the batch (is every token below n_vocab?)"}.get(code, "failed")
        raise RuntimeError(f"llama_decode {reason}: code {code}")


_NOTHING_PENDING = "a Decode needs at least one pending token"
_FED = "what is to be decoded"


class LlamaStep(Step):
    """Rows of one llama_decode. Raises RuntimeError once the engine has run another one."""

    __slots__ = ("_hidden", "_root", "_rows", "_serial")

    def __init__(self, rows: LogitRows, root: int, hidden: dict[int, Floats]) -> None:
        """`root` is the batch row of the last pending token; `hidden` has its rows by layer, the draft's after it."""
        self._rows = rows
        self._root = root
        self._hidden = hidden
        self._serial = rows.serial

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32: a view into llama.cpp's buffer."""
        if self._serial != self._rows.serial:
            self._stale()
        return self._rows.row(self._root + 1 + node)

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,), float32."""
        if self._serial != self._rows.serial:
            self._stale()
        if layer not in self._hidden:
            raise KeyError(f"layer {layer} was not asked for in this Decode")
        row: Floats = self._hidden[layer][1 + node]
        return row

    def _stale(self) -> NoReturn:
        raise RuntimeError("stale Step: the engine has run another forward since; copy rows before it")
