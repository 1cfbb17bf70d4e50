"""Does an existing call give what it gave before? Calls of both libraries, each made in stock and attached.

    python tests/every_call.py [PATTERN ...] [--page FILE]

The controller has nothing to do (`Controller()`). What a call gives is compared value for value, chunk for chunk and
tensor for tensor; ids, times and, in random calls, the draws are left out. Where a call is controlled, the counter of
runs must move. --page writes the table. The exit code is 1 where an answer differs or a call crashes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers

from support.call_tables import TABLES
from support.calls import RESULTS, Case, Outcome

BAD = ("different", "crash")


def page(rows: list[tuple[str, Case, Outcome]]) -> str:
    """The counts, and each call that isn't simply equal, in markdown."""
    lines = ["| calls | " + " | ".join(("all", *RESULTS)) + " |", "|---" + "|---:" * (1 + len(RESULTS)) + "|"]
    for table in TABLES:
        counts = Counter(outcome.result for name, _, outcome in rows if name == table)
        lines.append(f"| {table} | {counts.total()} | " + " | ".join(str(counts[one]) for one in RESULTS) + " |")
    lines += ["", "| result | what it means |", "|---|---|", *(f"| {one} | {text} |" for one, text in RESULTS.items())]
    lines += ["", "| library | call | result | reason |", "|---|---|---|---|"]
    for table, case, outcome in rows:
        if outcome.result not in ("equal", "drawn"):
            lines.append(f"| {table} | {case.name} | {outcome.result} | {outcome.why.replace('|', '/')} |")
    lines += ["", "Equal, or drawn in the same form:", ""]
    for table in TABLES:
        fine = [case.name for name, case, outcome in rows if name == table and outcome.result in ("equal", "drawn")]
        lines += [f"**{table}**: {'; '.join(fine)}.", ""]
    return "\n".join(lines)


def outcomes(wanted: Callable[[str], bool]) -> Iterator[tuple[str, Case, Outcome]]:
    """All calls whose name is wanted."""
    for table, (cases, run) in TABLES.items():
        for case, outcome in run([case for case in cases if wanted(f"{table}: {case.name}")]):
            yield table, case, outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("REASONCTL_CACHE", "/tmp/reasonctl-calls")
    rows = []
    for row in outcomes(lambda name: not args.patterns or any(pattern in name for pattern in args.patterns)):
        rows.append(row)
        if row[2].result not in ("equal", "drawn"):
            print(row[0], row[1].name, *row[2], sep=" | ", flush=True)
    for table in TABLES:
        print(table, dict(Counter(outcome.result for name, _, outcome in rows if name == table)))
    if args.page:
        args.page.write_text(page(rows))
    sys.exit(any(outcome.result in BAD for _, _, outcome in rows))


if __name__ == "__main__":
    main()
