"""`ctl run`, `ctl eval` and `ctl bench` of a masked model: its answer is unmasked in the order that --order names."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from reasonctl.backends import TINY_MASKED, MaskedText, load_masked
from reasonctl.controller import ControllerError, Keys, parse_policy
from reasonctl.controller.diffusion import (
    AnswerAfter,
    Commit,
    Confidence,
    Unmask,
    UnmaskingTrace,
    ar_ness,
    parse_unmasking,
    run_all,
    run_one,
)

from ..evaluation.early_commit import CommitCalibration, calibrate_commit, commit_table, split
from ..runs.splits import evaluation_stream
from ..tasks.sources import load_task
from .console import Console
from .options import Options
from .refusal import given, refuse

ORDER = "confidence"
"""Default of --order."""
LENGTH, TINY_LENGTH = 128, 32
"""Positions of an answer by default, and those of the bundled model, which was trained with them."""
EVALUATION_RUNS, FITTING_RUNS, ROUNDS = 300, 60, 5
MARKER = "The answer is"
"""What the bundled model writes before its answer; another model's span is all of its text."""

_NEVER = "a masked model has no thinking to exit from; ctl eval calibrates its early commit"


def open_masked(name: str, options: Options, command: str, order: str | None) -> tuple[MaskedText, str]:
    """The model and the order's text. Raises ControllerError for what means nothing here or can't be loaded."""
    options.refuse(f"{command} with a masked model", "draft", "backend", because="its forward writes many tokens")
    model, text = load_masked(name, threads=options.threads), order or ORDER
    parse_unmasking(text, length_of(name, options), signal=signal_of(model, name))
    return model, text


def signal_of(model: MaskedText, name: str) -> Confidence:
    """What an early commit compares with its threshold: the least probability in the answer."""
    return Confidence(AnswerAfter(model.tokenizer, MARKER, model.eos) if name == TINY_MASKED else None, model.eos)


def refuse_order(order: str | None) -> None:
    """Raises ControllerError where --order is given for a model that writes from left to right."""
    if order is not None:
        raise ControllerError(f"--order is {order!r:.40}, and this model writes from left to right; leave it out")


def length_of(name: str, options: Options) -> int:
    """Positions of an answer."""
    return options.max_new_tokens or (TINY_LENGTH if name == TINY_MASKED else LENGTH)


def masked_runs(
    model: MaskedText, name: str, options: Options, order: str, questions: Sequence[str], commit: Commit | None = None
) -> list[Unmask]:
    """A run for each question, numbered in their order."""
    signal = signal_of(model, name) if commit is None else None
    settings = parse_unmasking(order, length_of(name, options), commit, signal=signal)
    policy = parse_policy(options.policy_text())
    return [
        Unmask(model.prompt(question), settings, policy, Keys(seed=options.seed, run=run), model.eos, model.tokenizer)
        for run, question in enumerate(questions)
    ]


def text_of(model: MaskedText, tokens: Sequence[int]) -> str:
    """The tokens' text up to the end token."""
    end = next((at for at, token in enumerate(tokens) if token in model.eos), len(tokens))
    return model.tokenizer.decode([token for token in tokens[:end] if token != model.engine.mask])


def run_masked(show: Console, name: str, question: str, options: Options, order: str | None) -> None:
    """Print one answer and how it was written."""
    options.refuse("ctl run with a masked model", "mode", "risk", "confidence", "signal", because=_NEVER)
    model, text = open_masked(name, options, "ctl run", order)
    trace = run_one(model.engine, masked_runs(model, name, options, text, [question])[0])
    show.say(question, "cyan")
    answer = text_of(model, trace.tokens)
    show.say(answer)
    found = ar_ness(trace.first_writes, (1,))[1]
    show.say(f"{len(trace.tokens)} tokens in {trace.forwards} forwards; order {text}")
    show.say(f"AR-ness (1 = left to right): local {found.local:.2f}, global {found.whole:.2f}")
    show.say(trace.why, "bold")
    show.result({**trace.to_dict(), "question": question, "text": answer, "order_text": text})


def bench_masked(show: Console, name: str, options: Options, order: str | None) -> None:
    """Print the speed of an order next to left to right, in interleaved rounds, and tokens per forward."""
    options.refuse("ctl bench with a masked model", "mode", "risk", "confidence", "signal", because=_NEVER)
    model, text = open_masked(name, options, "ctl bench", order)
    questions = _questions(name, (options.n or ROUNDS) * options.batch, options.seed)
    seconds: dict[str, list[float]] = {}
    traces: dict[str, list[UnmaskingTrace]] = {}
    kinds = dict.fromkeys(["left", text])
    for kind in kinds:
        run_one(model.engine, masked_runs(model, name, options, kind, questions[:1])[0])  # none pays for a first use
    for first in range(0, len(questions), options.batch):
        for kind in kinds:
            asked = masked_runs(model, name, options, kind, questions[first : first + options.batch])
            started = time.perf_counter()
            made = run_all(model.engine, asked)
            seconds.setdefault(kind, []).append(time.perf_counter() - started)
            traces.setdefault(kind, []).extend(made)
    result = {}
    for kind in kinds:
        tokens = sum(len(trace.tokens) for trace in traces[kind])
        forwards = sum(trace.forwards for trace in traces[kind])
        result[kind] = {
            "tokens_per_second": tokens / sum(seconds[kind]),
            "seconds": median(seconds[kind]) / options.batch,
            "tokens_per_forward": tokens / forwards,
        }
    rows = [[k, *(f"{v:.4g}" for v in r.values())] for k, r in result.items()]
    show.table(rows, "order", "tokens/s", "s/run", "tokens/forward")
    show.result({"model": name, "batch": options.batch, "orders": result})


def eval_masked(show: Console, name: str, options: Options, order: str | None, tasks: str | None) -> None:
    """Record runs, calibrate an early commit on some, and print what it does on the others."""
    because = "its early commit is calibrated on runs of this command"
    refuse(
        "ctl eval with a masked model",
        given(),
        dict.fromkeys(("probe", "report", "baselines", "trace", "out"), because),
    )
    model, text = open_masked(name, options, "ctl eval", order)
    if tasks is None and name != TINY_MASKED:
        raise ControllerError("--tasks is missing; give tiny, reasoning-gym:NAME, or a .jsonl file")
    task = load_task(tasks or "tiny", grader=options.grader, gold=options.mode != "disagree")
    n = options.n or EVALUATION_RUNS
    problems = task.problems(n, stream=evaluation_stream(options.seed))
    if options.dry_run:
        show.result({"n": n, "dry_run": True})
        return
    commit = Commit(signal_of(model, name))
    asked = masked_runs(model, name, options, text, [problem.question for problem in problems], commit)
    traces: list[UnmaskingTrace] = []
    with show.progress("unmasking") as progress:
        for first in range(0, n, max(options.batch, 1)):
            traces += run_all(model.engine, asked[first : first + max(options.batch, 1)])
            progress(len(traces), n)
    known: dict[tuple[int, str], bool] = {}

    def right(run: int, tokens: list[int]) -> bool:
        written = text_of(model, tokens)
        if (run, written) not in known:
            known[run, written] = task.grader.right(written, problems[run])
        return known[run, written]

    parts = split(commit_table(traces, right), min(FITTING_RUNS, n // 3))
    promise = options.promise
    found = calibrate_commit(*parts, promise.mode, promise.risk, promise.confidence)
    show_commit(show, found, text)
    threshold = {k: v for k, v in asdict(found.threshold).items() if k not in ("value", "loosest")}
    value = found.threshold.value if found.commits else None
    result = {k: v for k, v in asdict(found).items() if k != "threshold"} | {"saved": found.saved}
    show.result({"n": n, "seed": options.seed, "model": name, "order": text, **result, **threshold, "threshold": value})


def show_commit(show: Console, found: CommitCalibration, order: str) -> None:
    """The comparison in three lines."""
    rows = [
        ["without commit", f"{found.accuracy:.1%}", f"{found.forwards:.1f}"],
        ["with commit", f"{found.committed_accuracy:.1%}", f"{found.committed_forwards:.1f}"],
    ]
    show.table(rows, f"{found.runs} problems, order {order}", "accuracy", "forwards/run")
    show.say(found.threshold.why)
    show.say(
        f"{found.saved:.1%} of forwards saved; {found.commits:.1%} of runs committed; measured {found.threshold.mode} "
        f"{found.failures} of {found.runs} (upper bound {found.upper:.1%})",
        "bold",
    )
    if found.commits:
        show.say(f"commit so: --order '{with_commit(order, found.threshold.value)}'")


def with_commit(order: str, threshold: float) -> str:
    """The order's text with a commit above a threshold."""
    return f"{order.removesuffix(')')}{',' if '(' in order else '('}commit={threshold!r})"


def _questions(name: str, n: int, seed: int) -> list[str]:
    if name != TINY_MASKED:
        from ..tasks.draft_prompts import DRAFT_PROMPTS

        asked = [question for group in zip(*DRAFT_PROMPTS.values(), strict=True) for question in group]
        return [asked[at % len(asked)] for at in range(n)]
    return [problem.question for problem in load_task("tiny").problems(n, stream=evaluation_stream(seed))]
