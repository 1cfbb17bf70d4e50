"""Tests of distributions with a stated rate of false alarms."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from reasonctl.backends.toy import ToyEngine
from support.exact_probs import P, Q

ALPHA = 1e-4
"""False alarms of each randomised test; seeds are fixed."""


# The loop around it, on a pair of Markov chains whose laws are known.

rng = np.random.default_rng(20240517)
TARGET, DRAFT = (ToyEngine(vocabulary=5, order=1) for _ in range(2))
TARGET.table, DRAFT.table = (rng.dirichlet(np.ones(5) * 0.7, size=5) for _ in range(2))
TARGET.table[0], DRAFT.table[0] = P, Q


def exact_three(policy):
    def row(last):
        return policy.probs(np.log(TARGET.probs([last])))

    law = np.zeros((5, 5, 5))
    for a in range(5):
        for b in range(5):
            law[a, b] = row(0)[a] * row(a)[b] * row(b)
    return law


def merged_p_value(counts, law):
    """Pearson's test; cells with fewer than 5 expected are one cell."""
    observed, wanted = counts.ravel(), law.ravel() * counts.sum()
    big = wanted >= 5
    if observed[wanted == 0].any():
        return 0.0
    o, w = np.append(observed[big], observed[~big].sum()), np.append(wanted[big], wanted[~big].sum())
    o, w = o[w > 0], w[w > 0]
    return float(chi2.sf(((o - w) ** 2 / w).sum(), len(o) - 1))
