"""The standard deviation of accuracy estimates from n samples: arithmetic codes against independent samples.

python examples/studies/codes_spread.py FRONTIER.html.samples.jsonl

Reads what `ctl frontier` has sampled. For a problem with accuracy p, n independent samples estimate it with the
variance p (1 - p) / n. The variance of codes is the mean square of their estimate less that of all independent samples,
without what the latter's own error adds. Both are averaged over problems; the interval of the ratio is a bootstrap over
problems.
"""

import sys
from pathlib import Path

import numpy as np

from reasonctl.calibration.evaluation.frontier import ARITHMETIC, INDEPENDENT, sizes_of
from reasonctl.calibration.runs.sampled import SamplesFile

problems = SamplesFile(Path(sys.argv[1]), {}).read()
right = {
    name: np.array([[one.right for one in problem.sets[name]] for problem in problems], dtype=float)
    for name in (INDEPENDENT, ARITHMETIC)
}
count, most = right[INDEPENDENT].shape
single = right[INDEPENDENT].var(axis=1, ddof=1)  # unbiased for p (1 - p); shape (problems,)
reference = right[INDEPENDENT].mean(axis=1, keepdims=True)
again = np.random.default_rng(0).integers(count, size=(4000, count))
print(f"{count} problems; right: {reference.mean():.3f} independent, {right[ARITHMETIC].mean():.3f} arithmetic")
print("| n | sd, independent | sd, arithmetic | ratio | 95 % |\n|---|---|---|---|---|")
for n in sizes_of(most):
    estimates = right[ARITHMETIC].reshape(count, most // n, n).mean(axis=2)
    arithmetic = ((estimates - reference) ** 2).mean(axis=1) - single / most
    independent = single / n
    ratios = np.sqrt(np.maximum(arithmetic[again].mean(axis=1), 0) / independent[again].mean(axis=1))
    low, high = np.quantile(ratios, (0.025, 0.975))
    sd, own = np.sqrt(independent.mean()), np.sqrt(max(arithmetic.mean(), 0))
    print(f"| {n} | {sd:.3f} | {own:.3f} | {own / sd:.2f} | {low:.2f} to {high:.2f} |")
