"""TriForce over the toy backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reasonctl.backends.toy import ToyEngine, ToySession
from reasonctl.controller import TriForce
from support.toy_drafts import TARGET

MIDDLE = ToyEngine(vocabulary=5)
MIDDLE.table = 0.6 * TARGET.table + 0.4 * np.random.default_rng(5).dirichlet(np.ones(5), size=5)


# In the loop: a toy whose sparse view follows another table.


class View(ToySession):
    """Follows the middle's table, and can't be rolled back before the place where it was renewed."""

    least = 0

    def __init__(self, whole):
        super().__init__(whole.engine.middle, [])
        self.whole = whole
        self.renew()

    def renew(self):
        self.tokens, self.least = list(self.whole.tokens), len(self.whole.tokens)
        self.whole.engine.renewals.append(self.least)

    def rollback(self, n):
        assert len(self.tokens) - n >= self.least
        super().rollback(n)


class Sparse(ToySession):
    """A session with a sparse view."""

    def __init__(self, engine, tokens):
        super().__init__(engine, tokens)
        self.can = replace(self.can, sparse=True)

    def sparse(self, budget, chunk):
        return View(self)


class SparseEngine(ToyEngine):
    """An engine whose sessions have sparse views; it remembers when they were renewed."""

    def __init__(self, middle, **shape):
        super().__init__(**shape)
        self.middle, self.renewals = middle, []

    def session(self):
        return Sparse(self, [])


LONG = SparseEngine(MIDDLE, vocabulary=5)
LONG.table = TARGET.table
PREFIX = [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 2, 0]


def triforce(inner=None, **more):
    """A small TriForce without adaptive sizes."""
    settings = {"size": 4, "budget": 4, "chunk": 2, "refresh": 3, "adaptive": False}
    return TriForce(inner, **(settings | more))
