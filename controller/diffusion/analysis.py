"""How much an unmasking order is one from left to right: DiffuCoder's local and global AR-ness (arXiv 2506.20639)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ArNess(NamedTuple):
    """Both at one k."""

    local: float
    """Share of steps whose last k moves each went one position to the right."""
    whole: float
    """Share of steps that wrote one of the k leftmost masks: global AR-ness."""


def local_ar_ness(order: Sequence[int], k: int = 1) -> float:
    """Share of the steps t with i_{j+1} = i_j + 1 for all of the last k moves (section 3.2); 1 from left to right.

    The first k steps have no such history and don't count.

    >>> local_ar_ness([0, 1, 2, 3]), local_ar_ness([3, 2, 1, 0]), local_ar_ness([0, 1, 3, 2], k=1)
    (1.0, 0.0, 0.3333333333333333)
    """
    _check(order, k)
    moves = [second == first + 1 for first, second in zip(order, order[1:], strict=False)]
    windows = [all(moves[at : at + k]) for at in range(len(moves) - k + 1)]
    return sum(windows) / len(windows) if windows else 1.0


def global_ar_ness(order: Sequence[int], k: int = 1) -> float:
    """Share of the steps that wrote one of the k leftmost positions still masked (section 3.2).

    >>> global_ar_ness([0, 1, 2]), global_ar_ness([2, 1, 0]), global_ar_ness([2, 1, 0], k=3)
    (1.0, 0.3333333333333333, 1.0)
    """
    _check(order, k)
    left, hits = sorted(order), 0
    for position in order:
        hits += left.index(position) < k
        left.remove(position)
    return hits / len(order)


def ar_ness(order: Sequence[int], ks: Sequence[int] = (1, 2, 4)) -> dict[int, ArNess]:
    """Local and global AR-ness of one order at several k."""
    return {k: ArNess(local_ar_ness(order, k), global_ar_ness(order, k)) for k in ks}


def _check(order: Sequence[int], k: int) -> None:
    if k < 1 or not order or len(set(order)) < len(order):
        raise ValueError(f"AR-ness needs k >= 1 and distinct positions, got k={k} and {len(order)} positions")
