"""Computes the constants of test_fractal.py and test_paired.py anew, in the libraries that they come from.

Not run by the tests. In an environment of its own with Python 3.12 or later, which nolds 0.6.3 needs, from the folder
tests/:

    pip install numpy nolds==0.6.3 fbm==0.3.0 statsmodels==0.15.0
    python -m support.reference_values
"""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np

SIZES = (16, 32, 64, 128, 256)
COUNTS = ((1, 7), (0, 5), (12, 3), (4, 4), (20, 35))


def congruential(n: int) -> np.ndarray:
    """A series that no version of a library changes."""
    found, value = [], 7
    for i in range(n):
        value = (1103515245 * value + 12345) % 2**31
        found.append(value / 2**31 + 0.3 * math.sin(i / 37))
    return np.array(found)


def estimates(series: np.ndarray) -> dict[str, tuple[float, tuple[float, ...]]]:
    """The exponents of nolds and the statistics that they are slopes of, of a series that is standardised first."""
    nolds = import_module("nolds")
    z = (series - series.mean()) / series.std()
    h, (_, ranges, _) = nolds.hurst_rs(z, nvals=SIZES, fit="poly", corrected=False, unbiased=False, debug_data=True)
    d, (_, fluctuations, _) = nolds.dfa(z, nvals=SIZES, overlap=False, order=1, fit_exp="poly", debug_data=True)
    points = [tuple(map(float, np.exp(one))) for one in (ranges, fluctuations)]
    return {"rescaled_range": (float(h), points[0]), "dfa": (float(d), points[1])}


def main() -> None:
    """Print the constants."""
    print("NOLDS =", estimates(congruential(2048)))
    tables = import_module("statsmodels.stats.contingency_tables")
    for gained, lost in COUNTS:
        print("mcnemar", gained, lost, tables.mcnemar([[30, gained], [lost, 10]], exact=True).pvalue)
    fbm = import_module("fbm")
    np.random.seed(0)  # what fbm draws from: other draws than those of the constants, so means agree within their error
    for hurst in (0.5, 0.7, 0.9):
        drawn = [estimates(fbm.FBM(n=2048, hurst=hurst).fgn()) for _ in range(20)]
        values = np.array([[one["rescaled_range"][0], one["dfa"][0]] for one in drawn])
        print("FBM", hurst, values.mean(axis=0).round(3), values.std(axis=0, ddof=1).round(3))


if __name__ == "__main__":
    main()
