"""What does the controller do on every architecture of transformers? One small random model of each, cell by cell.

    python tests/every_architecture.py [NAME ...] [--jsonl FILE] [--page FILE] [--limit 300] [--jobs 1]

A cell compares the attached model with the library's own loop, greedy, float32. `inert`, `chain` and `tree` give
stock's text. `batch` gives stock's batch where the controller has nothing to do; the page names the models whose padded
rows aren't what they are alone. `rows` is a batch in the controller's loop: each row has the text of a call of its own.
Where the controller has put tokens in (`replace`, `append`, `every(k)`, `budget`, `re-open`), the rest equals a fresh
stock call over the text before it. `hidden` compares rows with the library's own hidden states. Rows with a picture or
a sound have random ones in their prompt.

Every architecture runs in a process of its own with a time limit, so that a crash or a hang is one row. --jsonl keeps
the results, one line an architecture; names that are in the file already are not run again. --page writes the table.
The exit code is 1 where anything is wrong or has crashed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers

from support.architecture_cells import APART, CELLS, Bench, Cell, check
from support.architectures import NAMES, NO_TEXTS, VARIANTS, causal
from support.pictures import KINDS, seeing

SHOWN = {"equal": "=", "near tie": "≈", "refused": "×", "idle": "idle", "absent": "–"}
_NOT_RUN = ", ".join(f"{name} ({why})" for name, why in NO_TEXTS.items())
PICTURED = [f"{name} + {kind.medium}" for name, kind in KINDS.items()]


def bench_of(name: str) -> Bench:
    return seeing(name.split(" + ")[0]) if name in PICTURED else Bench(causal(name))


def run(name: str, results: Any) -> None:
    """All cells of one architecture, sent one by one."""
    try:
        bench = bench_of(name)
    except Exception as error:  # noqa: BLE001  whatever a library's model raises is this row's result
        results.send(("build", ("crash", f"{type(error).__name__}: {str(error)[:200]}")))
        return
    for cell in CELLS:
        if name not in PICTURED or cell not in ("batch", "rows", "hidden"):
            found = check(bench, cell)
            results.send((cell, (found.result, found.why)))
    results.close()
    os._exit(0)  # nothing of the parent's threads and atexit handlers is this process's


def result_of(name: str, limit: float) -> dict[str, Any]:
    """The row of one architecture; cells that the process didn't come to are crashes."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(name, writer))
    process.start()
    writer.close()
    cells: dict[str, Any] = {}
    try:
        while reader.poll(limit):
            cell, found = reader.recv()
            cells[cell] = found
    except EOFError:
        pass
    else:
        process.kill()
        cells["time limit"] = ("crash", f"nothing after {limit:.0f} s")
    process.join()
    if process.exitcode not in (0, -9):
        cells["process"] = ("crash", f"it ended with {process.exitcode}")
    return {"name": name, "cells": cells}


def page(rows: list[dict[str, Any]]) -> str:
    """The table and what its words mean, in markdown."""
    table = ["| architecture | " + " | ".join(CELLS) + " |", "|---" * (len(CELLS) + 1) + "|"]
    counts, notes, apart = Counter[str](), Counter[str](), list[str]()
    for row in rows:
        cells = [Cell(*row["cells"].get(name, ("absent", ""))) for name in CELLS]
        table.append(
            f"| {row['name']} | " + " | ".join(SHOWN.get(one.result, f"**{one.result}**") for one in cells) + " |"
        )
        counts.update(one.result for one in cells)
        notes.update(f"{one.result}: {one.why}" for one in cells if one.why and one.result != "equal")
        apart += [row["name"]] if APART in (one.why for one in cells) else []
    found = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    lines = [f"{len(rows)} architectures and forms, {counts.total()} cells: {found}.", "", *table, ""]
    lines += _wrapped(f"{APART} ({len(apart)}): {', '.join(apart)}.") if apart else []
    lines += ["", "Why, by the number of cells:", ""]
    for note, count in notes.most_common():
        lines += _wrapped(f"- {count} {note}")
    return "\n".join([*lines, "", *_wrapped(f"Not run: {_NOT_RUN}.")]) + "\n"


def _wrapped(text: str) -> list[str]:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong or has crashed, one line a cell."""
    return [
        f"{row['name']}, {cell}: {result}: {why}"
        for row in rows
        for cell, (result, why) in row["cells"].items()
        if result in ("wrong", "crash")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jsonl", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    os.environ["REASONCTL_CACHE"] = tempfile.mkdtemp()
    names = args.names or [*NAMES, *VARIANTS, *PICTURED]
    known = {}
    if args.jsonl and args.jsonl.is_file():
        known = {row["name"]: row for row in map(json.loads, args.jsonl.read_text().splitlines())}
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda name: result_of(name, args.limit), [name for name in names if name not in known]):
            known[row["name"]] = row
            print(row["name"], *(f"{cell}={result}" for cell, (result, _) in row["cells"].items()), flush=True)
            if args.jsonl:
                with args.jsonl.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    rows = [known[name] for name in names if name in known]
    if args.page:
        args.page.write_text(page(rows))
    print(f"{len(rows)} architectures; not run: {_NOT_RUN}")
    failed = failures(rows)
    print(*failed, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
