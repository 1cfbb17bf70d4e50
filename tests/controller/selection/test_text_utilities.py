"""Utilities of other libraries: chrF and BLEU against sacrebleu, embeddings by anything that encodes, and mbrs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import BLEU, ChrF, EmbeddingCosine, mbr, utility_matrix
from support.mbrs_golden import SEED, SETS, random_texts

TEXTS = ["the cat sat on the mat", "the cat sat on a mat", "a dog ran", "", "the cat sat on the mat", "Ça va, é ü?"]


def test_chrf_is_sacrebleus() -> None:
    scorer = pytest.importorskip("sacrebleu").CHRF()
    found = utility_matrix(TEXTS, ChrF())
    for i, one in enumerate(TEXTS):
        for j, other in enumerate(TEXTS):
            expected = scorer.sentence_score(one, [other]).score / 100 if one or other else 1.0
            assert found[i, j] == pytest.approx(expected, abs=1e-9)


def test_bleu_is_sacrebleus() -> None:
    scorer = pytest.importorskip("sacrebleu").BLEU(effective_order=True)
    found = utility_matrix(TEXTS, BLEU())
    assert found[0, 1] == pytest.approx(scorer.sentence_score(TEXTS[0], [TEXTS[1]]).score / 100)
    assert found[0, 4] == pytest.approx(1.0) and found[3, 3] == 1.0 and 0 <= found.min() <= found.max() <= 1


MBRS = json.loads((Path(__file__).parent / "mbrs_chrf.json").read_text(encoding="utf-8"))
"""What mbrs chose in an environment of its own, by tests/support/mbrs_golden.py: (index, expected chrF to 100)."""


def test_the_choice_is_that_of_mbrs() -> None:
    """Its decoder chooses the same text, from the same expected utilities; its float32 may break exact ties."""
    rng = np.random.default_rng(SEED)
    assert len(MBRS) == SETS
    for index, score in MBRS:
        ours = mbr(utility_matrix(random_texts(rng), ChrF()))
        assert score / 100 == pytest.approx(max(ours.scores), abs=1e-5)
        assert ours.scores[index] == pytest.approx(max(ours.scores), abs=1e-6)


class Letters:
    """Stands in for a sentence-transformers model: a text's vector is its count of each letter."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, sentences: list[str]) -> np.ndarray:
        self.asked.append(sentences)
        return np.array([[text.count(letter) for letter in "abc"] for text in sentences], dtype=np.float32)


def test_embeddings_of_any_encoder() -> None:
    model = Letters()
    found = utility_matrix(["ab", "ba", "c", "ab", ""], EmbeddingCosine(model))
    assert model.asked == [["ab", "ba", "c", ""]], "equal texts are encoded once"
    assert found[0].round(6).tolist() == [1, 1, 0, 1, 0] and found[4].tolist() == [0, 0, 0, 0, 0]
    assert mbr(found).index == 0


def test_an_encoder_of_another_shape_is_refused() -> None:
    class Flat:
        def encode(self, sentences: list[str]) -> list[float]:
            return [1.0] * len(sentences)

    with pytest.raises(ControllerError, match=r"shape \(2,\) for 2 texts"):
        utility_matrix(["a", "b"], EmbeddingCosine(Flat()))


@pytest.mark.parametrize(
    ("utility", "library", "extra"),
    [
        (ChrF(), "fastchrf", "samples"),
        (BLEU(), "sacrebleu", "samples"),
        (EmbeddingCosine(), "sentence_transformers", "embedding"),
    ],
)
def test_a_missing_library_is_one_line(monkeypatch, utility, library: str, extra: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)

    class Hidden:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == library:
                raise ModuleNotFoundError(f"No module named {name!r}", name=library)

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(ControllerError, match=rf"needs {library}, .*pip install 'reasonctl\[{extra}\]'"):
        utility_matrix(["a", "b"], utility)


def test_impossible_chrf_is_refused() -> None:
    with pytest.raises(ControllerError, match="order 0"):
        ChrF(order=0)
