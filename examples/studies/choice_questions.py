"""Writes multiple-choice questions of four options, as a task file for `ctl mcq`, `ctl stability` and `ctl eval`.

python examples/studies/choice_questions.py choice.jsonl [--kinds general family story] [--size 64] [--explain]

general: general knowledge, written for this (general_questions.txt). family and story: reasoning-gym's
family_relationships and gsm_symbolic, with wrong options made here: other relations, numbers close by or of the text.
--explain asks for an explanation before the letter, so that there is something to leave early.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import reasoning_gym

EXPLAIN = "Explain step by step which option is right, check every step again, and then state the letter of the answer."
RELATIONS = (
    *("father", "mother", "son", "daughter", "brother", "sister", "husband", "wife"),
    *("grandfather", "grandmother", "father-in-law", "mother-in-law"),
)
Question = tuple[str, str, list[str]]
"""The text, the right option, the wrong ones."""


def general() -> Iterator[Question]:
    """A line holds the question, the right option and three wrong ones."""
    for line in (Path(__file__).parent / "general_questions.txt").read_text(encoding="utf-8").splitlines():
        stem, right, *wrong = line.split("|")
        yield stem, right, wrong


def family(size: int) -> Iterator[Question]:
    """Relations in a family; the wrong options are other relations."""
    for i, entry in enumerate(reasoning_gym.create_dataset("family_relationships", size=size, seed=0)):
        story, _, asked = entry["question"].rpartition("\n")
        others = [one for one in RELATIONS if one != entry["answer"]]
        stem = f"{story.strip()} {re.split(r'(?<=[?]) ', asked)[0]}"
        yield stem, entry["answer"], random.Random(i).sample(others, 3)


def story(size: int) -> Iterator[Question]:
    """Story problems; the wrong options are numbers of the text, or close to the right one."""
    for i, entry in enumerate(reasoning_gym.create_dataset("gsm_symbolic", size=size, seed=0)):
        right = entry["answer"]
        if not re.fullmatch(r"\d+", right):
            continue
        rng = random.Random(i)
        close = [str(int(right) + by) for by in rng.sample((-10, -2, -1, 1, 2, 10), 4) if int(right) + by >= 0]
        within = rng.sample(sorted(set(re.findall(r"\d+", entry["question"]))), 1)
        wrong = [one for one in dict.fromkeys([*within, *close]) if one != right][:3]
        yield entry["question"].partition(" Give the result")[0], right, wrong


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--kinds", nargs="+", choices=("general", "family", "story"), default=["general", "family"])
    parser.add_argument("--size", type=int, default=64, help="questions of each kind, before doubles are left out")
    parser.add_argument("--explain", action="store_true")
    options = parser.parse_args()
    made = {"general": general, "family": lambda: family(options.size), "story": lambda: story(options.size)}
    kinds = [[*made[kind]()][: options.size] for kind in options.kinds]
    lines: dict[str, str] = {}
    for i, one in enumerate(filter(None, chain.from_iterable(zip_longest(*kinds)))):
        stem, right, wrong = one
        shown = [right, *wrong]
        random.Random(f"order {i}").shuffle(shown)
        parts = [stem, *(f"{letter}. {text}" for letter, text in zip("ABCD", shown, strict=True))]
        question = "\n".join([*parts, EXPLAIN] if options.explain else parts)
        lines[stem] = json.dumps({"question": question, "answer": "ABCD"[shown.index(right)]})
    Path(options.out).write_text("\n".join(lines.values()) + "\n", encoding="utf-8")


main()
