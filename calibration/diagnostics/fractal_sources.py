"""Sources of documents, the given texts and what was written after their openings, with exponents and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reasonctl.controller import ControllerError

from .fractal import BLOCK, LEAST_BLOCKS, Array, Exponents, exponents
from .fractal_tests import label_test, shuffle_test
from .paired import holm
from .surprisal import Scored

GIVEN, SHUFFLED = "the texts", "the texts, shuffled"


@dataclass(frozen=True)
class Source:
    """Documents of one kind, and what they give."""

    name: str
    """What it is called."""
    temperature: float | None
    """Of the writer; None: these are the given texts."""
    bits: float
    """Mean surprisal of a token, in bits."""
    found: Exponents | None
    """The exponents; None: refused."""
    refused: str = ""
    """Why."""
    left_out: int = 0
    """Documents that ended before they were full, and are left out."""
    memory_p: float | None = None
    """Of the given texts: p of the test that the order of tokens doesn't matter."""
    shuffles: int | None = None
    """Of the given texts: the shuffles of that test."""
    apart_p: float | None = None
    """Of what was written: p of the test that it has the exponent of the given texts."""
    apart_adjusted: float | None = None
    """The same after Holm's method over all temperatures."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = None if self.found is None else self.found.to_json()
        return vars(self) | {"found": found}


def needed_documents(tokens: int) -> int:
    """Fewest documents of a source, of so many tokens each."""
    return -(-LEAST_BLOCKS // (tokens // BLOCK))


def sources_of(scores: Sequence[Scored], given: int, sweep: Sequence[float], *, tokens: int, seed: int) -> list[Source]:
    """The given texts, the same shuffled, and each temperature.

    Args:
        scores: All documents, source by source.
        given: Documents of each source.
        sweep: The writer's temperatures.
        tokens: Tokens of a full document; one with fewer ended too early and is left out.
        seed: Of the bootstrap and of the tests.

    Raises:
        ControllerError: Too few documents of a source are full.
    """
    names = [GIVEN, *(f"written at T {t:g}" for t in sweep)]
    series = [_full(name, scores[i * given : (i + 1) * given], tokens, written=i > 0) for i, name in enumerate(names)]
    texts, shuffled = _given(series[0], given, seed)
    written = [_source(name, t, own, given, seed) for name, t, own in zip(names[1:], sweep, series[1:], strict=True)]
    if texts.found is None:
        return [texts, shuffled, *written]
    tested = {i: label_test(series[0], series[i + 1], seed=seed) for i, one in enumerate(written) if one.found}
    for (i, p), adjusted in zip(tested.items(), holm(list(tested.values())), strict=True):
        written[i] = replace(written[i], apart_p=p, apart_adjusted=adjusted)
    return [texts, shuffled, *written]


def _full(name: str, scores: Sequence[Scored], tokens: int, *, written: bool) -> list[Array]:
    """The series of a source's full documents."""
    found = [np.array(one.surprisals) for one in scores if len(one.surprisals) >= tokens]
    needed = needed_documents(tokens)
    if len(found) < needed:
        longer = ", or a --writer with a longer context" if written else ""
        raise ControllerError(
            f"{name}: {len(found)} of {len(scores)} documents have {tokens} tokens, the others ended too early; "
            f"{needed} or more are needed: give a higher -n, a lower --max-new-tokens{longer}"
        )
    return found


def _given(series: Sequence[Array], given: int, seed: int) -> tuple[Source, Source]:
    """The given texts, and the mean of the same texts shuffled."""
    texts = _source(GIVEN, None, series, given, seed)
    shuffled = replace(texts, name=SHUFFLED)
    if texts.found is None:
        return texts, shuffled
    test = shuffle_test(series, seed=seed)
    return replace(texts, memory_p=test.p, shuffles=test.shuffles), replace(shuffled, found=test.reference)


def _source(name: str, temperature: float | None, series: Sequence[Array], given: int, seed: int) -> Source:
    bits, left_out = float(np.concatenate(series).mean()), given - len(series)
    try:
        return Source(name, temperature, bits, exponents(series, seed=seed), left_out=left_out)
    except ControllerError as error:
        return Source(name, temperature, bits, None, str(error), left_out)
