"""A loaded model whose text is known beforehand, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reasonctl.backends.model import Model
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from support.recipes import RECIPE

PLAIN = replace(RECIPE, model="toy", markers=None, suffix="?", policy="greedy")
"""A recipe under which it writes them."""


def writing(pieces: Sequence[bytes], context: int = 1000) -> Model:
    """A model that writes these tokens one after the other, whatever the question, and ends."""
    texts = [b"?", *pieces, b"<end>"]
    engine, size = ToyEngine(vocabulary=len(texts)), len(texts)
    engine.table = np.full((size, size), 1e-9)
    engine.table[np.arange(size), np.minimum(np.arange(size) + 1, size - 1)] = 1.0
    return Model(
        name="toy",
        backend="llama.cpp",
        library=None,
        engine=engine,
        tokenizer=ToyTokenizer(texts),
        eos=frozenset({size - 1}),
        depth=3,
        width=3,
        context=context,
        template=None,
        settings={},
        prompt=lambda question: [0] * max(1, len(question)),
        can=engine.session().can,
    )
