"""What a model's cache holds of a sequence, and how many sequence ids and states a context has for that."""

from __future__ import annotations

from typing import NamedTuple

from llama_cpp import Llama
from llama_cpp import llama_cpp as C

from ..memory import free_memory

SEQUENCES = 16
"""Sequence ids of a context for one run at a time: live sessions and the leaves of trees share them."""
PER_RUN = 2
"""Sequence ids of each run of a batch: its own, and a fork or a policy's."""
LEAVES = 7
"""Further ids of a batch, for the leaves of trees."""
MOST_SEQUENCES = 256
"""Most ids that llama.cpp gives a context (LLAMA_MAX_SEQ)."""


MOST_CUTS = 8
"""Most tokens that a state is made to give up; each costs another state of every sequence."""
SHARE_FOR_CUTS = 0.25
"""Most of the free memory that these states may take."""


class CacheKind(NamedTuple):
    """What a model's cache holds of a sequence besides a cell for each of its tokens."""

    recurrent: bool
    """A state of the whole text, which can't be shortened."""
    window: int
    """Layers that keep this many of the last tokens, and some before them; 0 = all layers keep all."""

    @property
    def whole(self) -> bool:
        """There is a cell for each token in every layer, so that every edit is a matter of cells."""
        return not self.recurrent and not self.window

    @classmethod
    def of(cls, llm: Llama) -> CacheKind:
        """The kind of a Llama's cache."""
        recurrent = bool(C.llama_model_is_recurrent(llm.model) or C.llama_model_is_hybrid(llm.model))
        return cls(recurrent, 0 if llm.context_params.swa_full else int(C.llama_model_n_swa(llm.model)))

    def sequence_ids(self, batch: int, checkpoints: bool) -> int:
        """How many sequence ids a context needs for `batch` runs at a time; id 0 is the user's own.

        Every id costs a state or a window, so there are none for the leaves of trees. A checkpoint takes an id.
        """
        sessions = 1 + PER_RUN * batch
        if self.whole:
            return SEQUENCES if batch == 1 else sessions + LEAVES
        return 2 * sessions if checkpoints else sessions

    def cuts(self, llm: Llama, drafted: int, sequences: int) -> int:
        """How many past states to keep of each sequence (`n_rs_seq`), so that a rejected draft can be cut off.

        llama.cpp gives 0 to architectures that can't. It aborts the process where a ubatch has no room for them.

        Args:
            llm: the Llama.
            drafted: most drafted tokens a step.
            sequences: sequence ids of the context.
        """
        if not self.recurrent:
            return 0
        fits = min(int(llm.n_batch), int(llm.context_params.n_ubatch)) - 2
        each, free = sequences * _most_state_bytes(llm), free_memory()
        affordable = MOST_CUTS if free is None or not each else int(SHARE_FOR_CUTS * free / each)
        return max(0, min(drafted, MOST_CUTS, fits, affordable))

    def most_runs(self, ids: int, checkpoints: bool) -> int:
        """The largest batch for which `ids` sequence ids are enough; at least 1."""
        fits = [batch for batch in range(2, ids) if self.sequence_ids(batch, checkpoints) <= ids]
        return max(fits, default=1)


def _most_state_bytes(llm: Llama) -> int:
    """Most bytes of the states of one sequence, as the file's header has them: of Mamba's, delta nets and LFM2."""
    architecture = llm.metadata.get("general.architecture", "")

    def number(name: str) -> int:
        found = llm.metadata.get(f"{architecture}.{name}", "")
        return int(found) if found.isdecimal() else 0

    inner, states = number("ssm.inner_size"), number("ssm.state_size")
    inputs = max(0, number("ssm.conv_kernel") - 1) * (inner + 2 * number("ssm.group_count") * states)
    inputs += max(0, number("shortconv.l_cache") - 1) * int(C.llama_model_n_embd(llm.model))
    return 4 * int(C.llama_model_n_layer(llm.model)) * (inner * states + inputs)


def most_rows(llm: Llama) -> int:
    """Most rows of one llama_decode of a rebuilt context, which llama.cpp makes the most of its sequences too.

    n_batch=1 leaves room for one sequence, so there the rows are as many as the sequences of a run; `n_ubatch` stays
    at 1, so that rows are computed one by one as ever.
    """
    return int(llm.n_batch) if llm.n_batch > 1 else SEQUENCES
