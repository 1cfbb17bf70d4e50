"""Whether a model's attention honours a tree of drafted tokens: asked of the model with one tiny tree.

A tree needs a 4D mask and explicit positions that every layer respects. What a cache's type or a signature says of
that is no proof: biases by distance (ALiBi) and masks of a model's own ignore them, or fail.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from reasonctl.controller import ROOT, Decode, Draft, Engine
from reasonctl.controller.core import Floats

_FAILS = (RuntimeError, ValueError, TypeError, IndexError)
"""What torch and transformers raise for a mask or positions that a layer can't take."""

_PAST, _LAST = (1, 2, 3), 1
_TREE = Draft((2, 3, 1), (ROOT, ROOT, 1))
"""Its second branch has two tokens, and the first one lies between them and the past."""
_BRANCH, _CHAIN = (3, 1), (2, 3, 1)
"""The second branch alone, and what a layer sees that takes the tree for a chain."""

_EXACT, _ROUNDED = 0.01, 0.25
"""Largest share of the error of a chain that still is rounding: in float32, and in narrower types."""

_WINDOWS = ("window_size", "attention_chunk_size", "local_attention")
"""What configurations call a window that their cache doesn't know. Its mask counts columns, which aren't positions."""

_ANSWERS: WeakKeyDictionary[Any, dict[tuple[Any, ...], str]] = WeakKeyDictionary()
"""By model and by what the answer depends on: a model is asked once."""


def why_no_trees(engine: Engine, model: Any) -> str:
    """Why the model's drafts are chains; "" where they may be trees.

    Args:
        engine: runs the model, and allows trees while it is asked.
        model: a transformers model.
    """
    config = model.config.get_text_config(decoder=True)
    if any(isinstance(getattr(config, name, None), int) for name in _WINDOWS):
        return "its attention has a window that its cache doesn't know"
    answers = _ANSWERS.setdefault(model, {})
    key = (type(model), config._attn_implementation, model.dtype)
    if key not in answers:
        answers[key] = _asked(engine, model.dtype)
    return answers[key]


def _asked(engine: Engine, dtype: torch.dtype) -> str:
    try:
        tree = _rows(engine, _PAST, (_LAST,), _TREE)[2:]
        branch = _rows(engine, (), (*_PAST, _LAST), Draft.chain(_BRANCH))[1:]
        chain = _rows(engine, (), (*_PAST, _LAST), Draft.chain(_CHAIN))[2:]
    except _FAILS as failed:
        return f"its attention can't take a tree's mask ({type(failed).__name__})"
    most = _EXACT if dtype == torch.float32 else _ROUNDED
    apart, wrong = (float(np.abs(rows - branch).max()) for rows in (tree, chain))
    return "" if apart <= most * wrong else "its attention doesn't honour a tree's mask or positions"


def _rows(engine: Engine, past: tuple[int, ...], pending: tuple[int, ...], draft: Draft) -> Floats:
    """Logits of the last pending token and of the draft, shape (1 + nodes, vocabulary)."""
    session = engine.session()
    if past:
        engine.forward([Decode(session, past)])
    (step,) = engine.forward([Decode(session, pending, draft)])
    rows = np.stack([step.logits(node) for node in range(ROOT, len(draft))])
    session.close()
    return rows
