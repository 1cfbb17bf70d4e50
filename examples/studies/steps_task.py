"""Writes reasoning-gym's chain_sum with a request to think in steps, as a task file for `ctl calibrate`.

python examples/studies/steps_task.py steps.jsonl [--terms 2 3] [--digits 1 1] [--size 400] [--check | --brief]

--brief asks for equations only, so that many samples are cheap. --check asks for a second look at every step, so that
an instruct model goes on after it has its answer.
"""

import argparse
import json

import reasoning_gym

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out")
parser.add_argument("--terms", type=int, nargs=2, default=(2, 3), help="fewest and most")
parser.add_argument("--digits", type=int, nargs=2, default=(1, 1), help="of each term")
parser.add_argument("--size", type=int, default=400)
parser.add_argument("--check", action="store_true", help="ask the model to check its steps")
parser.add_argument("--brief", action="store_true", help="ask for one equation a line, and nothing else")
options = parser.parse_args()
BRIEF = (
    "Work out {} from left to right. Write each step as a short equation on its own line, nothing else; "
    "the last line is 'Answer: ' and the number."
)
ASKED = (
    "{}\nWork it out step by step, then check every step again before you state the answer."
    if options.check
    else "Think step by step, one short sentence per step.\n{}"
)
entries = reasoning_gym.create_dataset(
    "chain_sum",
    size=options.size,
    seed=0,
    min_terms=options.terms[0],
    max_terms=options.terms[1],
    min_digits=options.digits[0],
    max_digits=options.digits[1],
)
problems = {}
for entry in entries:
    chain = entry["question"].partition(":")[2].strip().removesuffix("=").strip()
    question = BRIEF.format(chain) if options.brief else ASKED.format(entry["question"])
    problems.setdefault(question, {"question": question, "answer": entry["answer"]})
with open(options.out, "w", encoding="utf-8") as file:
    file.write("\n".join(map(json.dumps, problems.values())) + "\n")
