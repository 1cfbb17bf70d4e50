"""The figure of `masked_orders.py`: its raw lines as three panels.

    python examples/studies/masked_curves.py docs/figures/masked-orders.svg

Left: accuracy against forwards for each order. Middle: the order against the tokens' temperature, as local AR-ness.
Right: pass@k against the temperature.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

RAW = Path(__file__).parents[2] / "docs" / "log" / "raw"
TINY = 0.968
"""Share of right answers of tiny itself, from left to right (examples/tiny/README.md)."""


def lines(name: str) -> list[dict[str, Any]]:
    """The raw lines of a file."""
    return [json.loads(line) for line in (RAW / name).read_text(encoding="utf-8").splitlines()]


def main(path: str) -> None:
    """Write the figure."""
    orders, degrees = lines("masked-orders-2026-11-30.jsonl"), lines("masked-temperature-2026-11-30.jsonl")
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for order in ("left", "confidence", "entropy", "margin", "random"):
        found = [one for one in orders if one["part"] == "curve" and one["order"] == order]
        left.plot([one["forwards"] for one in found], [one["accuracy"] for one in found], marker="o", label=order)
    bounds = [one for one in orders if one["part"] == "curve" and one["order"].startswith("entropy_bound")]
    left.plot(
        [one["forwards"] for one in bounds], [one["accuracy"] for one in bounds], marker="s", label="entropy bound"
    )
    left.axhline(TINY, color="grey", linestyle=":", label="tiny, left to right")
    left.set(xlabel="forwards", ylabel="accuracy")
    left.legend(fontsize=7)
    heat = [one["temperature"] for one in degrees]
    for name in ("local", "global"):
        middle.plot(heat, [one[name] for one in degrees], marker="o", label=name)
    middle.set(xlabel="temperature of tokens", ylabel="AR-ness (1 = left to right)", ylim=(0, 0.5))
    middle.legend(fontsize=7)
    for k in (1, 4, 8):
        right.plot(heat, [one[f"pass@{k}"] for one in degrees], marker="o", label=f"pass@{k}")
    right.set(xlabel="temperature of tokens", ylabel="share of problems", ylim=(0.4, 1.02))
    right.legend(fontsize=7)
    with rc_context({"svg.hashsalt": "masked"}):  # the same lines give the same bytes
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1])
