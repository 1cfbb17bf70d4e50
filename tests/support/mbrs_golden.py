"""Writes what mbrs chooses by chrF among random texts: `python -P tests/support/mbrs_golden.py > FILE`.

It runs in an environment of its own, as mbrs 0.1.8 needs transformers before 5:

    pip install --no-deps mbrs==0.1.8
    pip install torch==2.13.0 numpy fastchrf==0.2.1 sacrebleu transformers==4.57.1
    pip install simple_parsing scipy scikit-learn tabulate tqdm

Its metrics by neural models (BERTScore, BLEURT, COMET) aren't used; only their libraries' names are needed.
"""

from __future__ import annotations

import json
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

import numpy as np

SETS = 200
SEED = 5
WORDS = ["cat", "dog", "sat", "on", "the", "a", "mat", "ran", "éclair"]


class Anything(ModuleType):
    """A module in which every name is a class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Missing(Loader, MetaPathFinder):
    """Gives a module of empty classes for each library that only neural metrics use."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        known = name.partition(".")[0] in ("bert_score", "bleurt_pytorch", "comet")
        return spec_from_loader(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Anything(spec.name)

    def exec_module(self, module: object) -> None:
        """Nothing to run."""


def random_texts(rng: np.random.Generator) -> list[str]:
    """Two to eight texts of one to eight words."""
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(rng.integers(2, 9))]


def main() -> None:
    """Print a list of (chosen text's index, its expected chrF from 0 to 100), one a set."""
    sys.meta_path.append(Missing())
    from mbrs.decoders.mbr import DecoderMBR
    from mbrs.metrics.chrf import MetricChrF

    decoder = DecoderMBR(DecoderMBR.Config(), MetricChrF(MetricChrF.Config(num_workers=1, fastchrf=True)))
    rng, found = np.random.default_rng(SEED), []
    for _ in range(SETS):
        texts = random_texts(rng)
        best = decoder.decode(texts, texts, nbest=1)
        found.append((int(best.idx[0]), round(float(best.score[0]), 4)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
