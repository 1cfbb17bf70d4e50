"""What a decision costs: a decision of `hidden` at a cue, its hidden states, and a forced exit against re-encoding.

    python examples/benchmarks/cost_of_looking.py MODEL [--backend B] [--repeats 20] [--tokens 120] [--runs 2]
        [--answer-tokens 12]

MODEL is what `ctl` takes. A probe of the right shape with random weights looks at every 8th token and never exits.

- decision: what the loop does beyond its usual work in a step with a cue (states copied, probe, decision), as a share
  of one plain decode step of the same run. A linear probe, and the largest that `ctl calibrate` may choose.
- capture: one token fed again and again at the same place, three ways in random order: an engine without the
  callback, one that could read states and doesn't, one that does. llama.cpp only has the first.
- collecting: sampled runs with a forced exit at every cue. Tokens fed on the fork against suffix + answer; and the same
  exit with the prefix encoded anew, as LYNX's reference does: tokens and time. The same answer is fed there without
  being sampled. Tokens of rejected drafts count: a trial drafts from the answer before it.

CPU time of this process, one thread. Medians, with 95 % intervals for them from order statistics over the repeats (the
collecting's over cues). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from overhead import PROMPT, interval

from reasonctl.backends import Model, load_model
from reasonctl.calibration.fitting.probe import HIDDEN
from reasonctl.calibration.runs.recipe import LAYERS, Recipe
from reasonctl.calibration.runs.worker import Collect
from reasonctl.controller import (
    Boundary,
    Call,
    Controller,
    Decision,
    Decode,
    ExitRule,
    Greedy,
    Keys,
    Step,
    Trace,
    parse_policy,
)
from reasonctl.controller.thinking import default_cues, read_template
from reasonctl.probes import Card, Probe, ProbeExit, Promise
from reasonctl.probes.files import ProbeFile
from reasonctl.probes.risk import Grid, Table, Threshold
from reasonctl.probes.signals import layer_of

EVERY = 8
clock = time.process_time


@dataclass(frozen=True)
class Timed:
    """One step of a run: seconds of its forward, of what the loop did with it, and whether that held a decision."""

    fed: int
    forward: float
    loop: float
    decided: bool
    captured: bool


def drive_timed(request: Any, trace: Trace) -> Generator[Timed, None, None]:
    """A driver like any other; it looks at the clock."""
    item = next(request)
    while True:
        seen, start = len(trace.decisions), clock()
        (step,) = item.session.engine.forward((item,))
        middle, done = clock(), item
        try:
            item = request.send(step)
            while not isinstance(item, Decode):
                item = request.send(None)
        except StopIteration:
            return
        decided = len(trace.decisions) > seen
        yield Timed(len(done.pending), middle - start, clock() - middle, decided, bool(done.layers))


def start(model: Model, rule: ExitRule | None, policy: Any, tokens: int, run: int) -> tuple[Any, Trace, Any]:
    """(session, trace, the loop as a generator) of one run."""
    session, trace = model.engine.session(), Trace()
    call = Call(prompt_of(model), tokens, frozenset(), Keys(seed=0, run=run), policy)
    return session, trace, Controller(exit=rule).loop(session, model.tokenizer, call, trace)


def prompt_of(model: Model) -> list[int]:
    return model.prompt("48 a-9 b+6 c-3 d-4 e+2" if model.name == "tiny" else PROMPT)


def never(model: Model, sizes: Sequence[int]) -> ProbeExit:
    """The deployed rule at an unreachable threshold. sizes: of the random probe's hidden layers."""
    rng, found = np.random.default_rng(0), read_template(model.template)
    markers = found.markers
    widths = [len(LAYERS) * model.width, *sizes, 1]
    pairs = list(zip(widths, widths[1:], strict=False))
    probe = Probe(tuple(0.01 * rng.normal(size=pair) for pair in pairs), tuple(np.zeros(out) for _, out in pairs))
    table = Table(
        offsets=[0, 1],
        positions=[1],
        scores=[0.5],
        right=[True],
        same=[True],
        exit_tokens=[1],
        cue_name=[0],
        full_right=[True],
        full_tokens=[2],
        problem=[0],
    )
    card = Card(
        fingerprint="",
        depth=model.depth,
        width=model.width,
        template="",
        layers=LAYERS,
        cues=(f"every({EVERY})",),
        markers=(markers.open, markers.close) if markers else None,
        suffix=found.suffix,
        max_cues=10_000,
        sampler={},
        max_new_tokens=1,
        tasks="",
        seeds={},
        runs={},
        grader=None,
        mode="harm",
    )
    unreachable = Threshold(
        value=2.0,
        mode="harm",
        risk=0.05,
        confidence=0.9,
        runs=0,
        failures=0,
        more_runs=None,
        why="never exits: for timing",
    )
    return ProbeExit(ProbeFile(probe, Grid.of(table, 2), table, card), Promise(), unreachable)


def decision_cost(model: Model, sizes: Sequence[int], tokens: int, repeats: int) -> dict[str, Any]:
    """Microseconds and share of a decode step; a pair of medians per run, the median over runs."""
    rule, shares, extra, plain, decisions = never(model, sizes), [], [], [], 0
    for run in range(repeats + 1):
        session, trace, request = start(model, rule, Greedy(), tokens, run)
        steps = [step for step in drive_timed(request, trace) if step.fed == 1]
        session.close()
        if run == 0:  # warms up
            continue
        usual = median(step.loop for step in steps if not step.decided)
        looked = median(step.loop for step in steps if step.decided) - usual
        decode = median(step.forward for step in steps if not step.captured)
        decisions += sum(step.decided for step in steps)
        shares.append(looked / decode)
        extra.append(1e6 * looked)
        plain.append(1e6 * decode)
    return {
        "decisions": decisions,
        "decision_us": round(median(extra), 1),
        "decode_us": round(median(plain), 1),
        **summary("share", shares),
    }


def capture_cost(model: Model, bare: Model | None, pairs: int) -> dict[str, Any]:
    """Ratios of one plain decode step's time: with the callback unarmed, and with three layers read."""
    layers = tuple(layer_of(fraction, model.depth) for fraction in LAYERS)
    arms: dict[str, tuple[Model, tuple[int, ...]]] = {"unarmed": (model, ()), "read": (model, layers)}
    if bare is not None:
        arms["none"] = (bare, ())
    prompt, sessions = prompt_of(model), {}
    for name, (owner, _) in arms.items():
        sessions[name] = owner.engine.session()
        owner.engine.forward((Decode(sessions[name], prompt),))
    order, seconds = random.Random(0), {name: [] for name in arms}
    for _ in range(pairs + 1):
        for name in order.sample(list(arms), len(arms)):
            owner, wanted = arms[name]
            if sessions[name].can.checkpoints:
                sessions[name].checkpoint()  # the token is taken back
            begin = clock()
            owner.engine.forward((Decode(sessions[name], prompt[-1:], layers=wanted),))
            seconds[name].append(clock() - begin)
            sessions[name].rollback(1)
    for session in sessions.values():
        session.close()
    base = seconds["none" if bare is not None else "unarmed"][1:]
    found: dict[str, Any] = {"pairs": pairs, "plain_us": round(1e6 * median(base), 1)}
    for name in ("unarmed", "read") if bare is not None else ("read",):
        found |= summary(name, [one / other for one, other in zip(seconds[name][1:], base, strict=True)])
    return found


def measured(request: Generator[Decode, Step, Any]) -> Generator[Decode, Step, tuple[Any, int, float]]:
    """(what `request` returns, tokens that it fed, seconds)."""
    fed, step, begin = 0, None, clock()
    try:
        while True:
            item = request.send(step)
            fed += len(item.pending) + len(item.draft)
            step = yield item
    except StopIteration as end:
        return end.value, fed, clock() - begin


def encode_anew(at: Boundary, answer: Sequence[int]) -> Generator[Decode, Step, None]:
    """The same forced exit without a cache to share: the whole prefix again, then the same answer."""
    session = at.session.engine.session()
    yield Decode(session, [*at.tokens[: at.cue.first], *at.forced])
    for token in answer[:-1]:
        yield Decode(session, [token])
    session.close()


@dataclass
class Twice(Collect):
    """Forces every exit on a fork, which gives the answer, and then with the prefix encoded anew."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        longest = self.recipe.answer_tokens
        known, fork, fork_seconds = yield from measured(at.answer(longest))
        _, anew, anew_seconds = yield from measured(encode_anew(at, known.tokens))
        limit = len(at.forced) + len(known.tokens)
        self.rows.append(
            {"limit": limit, "fork": fork, "fork_seconds": fork_seconds, "anew": anew, "anew_seconds": anew_seconds}
        )
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, math.inf)


def collecting_cost(model: Model, tokens: int, runs: int, answer_tokens: int) -> dict[str, Any]:
    """Tokens and time of forced exits on a fork, and with the prefix encoded anew."""
    found = read_template(model.template)
    markers = found.markers
    recipe = Recipe(
        model=model.name,
        backend=None,
        threads=1,
        markers=(markers.open, markers.close) if markers else None,
        cues=default_cues(markers),
        suffix=found.suffix,
        max_cues=1000,
        layers=LAYERS,
        policy="temperature(0.6)",
        draft="none",
        seed=0,
        max_new_tokens=tokens,
        answer_tokens=answer_tokens,
    )
    rule = Twice(recipe, model)
    for run in range(runs):
        call = Call(prompt_of(model), tokens, model.eos, Keys(seed=0, run=run), parse_policy(recipe.policy))
        session = model.engine.session()
        for _ in Controller(exit=rule).stream(session, model.tokenizer, call, Trace()):
            pass
        session.close()
    if not rule.rows:
        raise SystemExit(f"no cue was met in {runs} runs of {tokens} tokens; raise --runs or --tokens")
    total = {name: sum(row[name] for row in rule.rows) for name in rule.rows[0]}
    return {
        "exits": len(rule.rows),
        "fed": total["fork"],
        "suffix_and_answer": total["limit"],
        "never_more": all(row["fork"] <= row["limit"] for row in rule.rows),
        "fed_anew": total["anew"],
        "tokens_ratio": round(total["anew"] / total["fork"], 2),
        "seconds": round(total["fork_seconds"], 3),
        "seconds_anew": round(total["anew_seconds"], 3),
        "time_ratio": round(total["anew_seconds"] / total["fork_seconds"], 2),
        **summary("per_exit", [row["anew_seconds"] / row["fork_seconds"] for row in rule.rows]),
    }


def summary(name: str, values: list[float]) -> dict[str, float]:
    """Median and its 95 % interval."""
    low, high = interval(values)
    return {name: round(median(values), 5), f"{name}_low": round(low, 5), f"{name}_high": round(high, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--backend", choices=["llama.cpp", "transformers"])
    parser.add_argument("--repeats", type=int, default=20, help="runs per probe; three times as many captures")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--runs", type=int, default=2, help="sampled runs with forced exits")
    parser.add_argument("--answer-tokens", type=int, default=12)
    options = parser.parse_args()
    given = {"backend": options.backend, "threads": 1, "context": 1024}
    model = load_model(options.model, **given)
    bare = load_model(options.model, **given, hidden=False) if model.backend == "llama.cpp" else None
    found = {
        "model": options.model,
        "backend": model.backend,
        "layers": len(LAYERS),
        "width": model.width,
        "linear": decision_cost(model, (), options.tokens, options.repeats),
        "mlp": decision_cost(model, HIDDEN, options.tokens, options.repeats),
        "capture": capture_cost(model, bare, 3 * options.repeats),
        "collecting": collecting_cost(model, options.tokens, options.runs, options.answer_tokens),
    }
    for name in ("linear", "mlp", "capture", "collecting"):
        print(name, *(f"  {key} = {value}" for key, value in found[name].items()), sep="\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
