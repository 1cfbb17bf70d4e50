"""Exact distributions of verified drafts, by enumeration of every draw on tiny vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from reasonctl.controller import ROOT, Draft, Proposal
from reasonctl.controller.sampling.rejection import node_tests

P = np.array([0.40, 0.30, 0.15, 0.10, 0.05])
Q = np.array([0.10, 0.50, 0.25, 0.05, 0.10])


def draw_sequences(probs: np.ndarray, k: int, replacement: bool) -> Iterator[tuple[float, tuple[int, ...]]]:
    """(probability, draws) of k draws from `probs`; fewer where it runs out of tokens."""

    def go(weight: float, draws: tuple[int, ...], left: np.ndarray) -> Iterator[tuple[float, tuple[int, ...]]]:
        if len(draws) == k or left.sum() <= 0:
            yield weight, draws
            return
        for token in np.flatnonzero(left):
            rest = left.copy()
            if not replacement:
                rest[token] = 0
                rest = rest / rest.sum() if rest.sum() > 0 else rest
            yield from go(weight * left[token], (*draws, int(token)), rest)

    yield from go(1.0, (), probs / probs.sum())


def node_probs(target: np.ndarray, proposal: Proposal) -> tuple[np.ndarray, list[float]]:
    """Given the draws: the probabilities of the emitted token, and of each draw to be the accepted one."""
    out, accepted, reach = np.zeros(len(target)), [], 1.0
    for token, left, drawn in node_tests(target, proposal):
        if token is None:
            out += reach * left
        else:
            chance = min(1.0, left[token] / drawn[token]) if drawn[token] > 0 else float(left[token] > 0)
            out[token] += reach * chance
            accepted.append(reach * chance)
            reach *= 1 - chance
    return out, accepted


def marginal(target: np.ndarray, probs: np.ndarray, k: int, replacement: bool) -> tuple[np.ndarray, np.ndarray]:
    """The same over all draws: the probabilities of the emitted token, and acceptance by rank."""
    out, accepted = np.zeros(len(target)), np.zeros(k)
    for weight, draws in draw_sequences(probs, k, replacement):
        emitted, ranks = node_probs(target, Proposal(probs, draws, replacement))
        out += weight * emitted
        accepted[: len(ranks)] += weight * np.array(ranks)
    return out, accepted


def outcomes(growing: Callable[[Callable[[np.ndarray], int]], Draft]) -> Iterator[tuple[float, Draft]]:
    """Every draft that `growing(choose)` can make, with its probability: each choice is replayed with each answer."""
    stack: list[tuple[float, list[int]]] = [(1.0, [])]
    while stack:
        weight, script = stack.pop()
        taken = 0

        def choose(weights: np.ndarray, script: list[int] = script) -> int:
            nonlocal taken, weight
            taken += 1
            if taken <= len(script):
                return script[taken - 1]
            options = np.flatnonzero(weights)
            shares = weights[options] / weights.sum()
            for option, share in list(zip(options, shares, strict=True))[1:]:
                stack.append((weight * share, [*script, int(option)]))
            script.append(int(options[0]))
            weight *= shares[0]
            return int(options[0])

        draft = growing(choose)
        yield weight, draft


def emitted(draft: Draft, probs: Callable[[tuple[int, ...]], np.ndarray], length: int) -> np.ndarray:
    """Shape (V,) * length: the probabilities of the first tokens of a run over one draft, then plain decoding."""
    out = np.zeros((len(probs(())),) * length)

    def walk(weight: float, path: tuple[int, ...], node: int | None) -> None:
        if len(path) == length:
            out[path] += weight
            return
        here = probs(path)
        drawn = draft.proposals.get(node) if node is not None else None
        chances = here if drawn is None else node_probs(here, drawn)[0]
        for token in np.flatnonzero(chances):
            child = draft.child(node, int(token)) if node is not None else None
            walk(weight * chances[token], (*path, int(token)), child)

    walk(1.0, (), ROOT)
    return out
