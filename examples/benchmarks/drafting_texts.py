"""What a model writes about code and numbers, for an n-gram database; none of it about the prompts that are timed.

    python examples/benchmarks/drafting_texts.py MODEL --out texts.jsonl [--tokens 200] [--batch 16]
    ctl ngrams MODEL texts.jsonl --out model.ngrams

Greedy answers to 48 requests for code (drafting_prompts.txt) and 48 of reasoning-gym's sums in words, a batch at a
time; on transformers in bfloat16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import reasoning_gym
import torch

from reasonctl.backends import Model, load_model
from reasonctl.backends.hf.load import load_transformers
from reasonctl.calibration.runs.making import PreparedRun, run_window, windows_of
from reasonctl.calibration.tasks.draft_prompts import DRAFT_PROMPTS
from reasonctl.controller import Call, Controller, Greedy, Keys

SUMS = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int)
    a = parser.parse_args()
    transformers = a.model.startswith("hf:") or not a.model.endswith(".gguf")
    if transformers:
        model = load_transformers(a.model, dtype=torch.bfloat16)
    else:
        model = load_model(a.model, threads=a.threads, batch=a.batch)
    with a.out.open("w", encoding="utf-8") as file:
        for question, answer in answered(model, questions(), a.tokens, a.batch):
            text = model.tokenizer.decode([token for token in answer if token not in model.eos])
            file.write(json.dumps({"question": question, "text": text}) + "\n")
            file.flush()


def questions() -> list[str]:
    code = (Path(__file__).parent / "drafting_prompts.txt").read_text(encoding="utf-8").split("\n")
    sums = reasoning_gym.create_dataset("gsm_symbolic", size=SUMS, seed=11)
    found = [line for line in code if line] + [f"{entry['question']} Think step by step." for entry in sums]
    timed = {question for kind in DRAFT_PROMPTS.values() for question in kind}
    return [question for question in found if question not in timed]


def answered(model: Model, asked: Sequence[str], tokens: int, batch: int) -> Iterator[tuple[str, list[int]]]:
    """Questions with the tokens of their answers, in order."""
    calls = (
        Call(model.prompt(question), tokens, model.eos, Keys(seed=0, run=i), Greedy())
        for i, question in enumerate(asked)
    )
    runs, questions = [PreparedRun(Controller(), call) for call in calls], iter(asked)
    for window in windows_of(runs, batch):
        for run in run_window(model, window, batch):
            yield next(questions), run.trace.tokens


if __name__ == "__main__":
    main()
