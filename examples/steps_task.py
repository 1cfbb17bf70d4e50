"""Writes reasoning-gym's chain_sum with a request to think in steps, as a task file for `ctl calibrate`.

python examples/steps_task.py steps.jsonl
"""

import json
import sys

import reasoning_gym

entries = reasoning_gym.create_dataset(
    "chain_sum", size=400, seed=0, min_terms=2, max_terms=3, min_digits=1, max_digits=1
)
problems = {}
for entry in entries:
    question = "Think step by step, one short sentence per step.\n" + entry["question"]
    problems.setdefault(question, {"question": question, "answer": entry["answer"]})
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write("\n".join(map(json.dumps, problems.values())) + "\n")
