"""A call's LlamaGrammar as a constraint, through llama.cpp's own grammar sampler."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C

from reasonctl.controller import Candidates, ControllerError, Row, Stage


@dataclass(frozen=True)
class Grammar(Stage):
    """llama.cpp's GBNF sampler as a constraint: tokens that the grammar doesn't admit get -inf.

    The state is a sampler, which is never changed but copied, and the number of tokens that it has read.
    """

    name = "grammar"
    kind = "constraint"
    stateful = True
    drafts = False
    text: str
    """The grammar, as GBNF."""
    root: str
    """The rule to begin with."""
    vocabulary: Any
    """The llama_vocab whose tokens are matched."""
    first: int | None
    """Tokens that come before the grammar's text: the prompt. None: all that stand there when it is first asked."""

    @classmethod
    def of(cls, grammar: Any, model: Any, prompt: int | None) -> Grammar:
        """From a LlamaGrammar, the model whose tokens it reads, and the number of tokens before its text."""
        text = getattr(grammar, "_grammar", None)
        if not isinstance(text, str):
            raise ControllerError(f"grammar is {type(grammar).__name__}; give a LlamaGrammar")
        return cls(text, grammar._root, C.llama_model_get_vocab(model), prompt)

    def start(self) -> tuple[_Sampler, int | None]:
        made = C.llama_sampler_init_grammar(self.vocabulary, self.text.encode(), self.root.encode())
        if not made:
            raise ControllerError("grammar can't be read: llama.cpp has printed where; check its GBNF")
        return _Sampler(made), self.first

    def step(self, state: tuple[_Sampler, int | None], scores: Candidates, row: Row) -> tuple[Any, Candidates]:
        sampler, seen = state
        seen = len(row.tokens) if seen is None else seen
        for token in row.tokens[seen:]:  # written without having been drawn here: an exit's suffix
            sampler = sampler.after(token, len(scores.logits))
        logits = np.where(sampler.allowed(np.arange(len(scores.logits), dtype=np.intc)), scores.logits, -np.inf)
        return (sampler, len(row.tokens)), Candidates(logits.astype(scores.logits.dtype))

    def accept(self, state: tuple[_Sampler, int], scores: Candidates, token: int) -> Any:
        sampler, seen = state
        return sampler.after(token, None), seen + 1


_CANDIDATE = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)


class _Sampler:
    """A llama_sampler that is freed with its last reference."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        weakref.finalize(self, C.llama_sampler_free, sampler)

    def allowed(self, tokens: Any) -> Any:
        """Shape (n,), bool: which of these n tokens may come next."""
        data = np.zeros(len(tokens), dtype=_CANDIDATE)
        data["id"] = tokens
        pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)
        C.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return data["logit"] > -np.inf

    def after(self, token: int, vocabulary: int | None) -> _Sampler:
        """A copy that has read `token`.

        Args:
            token: the next one.
            vocabulary: the number of tokens, to check this one first (llama.cpp ends the process on a wrong one);
                None = it was allowed already.

        Raises:
            ControllerError: the grammar doesn't admit the token.
        """
        if vocabulary is not None and not self.allowed(np.array([token], dtype=np.intc))[0]:
            raise ControllerError(
                f"the call's grammar doesn't admit the forced token {token}; leave out the grammar, or the exit rule"
            )
        copy = _Sampler(C.llama_sampler_clone(self._sampler))
        C.llama_sampler_accept(copy._sampler, token)
        return copy
