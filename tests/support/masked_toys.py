"""A masked model whose distribution over texts is known, and its exact laws under an order."""

from __future__ import annotations

from itertools import product

import numpy as np

from reasonctl.controller.diffusion import MaskedEngine


class JointEngine(MaskedEngine):
    """The exact conditionals of a random joint distribution over texts of `length` tokens; the prompt is one token."""

    def __init__(self, vocabulary=3, length=3, seed=0):
        self.mask, self.vocabulary, self.length = vocabulary, vocabulary + 1, length
        rng = np.random.default_rng(seed)
        self.joint = rng.dirichlet(np.full(vocabulary**length, 0.5)).reshape((vocabulary,) * length)
        self.batches: list[int] = []

    def rows(self, text):
        """Shape (length, vocabulary): the conditional of each position given the unmasked others; 0 where written."""
        found = self.joint[tuple(slice(None) if token == self.mask else slice(token, token + 1) for token in text)]
        rows = np.zeros((self.length, self.vocabulary))
        for at, token in enumerate(text):
            if token == self.mask:
                marginal = found.sum(tuple(axis for axis in range(self.length) if axis != at))
                rows[at, :-1] = marginal / marginal.sum()
        return rows

    def forward(self, requests):
        self.batches.append(len(requests))
        answers = []
        for request in requests:
            rows = self.rows(request.tokens[1:])[[at - 1 for at in request.positions]]
            with np.errstate(divide="ignore"):
                answers.append(np.log(rows))
        return answers


def exact_law(engine, pick, draws_all=False):
    """The distribution over finished texts.

    pick(probs, drawn, masks) gives the rows that are written; `draws_all`: it reads a token drawn at every mask.
    """
    law = np.zeros(engine.joint.shape)

    def go(text, chance):
        masks = [at for at, token in enumerate(text) if token == engine.mask]
        if not masks:
            law[tuple(text)] += chance
            return
        probs = engine.rows(text)[masks]
        rows = None if draws_all else pick(probs, None, masks)
        drawn_at = range(len(masks)) if rows is None else rows
        for tokens in product(range(engine.mask), repeat=len(drawn_at)):
            drawn = dict(zip(drawn_at, tokens, strict=True))
            part = np.prod([probs[row, token] for row, token in drawn.items()])
            if part == 0:
                continue
            written = list(text)
            for row in pick(probs, [drawn[row] for row in drawn_at], masks) if rows is None else rows:
                written[masks[row]] = drawn[row]
            go(written, chance * part)

    go([engine.mask] * engine.length, 1.0)
    return law
