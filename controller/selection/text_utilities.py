"""Utilities of other libraries: chrF, BLEU, and the cosine of embeddings. The extra `samples` has what they need.

Each computes all pairs at once, so that a library does so in its own fast way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..core.decode import Floats
from ..core.errors import ControllerError
from .utilities import AllPairs

EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""The sentence-transformers model of embeddings where nobody names one."""


@dataclass(frozen=True)
class ChrF(AllPairs):
    """chrF (Popovic 2015): F-score of character n-grams, in [0, 1], as sacrebleu defines it; computed by fastchrf."""

    order: int = 6
    """Longest character n-gram; at least 1."""
    beta: float = 2.0
    """Weight of recall; above 0."""

    def __post_init__(self) -> None:
        if not (self.order >= 1 and 0 < self.beta < float("inf")):
            raise ControllerError(f"chrf has order {self.order} and beta {self.beta}; give 1 or more, and above 0")

    def matrix(self, texts: Sequence[str]) -> Floats:
        try:
            import fastchrf
        except ModuleNotFoundError as error:
            raise _missing("chrf", error) from None
        given = list(texts)
        found = fastchrf.pairwise_chrf([given], [given], char_order=self.order, beta=self.beta)[0]
        return _with_empty(np.asarray(found, dtype=np.float64) / 100, texts)


@dataclass(frozen=True)
class BLEU(AllPairs):
    """Sentence BLEU (Papineni et al. 2002), in [0, 1]: sacrebleu's, exponential smoothing, effective order."""

    def matrix(self, texts: Sequence[str]) -> Floats:
        try:
            from sacrebleu.metrics.bleu import BLEU as Scorer
        except ModuleNotFoundError as error:
            raise _missing("bleu", error) from None
        scorer = Scorer(effective_order=True)
        found = [[scorer.sentence_score(one, [other]).score for other in texts] for one in texts]
        return _with_empty(np.clip(np.array(found, dtype=np.float64) / 100, 0.0, 1.0), texts)


class Encoder(Protocol):
    """A model that makes vectors of texts, as sentence-transformers' `SentenceTransformer`."""

    def encode(self, sentences: list[str]) -> Any:
        """Shape (sentences, width)."""


class EmbeddingCosine(AllPairs):
    """The cosine of two texts' embeddings, in [-1, 1]."""

    def __init__(self, model: str | Encoder = EMBEDDING_MODEL) -> None:
        """No model is loaded before the first texts are compared.

        Args:
            model: the name or folder of a sentence-transformers model, or anything with its `encode`.
        """
        self._model = model

    def matrix(self, texts: Sequence[str]) -> Floats:
        """As `AllPairs.matrix`.

        Raises:
            ControllerError: the model can't be loaded, or its vectors aren't one for each text.
        """
        vectors = np.asarray(self._encoder().encode(list(texts)), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ControllerError(f"the embedding model gave the shape {vectors.shape} for {len(texts)} texts")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        cosines: Floats = np.clip(unit @ unit.T, -1.0, 1.0)
        return cosines

    def _encoder(self) -> Encoder:
        model = self._model
        if isinstance(model, str):
            try:
                from sentence_transformers import SentenceTransformer
            except ModuleNotFoundError as error:
                raise _missing("embedding", error, "reasonctl[embedding]") from None
            try:
                self._model = model = SentenceTransformer(model)
            except (OSError, ValueError) as error:
                raise ControllerError(f"the embedding model {model!r} can't be loaded: {error}") from None
        found: Encoder = model
        return found


def _with_empty(matrix: Floats, texts: Sequence[str]) -> Floats:
    """Two empty texts are equal, and these scores say 0 of them."""
    empty = np.array([not text.strip() for text in texts], dtype=bool)
    return np.where(np.outer(empty, empty), 1.0, matrix)


def _missing(name: str, error: ModuleNotFoundError, install: str = "reasonctl[samples]") -> ControllerError:
    return ControllerError(f"the utility {name} needs {error.name}, which isn't installed: pip install '{install}'")
