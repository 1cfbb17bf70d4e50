"""llama.cpp as an engine: one context, its sequence ids as sessions, all of them and their drafts in one llama_decode.

The engine runs forwards over a Llama that somebody else has loaded; it samples nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from llama_cpp import Llama
from llama_cpp import llama_cpp as C

from reasonctl.controller import ControllerError, Decode, Engine, Step
from reasonctl.controller.core import Floats, Memory

from ..memory import free_memory
from ..token_ids import check_fits, check_ids
from .cache_kind import MOST_SEQUENCES, PER_RUN, CacheKind, most_rows
from .checkpointed import CheckpointSession, RecurrentSession, WindowedSession
from .native import Batch, Capture, Context, LogitRows
from .sequences import Sequences
from .session import LlamaSession, leaves_below
from .steps import GivenStep, LlamaStep


class LlamaEngine(Engine):
    """The forward pass over a Llama, whose one context is rebuilt and given back by `close`."""

    def __init__(self, llm: Llama, hidden: bool, batch: int = 1, checkpoints: bool = True, drafted: int = 0) -> None:
        """Rebuild the Llama's context.

        Args:
            llm: the Llama; its cache is empty afterwards.
            hidden: install the callback that reads block outputs. Without it no decode is slowed down.
            batch: most runs that share a forward. They share the cells of the context too.
            checkpoints: sessions of a recurrent or windowed model can take tokens back, which costs memory for another
                state or window of each. Other models need none.
            drafted: most drafted tokens a step. A recurrent model's sessions keep so many states more, where llama.cpp
                can go back to them. Elsewhere, and in a batch, a rejected draft is taken back by its checkpoint.

        Raises:
            ControllerError: the Llama writes no text, or there is no room for the context or for so many runs.
        """
        kind = CacheKind.of(llm)
        most = kind.most_runs(min(MOST_SEQUENCES, most_rows(llm)), checkpoints)
        if not 1 <= batch <= most:
            raise ControllerError(
                f"batch is {batch}; llama.cpp takes 1 to {most} runs at a time with n_batch={most_rows(llm)}"
            )
        if llm.context_params.embeddings:
            raise ControllerError("this Llama was built with embedding=True and writes no text; build it without")
        architecture = llm.metadata.get("general.architecture", "")
        self._capture = Capture(int(C.llama_model_n_embd(llm.model)), architecture) if hidden else None
        callback, drafted = self._capture and self._capture.callback, drafted if batch == 1 else 0
        self.context = Context(llm, batch, checkpoints, drafted, callback)
        kept = PER_RUN * batch if batch > 1 else 0
        self.sequences = Sequences(self.context, kept)
        self.batch = batch
        self.room = self.context.size
        self.longest = self.room
        self.cuts = self.context.most_cut
        self.most_sessions = kept or self.context.sequences // self.context.ids_each - 1
        self._session_type = RecurrentSession if kind.recurrent else WindowedSession if kind.window else LlamaSession
        self._rows = LogitRows(self.context)
        self._one = Batch(1, 1)
        self._one.plain([0], [0], [0])
        self._many = Batch(self.context.batch, self.context.sequences)

    def session(self) -> LlamaSession:
        """An empty sequence."""
        return self._session_type(self, self.sequences, self.sequences.take(1)[0])

    def user_session(self) -> LlamaSession:
        """The sequence that the Llama's own methods work on, with what they left in it."""
        session = self._session_type(self, self.sequences, 0)
        session.recorded = self.context.logits_all
        session.adopt(self.context.llm.n_tokens)
        return session

    def last_row(self) -> Floats:
        """Shape (vocabulary,), float32: a copy of the last row that the Llama has decoded.

        Raises:
            ControllerError: its last decode gave no logits.
        """
        try:
            return self._rows.row(-1).copy()
        except IndexError:
            raise ControllerError("the prompt ends with a picture or sound; end it with text") from None

    def close(self) -> None:
        """Give the Llama its original context back."""
        self.context.close()
        self._rows.serial += 1

    @property
    def added_bytes(self) -> int:
        """What the engine adds to the Llama's own memory: a row of logits for each further sequence, and its batches.

        The cells of the cache stay as they were. A model with recurrent states or windows also has one for each further
        sequence, and recurrent ones the past states of all; their size is known once a sequence has tokens.
        """
        context = self.context
        states = context.sequences * (1 + context.past_states) - 1
        rows = 4 * context.vocabulary * (context.sequences - 1)
        return rows + states * self.sequences.state_bytes + self._one.bytes + self._many.bytes

    @cached_property
    def checkpoint_bytes(self) -> int:
        """Most bytes of a state or of a window; asked for the first time it takes two forwards."""
        if self.context.cache.whole or self.context.fixed:
            return 0
        session = self.session()
        sizes: list[int] = []
        for _ in range(2):
            self.forward((Decode(session, [0]),))
            sizes.append(self.sequences.state_size(session.id))
        session.close()
        return sizes[0] + (sizes[1] - sizes[0]) * max(0, self.context.cache.window - 1)

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine."""
        llm = self.context.llm
        params = llm.context_params
        weights = f"{Path(llm.model_path).name} {C.llama_model_size(llm.model)}"
        threads = f"threads {llm.n_threads} {llm.n_threads_batch}"
        cache = f"cache {params.type_k} {params.type_v} {params.flash_attn_type}"
        return f"llama.cpp {weights} {threads} {cache} ubatch {self.context.ubatch}"

    def memory(self, sessions: int, tokens: int) -> Memory:
        """Nothing more: the context has all of its cells from the start, which is when they are checked."""
        return Memory("cpu", free_memory(), 0)

    def together(self, requests: Sequence[Decode]) -> int:
        """As many of the first requests as `batch`, n_batch, the free cells and the free sequences allow."""
        rows, leaves = self.context.batch, self.sequences.for_leaves
        cells = self.context.size - self.sequences.committed
        for n, request in enumerate(requests[: self.batch]):
            drafted = len(request.draft)
            rows -= 1 + drafted
            cells -= len(request.pending) + drafted
            leaves -= 0 if request.draft.is_chain() else len(leaves_below(request.draft)[0]) - 1
            # Blocks of a recurrent model are computed in an order of their own, so rows that are read come alone.
            alone = self.context.cache.recurrent and request.layers
            if n and (min(rows, cells, leaves) < 0 or alone):
                return n
            if alone:
                return 1
        return min(len(requests), self.batch)

    def forward(self, requests: Sequence[Decode]) -> tuple[Step, ...]:
        """One llama_decode for all requests (several where their prompts are longer than n_batch).

        Whatever it fails with, every session holds what it held before; see `LlamaSession.undo`.

        Raises:
            ControllerError: more requests than `batch`, no room in the context, or a draft or layer that can't be had.
            RuntimeError: the context or the session is closed, or llama_decode failed.
        """
        context = self.context
        if not 1 <= len(requests) <= self.batch:
            raise ControllerError(f"this engine takes {self.batch} requests per forward, not {len(requests)}")
        if context.llm._ctx is not context.owner or context.owner.ctx is None:
            raise RuntimeError("this engine is closed: the Llama was closed, or its context rebuilt")
        sessions: list[LlamaSession] = []
        plain = True
        for request in requests:
            session = request.session
            assert isinstance(session, LlamaSession)
            session.settle()
            sessions.append(session)
            plain = plain and len(request.pending) == 1 and not request.draft.tokens and not request.layers
        if len(sessions) > 1 and len(set(map(id, sessions))) < len(sessions):
            raise ControllerError("one forward takes one request per session")
        self._rows.serial += 1
        if sessions[0].given is not None:
            return self._given(sessions[0], requests)
        (self._check_plain if plain else self._check)(sessions, requests)
        lengths = [session.length for session in sessions]
        try:
            return self._steps(sessions, requests, plain)
        except BaseException:  # of an interrupted call too: rows that were fed would be fed again
            for session, length in zip(sessions, lengths, strict=True):
                session.undo(length)
            raise

    def _steps(self, sessions: list[LlamaSession], requests: Sequence[Decode], plain: bool) -> tuple[LlamaStep, ...]:
        if not self.context.cache.whole:
            self._make_checkpoints(sessions, requests)
            plain = plain and not any(session.lacking for session in sessions)
        return self._plain(sessions, requests) if plain else self._wide(sessions, requests)

    def _given(self, session: LlamaSession, requests: Sequence[Decode]) -> tuple[Step, ...]:
        """The row that the Llama's own decode left, or the rows of what follows the token that it was fed last.

        Only the Llama's own sequence has such a row, and it shares no forward.
        """
        (request,) = requests
        later = request.pending[1:]
        if request.draft.tokens or (request.layers and not later):
            raise ControllerError(
                "hidden states and drafts can't be had at a token that the library has fed, and this one was fed with "
                "what came before it (a picture, or a state that can't be cut); detach, or use neither"
            )
        row = session.begin()
        if not later:
            return (GivenStep(self._rows, row),)
        try:
            return self.forward((request._replace(pending=later),))
        except BaseException:
            if session.length:  # else nothing brings it back
                session.give(row)
            raise

    def _plain(self, sessions: list[LlamaSession], requests: Sequence[Decode]) -> tuple[LlamaStep, ...]:
        """One token of each session, and nothing read but logits."""
        if len(sessions) == 1:
            batch, session = self._one, sessions[0]
            batch.token[0] = requests[0].pending[0]
            batch.pos[0] = session.length
            batch.ids[0, 0] = session.id
        else:
            batch = self._many
            tokens = [request.pending[0] for request in requests]
            batch.plain(tokens, [session.length for session in sessions], [session.id for session in sessions])
        self._decode(batch, len(sessions))
        self._record(batch, sessions)
        for session, request in zip(sessions, requests, strict=True):
            session.advance(request.pending)
        return tuple(LlamaStep(self._rows, row, {}) for row in range(len(sessions)))

    def _wide(self, sessions: list[LlamaSession], requests: Sequence[Decode]) -> tuple[LlamaStep, ...]:
        """Prompts, drafts, and rows whose hidden state is read.

        Rows without logits come first, so that those with logits are the last of their decode.
        """
        batch, context = self._many, self.context
        below = [leaves_below(request.draft) for request in requests]
        outputs = sum(1 + len(request.draft) for request in requests)
        fed = [[*session.lacking, *request.pending] for session, request in zip(sessions, requests, strict=True)]
        starts = [session.length - session.owed for session in sessions]
        wanted = sum(map(len, fed)) + outputs - len(requests)
        batch.clear()
        for session, tokens, start, leaves in zip(sessions, fed, starts, below, strict=True):
            session.branch(len(leaves[0]))
            session.share(start)
            self._feed(session, tokens[:-1], start, sessions, wanted)
        if batch.rows + outputs > context.batch:
            self._decode(batch, wanted)
            self._record(batch, sessions)
            batch.clear()
        first = batch.rows
        for session, tokens, start, request, leaves in zip(sessions, fed, starts, requests, below, strict=True):
            batch.tree(tokens[-1], start + len(tokens) - 1, request.draft, leaves, session.ids)
        hidden = self._decode_reading(requests, outputs, lambda: self._decode(batch, wanted))
        self._record(batch, sessions)  # a recorded session's draft is a chain; what is rejected is written over
        steps: list[LlamaStep] = []
        begin = 0
        for session, request, leaves in zip(sessions, requests, below, strict=True):
            session.advance(request.pending, request.draft, leaves)
            end = begin + 1 + len(request.draft)
            own = {layer: hidden[layer][begin:end] for layer in request.layers}
            steps.append(LlamaStep(self._rows, first + begin, own))
            begin = end
        return tuple(steps)

    def _make_checkpoints(self, sessions: list[LlamaSession], requests: Sequence[Decode]) -> None:
        """Make the checkpoints that are due; what their sequences lack is fed first, in a decode without logits."""
        drafts = [
            (session, request.draft)
            for session, request in zip(sessions, requests, strict=True)
            if isinstance(session, CheckpointSession)
        ]
        late = [session for session, draft in drafts if session.lags(draft)]
        if late:
            wanted = sum(session.owed for session in late)
            self._many.clear()
            for session in late:
                self._feed(session, session.lacking, session.length - session.owed, sessions, wanted)
            self._decode(self._many, wanted)
            self._record(self._many, sessions)
            for session in late:
                session.caught_up()
        for session, draft in drafts:
            session.ready(draft)

    def _feed(
        self, session: LlamaSession, tokens: Sequence[int], start: int, sessions: list[LlamaSession], wanted: int
    ) -> None:
        """Add rows of one session to the batch, from position `start` on, and decode it whenever it is full."""
        batch, most = self._many, self.context.batch
        done = 0
        while done < len(tokens):
            if batch.rows == most:
                self._decode(batch, wanted)
                self._record(batch, sessions)
                batch.clear()
            chunk = tokens[done : done + most - batch.rows]
            batch.chain(chunk, start + done, session.ids, session.recorded)
            done += len(chunk)

    def _record(self, batch: Batch, sessions: list[LlamaSession]) -> None:
        """Copy the rows of the last decode to where the library's own `eval` puts them, where a Llama keeps them."""
        if sessions[0].recorded:  # the Llama's own sequence, which no other session's rows share a forward with
            scores = self.context.llm.scores
            for i in range(batch.rows):
                scores[batch.pos[i]] = self._rows.row(i)

    def _decode_reading(
        self, requests: Sequence[Decode], outputs: int, decode: Callable[[], None]
    ) -> dict[int, Floats]:
        """Decode the batch; returns the last `outputs` rows of every layer that a request asks for."""
        layers = tuple(dict.fromkeys(layer for request in requests for layer in request.layers))
        if not layers:
            decode()
            return {}
        assert self._capture is not None
        return self._capture.reading(layers, outputs, self._many.rows <= self.context.ubatch, decode)

    def _check_plain(self, sessions: list[LlamaSession], requests: Sequence[Decode]) -> None:
        """The same for one token of each session; every token of a run comes by here, so it is short."""
        for session, request in zip(sessions, requests, strict=True):
            if not 0 <= request.pending[0] < self.context.vocabulary:
                check_ids(request.pending, self.context.vocabulary, _FED)
            check_fits(session.length, 1, self.longest)

    def _check(self, sessions: list[LlamaSession], requests: Sequence[Decode]) -> None:
        """Raises ControllerError, before any work, for requests that can't be met."""
        for session, request in zip(sessions, requests, strict=True):
            self._check_one(session, request)
        rows = sum(1 + len(request.draft) for request in requests)
        if rows > self.context.batch:
            raise ControllerError(
                f"{rows} rows with logits are wanted of one forward, and n_batch is {self.context.batch}"
            )
        leaves = sum(len(leaves_below(request.draft)[0]) - 1 for request in requests if request.draft.tokens)
        if leaves > len(self.sequences.free):
            raise ControllerError(
                f"{leaves} more sequences are needed for the leaves of drafts and {len(self.sequences.free)} of "
                f"{self.context.sequences} are free; close sessions, or draft trees with fewer leaves"
            )

    def _check_one(self, session: LlamaSession, request: Decode) -> None:
        context, drafted = self.context, len(request.draft)
        if not request.pending:
            raise ControllerError(_NOTHING_PENDING)
        check_ids(request.pending, context.vocabulary, _FED)
        check_ids(request.draft.tokens, context.vocabulary, "a draft")
        wanted = len(request.pending) + drafted
        check_fits(session.length, wanted, self.longest)
        if drafted and context.fixed:
            raise ControllerError(f"no drafts: {context.fixed}")
        if not request.draft.is_chain() and session.can.branches == 1:
            raise ControllerError("this model's cache takes drafts of one branch, and the draft is a tree")
        if 1 + drafted > context.batch:
            raise ControllerError(
                f"a draft has {drafted} tokens; at most n_batch - 1 = {context.batch - 1} fit one forward"
            )
        if request.layers and self._capture is None:
            raise ControllerError("hidden states were asked of an engine without them; open it with hidden=True")
        if any(not 0 <= layer < context.depth for layer in request.layers):
            raise ControllerError(f"layers {request.layers} were asked for; this model has 0 to {context.depth - 1}")

    def _decode(self, batch: Batch, wanted: int) -> None:
        code = C.llama_decode(self.context.address, batch.struct)
        if code == 1:
            self.sequences.trim()  # what other sessions have forgotten may make room
            code = C.llama_decode(self.context.address, batch.struct)
        if code:
            self._fail(code, wanted)

    def _fail(self, code: int, wanted: int) -> NoReturn:
        """Raise what a return code of llama_decode means."""
        if code == 1:
            raise ControllerError(
                f"no room for {wanted} more tokens in the context of {self.context.size}, "
                f"shared by {self.sequences.in_use} sequences; "
                "close other sessions, or load the model with a larger context"
            )
        reason = {2: "was aborted", -1: "refused the batch (is every token below n_vocab?)"}.get(code, "failed")
        raise RuntimeError(f"llama_decode {reason}: code {code}")


_NOTHING_PENDING = "a Decode needs at least one pending token"
_FED = "what is to be decoded"
