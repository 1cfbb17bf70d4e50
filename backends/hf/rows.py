"""The rows of one generate call: each is a run of its own, and all of them share forwards.

Each row has its own sequence, policy state, processors, criteria, drafts, keys and trace. A row that has ended leaves
at once: its cache is given back, and the forwards of the others have a row less.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessorList

from reasonctl.controller import (
    AnswerNow,
    Call,
    Constrained,
    Controller,
    ControllerError,
    Decode,
    Decoding,
    Ended,
    Greedy,
    Keys,
    Policy,
    Sampling,
    Scheduler,
    Stage,
    Tokenizer,
    Trace,
)
from reasonctl.controller.core import check_cache
from reasonctl.controller.sampling import Shown
from reasonctl.controller.selection import Codes, policies_of

from ..handle import recorded, turn_of
from .criteria import ends_of, own_criterion, reader
from .engine import HFEngine
from .prefill import media_of, prefilled
from .processors import WARPERS, for_row, with_processors
from .prompts import UNREAD, Prompt, firsts_of, length_of
from .recorded import Drawn
from .session import HFSession
from .states import record_windows


@dataclass(frozen=True)
class PreparedCall:
    """What generate() has prepared for all rows of a call."""

    input_ids: torch.Tensor
    """Shape (rows, length): the prompts, padded; (rows, 0) for embeddings alone."""
    prompts: Sequence[Prompt]
    """The same without padding, by row."""
    processors: Sequence[Any]
    criteria: Sequence[Any]
    config: Any
    """The call's GenerationConfig."""
    prepared: dict[str, Any]
    """Arguments of the model's forward."""
    notes: list[str]
    """What every row's trace says of the call."""
    overrides: dict[str, Any]
    """The controller's keywords of the call."""
    seed: int
    policy: Policy | None
    """The controller's, where it takes the place of the call's sampling arguments."""
    grammar: Stage | None
    """What the call's `grammar` or `response_format` asks for."""
    can_ask: bool
    """Thinking may be closed on request: nothing of the call would remember what is taken back."""
    scoring: LogitsProcessorList
    """The processors once more, as they were before the call; empty where no scores are asked for."""
    drawn: Sequence[Drawn] = ()
    """By row, where its draws are noted; empty = nobody asks."""


class Rows:
    """The runs of one call."""

    def __init__(self, engine: HFEngine, tokenizer: Tokenizer, call: PreparedCall, *, private: bool = False) -> None:
        """Take the call's prompts; nothing is run yet."""
        self._private = private
        self._engine = engine
        self._tokenizer = tokenizer
        self._call = call
        self._padded: list[list[int]] = call.input_ids.tolist()
        self.prompts = call.prompts
        self._first = firsts_of(call.prompts)
        """For each row the first one with the same prompt."""
        self.sequences = [list(padded) for padded in self._padded]
        """Prompt and new tokens of each row."""
        self.traces = [
            Trace(
                prompt_tokens=len(prompt.tokens),
                seed=call.seed,
                run=row,
                repeat=self._repeats(row),
                warnings=[*call.notes, *([UNREAD] if prompt.unread else [])],
                overrides=recorded(call.overrides),
            )
            for row, prompt in enumerate(self.prompts)
        ]
        self.asks = [AnswerNow() if call.can_ask else None for _ in self.prompts]
        """How each row is asked for its answer; None = it can't be."""
        self.cache: Any = None
        """The cache that the call returns; None for a batch, whose rows have one each."""
        self._ended = [False] * len(self._padded)

    def run(self, controller: Controller) -> Generator[int, None, None]:
        """Run all rows; yields their new tokens, row after row.

        Raises:
            ControllerError: there is no memory for the prompts of all rows, or a row can't be run.
        """
        self._check_memory(controller)
        sessions = self._sessions()
        self._prefill(sessions)
        runs = [self._row(row, session, controller) for row, session in enumerate(sessions)]
        waiting: dict[Hashable, deque[int]] = {row: deque() for row in range(len(runs))}
        first, scheduler = 0, Scheduler()
        try:
            for row, run in enumerate(runs):
                scheduler.add(row, run)
            for output in scheduler:
                if not isinstance(output, Ended):
                    waiting[output.key].append(output.event.token)
                elif output.error is not None:
                    raise output.error  # the call fails with its first row that does
                while first < len(runs) and (waiting[first] or self._ended[first]):
                    yield from _emptied(waiting[first])
                    if not self._ended[first]:
                        break
                    first += 1
            for tokens in waiting.values():
                yield from tokens
        finally:
            scheduler.close()
            if len(sessions) > 1:
                for session in sessions:
                    session.close()
        for session, trace in zip(sessions, self.traces, strict=True):
            if len(runs) > 1 and (reason := session.in_turn):
                trace.warnings.append(f"rows run in turn: {reason}")

    def _check_memory(self, controller: Controller) -> None:
        """Refuse prompts that don't fit in the device's memory together, before any forward; warn of rows that may not.

        Rows end where their text does, mostly long before max_new_tokens, and the library would run such a call. So it
        is refused for what it takes in any case, and the traces say what its longest rows may take. Of a small call
        nothing is measured.
        """
        engine, lengths = self._engine, [len(prompt.tokens) for prompt in self.prompts]
        new = self._call.config.max_length - self._call.input_ids.shape[1]
        each = 2 if controller.exit is not None and controller.exit.trials else 1
        longest = [length + new for length in lengths for _ in range(each)]
        if len(lengths) == 1 or engine.has_plenty(longest):
            return
        free, together = engine.free_bytes(), all(prompt.lead is None for prompt in self.prompts)
        certain = [length + 1 for length in lengths]
        taken, most = (engine.cache_bytes(texts, together=together) for texts in (certain, longest))
        what = f"{len(lengths)} rows with prompts of up to {max(lengths)} tokens"
        check_cache(taken, free, what, "call it with fewer rows, or shorten the prompts")
        if free is not None and most > free:
            note = f"if all {len(lengths)} rows run to their limit, they take {most / 1e9:.1f} GB of cache, and "
            note += f"{free / 1e9:.1f} GB of memory are free"
            for trace in self.traces:
                trace.warnings.append(note)

    def _row(self, row: int, session: HFSession, controller: Controller) -> Decoding:
        """The run of one row; its sequence is there when it has ended."""
        call, padded, prompt, trace = self._call, self._padded[row], self.prompts[row], self.traces[row]
        rows, tokens = len(self._padded), prompt.tokens
        read = reader(padded, len(tokens), call.input_ids.device)
        ends = ends_of(call.criteria if rows == 1 else list(map(own_criterion, call.criteria)), len(padded), read)
        keys, policy = Keys(seed=call.seed, run=row), self._coded(row, controller.codes, self._policy(row, read))
        repeat, now = self._repeats(row), self.asks[row]
        turn = turn_of(call.overrides)
        one = Call(tokens, ends.limit, ends.eos, keys, policy, ends.stop, repeat, answer_now=now, turn=turn)
        one = replace(one, unread=prompt.unread, private=self._private)
        finish = yield from controller.loop(session, self._tokenizer, one, trace)
        self.sequences[row] = padded + trace.tokens
        self._ended[row] = True
        if rows == 1:
            session.settle()
            self.cache = session.cache
        else:
            session.close()
        return finish

    def _repeats(self, row: int) -> bool:
        return self._first[row] != row

    def _policy(self, row: int, read: Callable[..., torch.Tensor]) -> Policy:
        """The controller's policy after the call's constraints; without one, all of the call's processors."""
        own, rows = self._call.policy, len(self._padded)
        inner = own or (Sampling() if self._call.config.do_sample else Greedy())
        if self._call.grammar is not None:
            inner = Constrained([self._call.grammar], inner)
        given = self._call.processors
        applied = [for_row(p, row, rows) for p in given if own is None or not isinstance(p, WARPERS)]
        policy = with_processors(applied, inner, read)
        return Shown(policy, self._call.drawn[row].see) if self._call.drawn else policy

    def _coded(self, row: int, codes: Codes, policy: Policy) -> Policy:
        """The policy under the row's code: rows with the same prompt are samples of it, as of num_return_sequences."""
        samples = [other for other, first in enumerate(self._first) if first == self._first[row]]
        keys = [Keys(seed=self._call.seed, run=other) for other in samples]
        return policies_of(codes, policy, keys)[samples.index(row)]

    def _sessions(self) -> list[HFSession]:
        """A sequence for each row. Rows with the same prompt are forks that wait for its last token."""
        if media_of(self._call.prepared):
            return [prefilled(self._engine, self.prompts, self._call.config, self._call.prepared)]
        given = self._given()
        if len(self.prompts) == 1:
            return [(given or self._engine.session()).feeds(self.prompts[0])]
        shared = {
            first: self._engine.session().feeds(self.prompts[first])
            for first, count in Counter(self._first).items()
            if count > 1 and len(self.prompts[first].tokens) > 1
        }
        self._feed_all([(session, self.prompts[first].tokens[:-1]) for first, session in shared.items()])
        sessions = [
            shared[first].fork() if first in shared else self._engine.session().feeds(prompt)
            for first, prompt in zip(self._first, self.prompts, strict=True)
        ]
        for session in shared.values():
            session.close()
        return sessions

    def _prefill(self, sessions: Sequence[HFSession]) -> None:
        """Feed all whole chunks of the prompts before the last one, where the call asks for chunks."""
        size = self._call.config.prefill_chunk_size
        if not size:
            return
        texts = [(session, prompt.tokens) for session, prompt in zip(sessions, self.prompts, strict=True)]
        self._feed_all([(one, text[: len(text) - ((len(text) - one.length - 1) % size + 1)]) for one, text in texts])

    def _feed_all(self, texts: Sequence[tuple[HFSession, Sequence[int]]]) -> None:
        """Feed what each sequence lacks of its text, in chunks where the call asks for them."""
        size = self._call.config.prefill_chunk_size or max((len(text) for _, text in texts), default=0)
        while left := [
            Decode(session, text[session.length : session.length + size])
            for session, text in texts
            if session.length < len(text)
        ]:
            self._feed(left)

    def _feed(self, requests: Sequence[Decode]) -> None:
        while requests:
            most = self._engine.together(requests)
            self._engine.forward(requests[:most])
            requests = requests[most:]

    def _given(self) -> HFSession | None:
        """The sequence in a cache that the user passed."""
        name = self._engine.model_forward.cache_name
        cache: Any = self._call.prepared.get(name)
        if not getattr(cache, "_is_user_defined", False):
            return None
        call, masked = self._call, self._call.prepared.get("attention_mask") is not None
        padded = length_of(call.input_ids, call.prepared)
        length = padded if masked or len(self.prompts) > 1 else len(self.prompts[0].tokens)
        seen = padded if masked else getattr(call.config, "_mask_length", length)
        if seen != length:
            raise ControllerError(
                f"{name} is honoured where all tokens of the text are in input_ids: {length} are, of {seen} in the "
                "attention_mask; give the others too, or detach first"
            )
        if type(cache) is not DynamicCache or masked or len(self.prompts) > 1:
            return None  # every token of the text is in input_ids: it is read into a cache of the loop's own
        if not any(hasattr(layer, "get_seq_length") for layer in cache.layers):
            raise ControllerError(f"{name} of a model without attention says not what it holds; leave it out")
        held = cache.get_seq_length()
        if held >= length:
            raise ControllerError(f"{name} holds {held} tokens and input_ids only {length}; crop it")
        record_windows(cache)
        return self._engine.adopt(cache, held)


def _emptied(tokens: deque[int]) -> Iterator[int]:
    while tokens:
        yield tokens.popleft()
