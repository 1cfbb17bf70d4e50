"""The standard deviation of accuracy estimates from n samples: arithmetic codes against independent samples.

python examples/studies/codes_spread.py tiny --tasks tiny [--temperature 1.2] [--problems 16] [--repeats 12]

Each problem is sampled again and again, each time with a shift and keys of its own. The first 4, 8 and 16 samples give
an estimate of the model's accuracy on it; its variance over the repeats is averaged over problems. The interval of the
ratio is a bootstrap over problems.
"""

import argparse
import json

import numpy as np

from reasonctl.calibration.runs.recipe import Recipe, loaded
from reasonctl.calibration.runs.sampled import SampleSet, sample_problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller.thinking import read_template

SIZES = (4, 8, 16)
CODES = ("independent", "arithmetic")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("--tasks", required=True)
parser.add_argument("--temperature", type=float, default=1.2)
parser.add_argument("--problems", type=int, default=16)
parser.add_argument("--repeats", type=int, default=12)
parser.add_argument("--max-new-tokens", type=int, default=512)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

model = loaded(options.model, None, 1, batch=options.batch)
found = read_template(model.template)
policy = f"temperature({options.temperature:g})"
recipe = Recipe(
    model=options.model,
    backend=None,
    threads=1,
    markers=None if found.markers is None else (found.markers.open, found.markers.close),
    cues=("paragraph",),
    suffix=found.suffix,
    max_cues=0,
    layers=(1.0,),
    policy=policy,
    draft="none",
    seed=options.seed,
    max_new_tokens=options.max_new_tokens,
    answer_tokens=64,
    batch=options.batch,
)
task = load_task(options.tasks)
sets = [SampleSet(codes, max(SIZES), policy, codes) for codes in CODES]
right = np.zeros((len(CODES), options.problems, options.repeats, max(SIZES)))
for i, problem in enumerate(task.problems(options.problems, stream=2 * options.seed + 1, prompt=model.prompt)):
    for repeat in range(options.repeats):
        drawn = sample_problem(recipe, i * options.repeats + repeat, problem.question, sets)
        for k, samples in enumerate(drawn):
            right[k, i, repeat] = [task.grader.right(one.text, problem) for one in samples]
    print(f"problem {i + 1}: {right[:, i].mean():.3f} right", flush=True)

rng = np.random.default_rng(0)
again = rng.integers(options.problems, size=(4000, options.problems))
print(f"mean: {right[0].mean():.4f} independent, {right[1].mean():.4f} arithmetic")
for size in SIZES:
    variances = right[..., :size].mean(axis=-1).var(axis=-1, ddof=1)  # shape (codes, problems)
    means = variances[:, again].mean(axis=-1)  # shape (codes, bootstrap)
    low, high = np.nanquantile(np.sqrt(means[1] / means[0]), (0.025, 0.975))
    independent, arithmetic = np.sqrt(variances.mean(axis=-1))
    print(
        json.dumps(
            {"n": size, "independent": independent, "arithmetic": arithmetic, "ratio": arithmetic / independent}
            | {"low": low, "high": high}
        )
    )
