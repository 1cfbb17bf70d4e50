"""The part of drafting.py about TriForce: acceptance at each level, and the context length at which it would pay here.

    python examples/benchmarks/drafting.py triforce hf:smollm2.gguf [--draft-model SMALLER]
        [--context 8000] [--budget 512]

The text is this project's own documentation, teacher-forced to each length of context; then runs at the longest one.
Times are CPU times of this process, so that other work on the machine hardly shows: run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from reasonctl.backends import Model
from reasonctl.controller import (
    Call,
    Controller,
    Decode,
    Draft,
    Drafter,
    Greedy,
    Keys,
    ModelDrafter,
    PromptLookup,
    Sampling,
    Trace,
    TriForce,
)
from reasonctl.controller.drafting import best_shape
from reasonctl.controller.drafting.planning import MARGIN, SIZES

CONTEXTS = (256, 512, 1024, 2048, 4096)
ROWS = (1, 2, 4, 7)
SIZE, CHUNK, PREFILL, ROUNDS = 6, 8, 512, 5


class Counted:
    """A drafter that counts what it drafted and what of that was accepted."""

    def __init__(self, inner: Drafter) -> None:
        self.inner, self.counts = inner, Counter[str]()

    def start(self, target: Any) -> Any:
        run = self.inner.start(target)
        observe = getattr(run, "observe")  # noqa: B009

        def counted(draft: Any, accepted: Any) -> None:
            self.counts.update(asked=1, drafted=len(draft), accepted=len(accepted))
            observe(draft, accepted)

        return type("Run", (), {"propose": run.propose, "observe": staticmethod(counted), "close": run.close})()


def triforce(target: Model, drafts: list[Model], a: argparse.Namespace) -> list[dict[str, Any]]:
    assert target.can.sparse, "TriForce's middle level needs transformers: hf:FILE.gguf"
    tokens = target.tokenizer.encode(documentation())
    most = min(target.context, len(tokens), a.context + a.tokens + 8) - a.tokens - 8
    contexts = [n for n in CONTEXTS if n < most and n > a.budget] + [most]
    session, fed, out = target.engine.session(), 0, list[dict[str, Any]]()
    whole: dict[int, dict[int, float]] = {}
    part: dict[int, dict[int, float]] = {}
    for n in contexts:
        for start in range(fed, n, PREFILL):
            target.engine.forward([Decode(session, tokens[start : min(start + PREFILL, n)])])
        fed, last = n, tokens[n : n + 1]
        whole[n] = forward_times(session.fork(), last)
        part[n] = forward_times(session.sparse(a.budget, CHUNK), last)
        out.append({"context": n, "budget": a.budget, "whole": whole[n], "part": part[n]})
    inner = {"n-grams": PromptLookup(size=4)}
    for small in drafts:
        inner["small model"] = ModelDrafter(small, kind="chain", size=4, adaptive=False)
    for policy in (Greedy(), Sampling(temperature=0.6)):
        call = Call(tokens[: most + 1], a.tokens, frozenset(), Keys(seed=1), policy)
        plain, seconds = timed(target, session, Controller(), call)
        for name, drafter in inner.items():
            counted = Counted(drafter)
            made = TriForce(counted, size=SIZE, budget=a.budget, chunk=CHUNK, adaptive=False)
            trace, taken = timed(target, session, Controller(drafter=made), call)
            row = levels(trace, counted.counts)
            out.append(
                {
                    "policy": str(policy),
                    "below": name,
                    "context": most,
                    **row,
                    "same": trace.tokens == plain.tokens,
                    "tokens_per_second": len(trace.tokens) / taken,
                    "plain": len(plain.tokens) / seconds,
                    "pays_from": pays_from(whole, part, row),
                    "measured_to": most,
                }
            )
    return out


def documentation() -> str:
    root = Path(__file__).parents[2]
    return "\n".join(path.read_text(encoding="utf-8") for path in [root / "README.md", *sorted(root.glob("docs/*.md"))])


def timed(target: Model, session: Any, controller: Controller, call: Call) -> tuple[Trace, float]:
    trace, fork = Trace(), session.fork()
    start = time.process_time()
    for _ in controller.stream(fork, target.tokenizer, call, trace):
        pass
    fork.close()
    return trace, time.process_time() - start


def levels(trace: Trace, counts: Counter[str]) -> dict[str, Any]:
    """Acceptance of each level: of a tested token, as a chain's tokens after a rejection are not tested."""

    def tested(drafted: int, accepted: int, rejections: int) -> float | None:
        return accepted / (accepted + min(rejections, drafted - accepted)) if drafted else None

    steps = trace.forwards
    return {
        "tokens": len(trace.tokens),
        "forwards": steps,
        "emitted_per_step": len(trace.tokens) / steps,
        "middle": {
            "drafted": trace.drafted,
            "accepted": trace.accepted,
            "rate": tested(trace.drafted, trace.accepted, steps),
        },
        "below": {**counts, "rate": tested(counts["drafted"], counts["accepted"], counts["asked"])},
        "tokens_per_middle_forward": trace.drafted / max(1, trace.drafted - counts["accepted"]),
    }


def pays_from(whole: Any, part: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Least context at which the plan beats plain decoding, by times linear in the context; a decade beyond at most."""
    if len(whole) < 2 or row["middle"]["rate"] is None:
        return {"context": None}
    x = np.array(sorted(whole), float)
    lines = {n: np.polyfit(x, [whole[c][n] for c in sorted(whole)], 1) for n in ROWS}
    layer = float(np.mean([part[c][1] for c in sorted(part)])) / row["tokens_per_middle_forward"]

    def speed_up(context: float) -> float:
        times = [float(np.polyval(lines[n], context)) for n in ROWS]
        sizes = [n for n in SIZES if n <= ROWS[-1]]
        _, rate = best_shape(
            (min(row["middle"]["rate"], 0.999),),
            lambda n: float(np.interp(n, ROWS, times)) - (layer if n > 1 else 0),
            layer,
            sizes=sizes,
            layers=SIZE + 1,
            leaves=1,
        )
        return rate * times[0]

    grid = np.unique(np.geomspace(x[0], 10 * x[-1], 60).astype(int))
    found = next((int(c) for c in grid if speed_up(c) >= MARGIN), None)
    return {"context": found, "speed_up_at_longest": speed_up(x[-1]), "speed_up_a_decade_beyond": speed_up(10 * x[-1])}


def forward_times(session: Any, last: list[int]) -> dict[int, float]:
    """Median CPU seconds of a forward by its rows; closes the session."""
    session.engine.forward([Decode(session, last)])
    taken: dict[int, list[float]] = {n: [] for n in ROWS}
    for _ in range(ROUNDS):
        for n, seconds in taken.items():
            start = time.process_time()
            session.engine.forward([Decode(session, last, Draft.chain(last * (n - 1)))])
            seconds.append(time.process_time() - start)
            session.keep([])
            session.rollback(1)
    session.close()
    return {n: median(seconds) for n, seconds in taken.items()}
