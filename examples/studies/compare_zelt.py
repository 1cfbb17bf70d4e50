"""Against zelt-ai 0.2.2: its own features, trainer, threshold and simulator on our recorded runs, next to our signals.

    pip install --no-deps --target DIR zelt-ai==0.2.2
    PYTHONPATH=DIR python examples/studies/compare_zelt.py P.safetensors.runs.jsonl
        [--model MODEL [--exact]] [--splits 5]

Same runs, same splits as `ctl replay --signals` (a quarter fits, a quarter calibrates, half tests), same risks, same
confidence, harm. zelt's probes are our trial answers, at our cues: at all of them, or spaced as it spaces them
(48 tokens, 24 after a probability of 0.6). It is spared what ours pay: it exits with the trial's answer, and needs no
cue to be sampled and taken back. What the records don't hold is filled, see `probe`. --model names the tokenizer that
tells the answer's own tokens from the words around it; then zelt is fed both ways. --exact repeats the runs with that
model and their own keys, and measures at every cue what zelt measures, so that nothing is filled. --entropy cue gives
zelt the entropy after the cue instead of its own: a signal that it doesn't have. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.backends import load_model
from reasonctl.calibration.evaluation.signals import three_parts
from reasonctl.calibration.fitting.all_signals import fit_signals, scores_of
from reasonctl.calibration.fitting.tables import apply_to_table, make_table
from reasonctl.calibration.runs.arrays import RunArrays
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.runs.worker import Collect, one_run
from reasonctl.controller import ROOT, Boundary, Decision, Decode, Step, entropy
from reasonctl.controller.core import lines
from reasonctl.controller.thinking import stated_answer
from reasonctl.probes.risk import choose_threshold, upper_bound
from reasonctl.probes.signals import make_signal

VERSION = "0.2.2"
CHUNK, SURE, LONGEST = 48, 0.6, 16
"""zelt's probe interval in tokens, the probability beyond which it is halved, and the longest answer (EarlyStopper)."""
GRID = np.unique(np.concatenate([np.arange(0.50, 0.99, 0.01), [0.99, 0.995, 0.999]]))
"""zelt's thresholds (fit_and_report keeps them in a local)."""
RESAMPLES = 2000

Record = dict[str, Any]
Reading = Callable[[Record], slice]
"""Which of a trial's log-probabilities count as the answer's."""


@dataclass(frozen=True)
class RuleFigures:
    """A rule on one split's test runs."""

    threshold: float | None
    """None: no threshold was certified."""
    tokens: npt.NDArray[Any]
    """Shape (runs,): the cost of each run."""
    harm: npt.NDArray[np.bool_]
    """Shape (runs,): the run loses a right answer."""
    exit_rate: float
    """Share of runs that exit."""


def everything(cue: Record) -> slice:
    """All tokens of the trial, the end of sequence included."""
    return slice(None)


def answer_reader(model: str, longest: int) -> Reading:
    r"""The tokens of the stated answer and the one that closes it, as zelt counts inside \boxed{...}."""
    loaded = load_model(model, threads=1, hidden=False)

    def read(cue: Record) -> slice:
        tokenizer = loaded.tokenizer
        text, count = cue["answer"], len(cue["logprobs"])
        sampled = count - (count < longest)  # without the end of sequence
        tokens = tokenizer.encode(text)
        stated = stated_answer(text)
        if not stated or len(tokens) < sampled:
            return slice(None)
        skipped = len(tokens) - sampled
        ends = [len(tokenizer.decode(tokens[: k + 1])) for k in range(len(tokens))]
        start = text.rindex(stated)
        first = next(k for k, end in enumerate(ends) if end > start) - skipped
        last = next(k for k, end in enumerate(ends) if end >= start + len(stated)) - skipped
        return slice(max(first, 0), max(last, 0) + 2)

    return read


def probe(cue: Record, reading: Reading, entropy_of: str) -> Record:
    """A trial as zelt records one.

    Always ours: the exit text, the answer's wording, and labels by our grader, handed over as texts that zelt's grader
    tells apart. Unless measured (`exact`) also not as zelt has it: recorded answers are sampled at the runs'
    temperature, so `gm`, `mean`, `minp` are probabilities (at temperature 1) of the sampled tokens, not of the greedy
    ones; and `ent`, the entropy of the answer's first token, is not recorded: that token's surprisal stands in.
    """
    part = reading(cue) if cue["logprobs"][reading(cue)] else slice(None)
    logprobs = cue["logprobs"][part]
    stated = stated_answer(cue["answer"])
    shown = {"t": cue["position"], "ptok": cue["trial"]}
    if not stated or not logprobs:
        return {**shown, "ans": None, "gm": 0.0, "mean": 0.0, "minp": 0.0, "ent": cue["entropy"]}
    probabilities = np.exp(logprobs)
    return {
        **shown,
        "ans": "right" if cue["right"] else f"not {stated}",
        "gm": math.exp(np.mean(logprobs)),
        "mean": float(probabilities.mean()),
        "minp": float(probabilities.min()),
        "ent": cue["entropy"] if entropy_of == "cue" else cue["laws"][part][0] if "laws" in cue else -logprobs[0],
    }


@dataclass
class Greedily(Collect):
    """At every cue a greedy answer of at most zelt's length on a fork; notes top log-probabilities and entropies."""

    measured: list[Record] = field(default_factory=list)

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        fork, pending, logprobs, laws = at.session.fork(), list(at.forced), [], []
        position = at.cue.first - at.prompt
        fork.rollback(len(at.tokens) - 1 - at.cue.first)
        while len(laws) < LONGEST and not (laws and pending[0] in self.model.eos):
            step = yield Decode(fork, pending)
            logits = step.logits(ROOT).astype(np.float64)
            laws.append(entropy(logits))
            pending = [int(logits.argmax())]
            logprobs.append(float(logits.max() - np.logaddexp.reduce(logits)))
        fork.close()
        self.measured.append({"position": position, "logprobs": logprobs, "laws": laws})
        return Decision(False, at.cue.name, at.cue.index, position, 0.0, math.inf)


def exact(settings: Record, records: Sequence[Record], name: str) -> list[Record]:
    """The records with zelt's own measurements; raises where this model doesn't repeat the runs."""
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    own = {one.name for one in fields(Recipe)} & given.keys()
    recipe = Recipe(
        **{key: given[key] for key in own} | {"model": name, "backend": settings["model"]["backend"], "threads": 1}
    )
    model, repeated = recipe.load(), []
    for record in records:
        rule = Greedily(recipe, model)
        one_run(recipe, model, record["run"], record["question"], rule)
        if [seen["position"] for seen in rule.measured] != [cue["position"] for cue in record["cues"]]:
            sys.exit(f"run {record['run']} is another one under {name!r}: these runs come from another model")
        cues = [{**cue, **seen} for cue, seen in zip(record["cues"], rule.measured, strict=True)]
        repeated.append({**record, "cues": cues})
    return repeated


def spaced(probes: Sequence[Record]) -> list[Record]:
    """Those that zelt's schedule would have tried, each moved to the first cue that it can be tried at."""
    tried, due = [], CHUNK
    for one in probes:
        if one["t"] >= due:
            tried.append(one)
            sure = one["ans"] is not None and one["gm"] >= SURE
            due = one["t"] + (max(CHUNK // 2, 16) if sure else CHUNK)
    return tried


def examples(records: Sequence[Record], reading: Reading, entropy_of: str, sparse: bool) -> list[Record]:
    """Our runs in zelt's format."""
    rows = []
    for record in records:
        probes = [probe(cue, reading, entropy_of) for cue in record["cues"]]
        rows.append(
            {
                "gold": "right",
                "full_ans": "right" if record["right"] else "not",
                "full_correct": record["right"],
                "full_tokens": record["tokens"],
                "probes": spaced(probes) if sparse else probes,
            }
        )
    return rows


def their_rules(
    parts: Sequence[list[Record]], risks: Sequence[float], confidence: float
) -> Iterator[tuple[str, float, RuleFigures]]:
    """zelt's learned decider and its raw-confidence baseline, fitted, calibrated and simulated by its own code."""
    from zelt.decider import FEATURES, StopDecider, choose_tau, featurize, simulate

    fitting, calibrating, test = parts
    decider = StopDecider("logreg").fit(fitting)
    smoothed = FEATURES.index("gm_s2")
    scores = {
        "learned": lambda rows: [decider.score(row["probes"]).tolist() for row in rows],
        "raw confidence": lambda rows: [featurize(row["probes"])[:, smoothed].tolist() for row in rows],
    }
    for name, score in scores.items():
        held, tested = score(calibrating), score(test)
        for risk in risks:
            tau, _ = choose_tau(calibrating, held, GRID, risk, 1 - confidence)
            out = simulate(test, tested, math.inf if tau is None else tau)
            tokens = np.array([row["tokens"] + row["overhead"] for row in out])
            harm = np.array([row["harm"] for row in out])
            yield name, risk, RuleFigures(tau, tokens, harm, float(np.mean([row["stopped"] for row in out])))


def our_rules(
    parts: Sequence[RunArrays],
    cues: Sequence[str],
    domains: Sequence[str],
    risks: Sequence[float],
    confidence: float,
    seed: int,
) -> Iterator[tuple[str, float, RuleFigures]]:
    """Every signal of ours, as `ctl calibrate` fits and thresholds it."""
    fitting, calibrating, test = parts
    fitted = fit_signals(fitting, calibrating, cues, domains, "harm", seed=seed)
    plain = make_table(test, scores_of(fitted.probe, test), cues, domains)
    for name, calibrated in fitted.tables.items():
        table = plain if name == "hidden" else apply_to_table(make_signal(name, fitted.stack), test, plain)
        for risk in risks:
            value = choose_threshold(calibrated.table, calibrated.grid, "harm", risk, confidence).value
            out = table.outcomes(table.first_exit(value))
            found = value if value < math.inf else None
            yield name, risk, RuleFigures(found, out.tokens, out.harm, float(out.exited.mean()))


def gain(ours: RuleFigures, theirs: RuleFigures, full: npt.NDArray[Any]) -> tuple[float, float, float]:
    """Share of plain tokens that ours saves beyond theirs on the same runs; 95 % bootstrap interval over the runs."""
    rng = np.random.default_rng(0)
    more = (theirs.tokens - ours.tokens).astype(np.float64)
    rows = rng.integers(len(full), size=(RESAMPLES, len(full)))
    low, high = np.quantile(more[rows].sum(1) / full[rows].sum(1), [0.025, 0.975])
    return float(more.sum() / full.sum()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs")
    parser.add_argument("--model", help="whose tokenizer finds the answer's tokens in a trial")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--risk", type=float, nargs="+", default=[0.02, 0.05, 0.10])
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--entropy", choices=["answer", "cue"], default="answer")
    parser.add_argument("--exact", action="store_true", help="repeat the runs and measure as zelt does")
    options = parser.parse_args()
    if options.exact and not options.model:
        parser.error("--exact repeats the runs: name their --model")
    check_zelt()
    header, *records = (value for _, value in lines(options.runs, "collected runs", torn_end=True))
    runs = [RunRecord.from_json(record) for record in records]
    readings = {"all tokens": everything}
    if options.model:
        readings["answer tokens"] = answer_reader(options.model, header["settings"]["answer_tokens"])
    cues = sorted({cue["name"] for record in records for cue in record["cues"]})
    domains = sorted({record["domain"] for record in records})
    measured = {record["run"]: record for record in records}
    if options.exact:
        measured = {record["run"]: record for record in exact(header["settings"], records, options.model)}
    found: dict[tuple[str, float], list[RuleFigures]] = {}
    plain = []
    for turn in range(options.splits):
        parts = three_parts(runs, f"signals {options.seed} {turn}")
        plain.append(np.array([run.tokens for run in parts.test.records]))
        for name, risk, figures in our_rules(parts, cues, domains, options.risk, options.confidence, options.seed):
            found.setdefault((name, risk), []).append(figures)
        for read, reading in readings.items():
            for sparse in (False, True):
                rows = [
                    examples([measured[run.run] for run in part.records], reading, options.entropy, sparse)
                    for part in parts
                ]
                for rule, risk, figures in their_rules(rows, options.risk, options.confidence):
                    name = f"zelt {rule}, {'spaced' if sparse else 'every cue'}, {read}"
                    found.setdefault((name, risk), []).append(figures)
        print(f"split {turn + 1} of {options.splits}", file=sys.stderr)
    report(found, plain, options)


def check_zelt() -> None:
    """One line instead of a traceback where the peer isn't there, or is another version."""
    how = f"pip install --no-deps --target DIR zelt-ai=={VERSION}, and put DIR on PYTHONPATH"
    try:
        if version("zelt-ai") != VERSION:
            sys.exit(f"this compares with zelt-ai {VERSION}, found {version('zelt-ai')}: {how}")
    except PackageNotFoundError:
        sys.exit(f"zelt-ai is not installed: {how}")


def report(found: dict[tuple[str, float], list[RuleFigures]], plain: list[npt.NDArray[Any]], options: Any) -> None:
    """A line per rule and risk; then, per risk, `hidden` against the best that zelt does with any feeding."""
    rows, gains = [], []
    for (name, risk), splits in found.items():
        saved = [1 - float(one.tokens.sum() / full.sum()) for one, full in zip(splits, plain, strict=True)]
        harms = [float(one.harm.mean()) for one in splits]
        rows.append(
            {
                "rule": name,
                "risk": risk,
                "saved": round(float(np.mean(saved)), 4),
                "least": round(min(saved), 4),
                "most": round(max(saved), 4),
                "harm": round(float(np.mean(harms)), 4),
                "most_harm": round(max(harms), 4),
                "harm_upper": round(upper_bound(int(splits[0].harm.sum()), len(splits[0].harm)), 4),
                "exits": round(float(np.mean([one.exit_rate for one in splits])), 4),
                "certified": sum(one.threshold is not None for one in splits),
            }
        )
    for risk in options.risk:
        theirs = max((r for r in rows if r["risk"] == risk and r["rule"].startswith("zelt")), key=lambda r: r["saved"])
        pairs = zip(found["hidden", risk], found[theirs["rule"], risk], plain, strict=True)
        each = [gain(*pair) for pair in pairs]
        gains.append(
            {
                "risk": risk,
                "best_zelt": theirs["rule"],
                "gain": round(float(np.mean([one[0] for one in each])), 4),
                "first_split": [round(value, 4) for value in each[0]],
            }
        )
    rows.sort(key=lambda row: (row["risk"], row["rule"].startswith("zelt"), -row["saved"]))
    print(f"{'rule':<44}{'risk':>6}{'saved':>8}{'least..most':>16}{'harm':>8}{'most':>8}{'exits':>8}{'certified':>11}")
    for row in rows:
        spread = f"{row['least']:.3f}..{row['most']:.3f}"
        print(
            f"{row['rule']:<44}{row['risk']:>6.2f}{row['saved']:>8.3f}{spread:>16}{row['harm']:>8.4f}"
            f"{row['most_harm']:>8.4f}{row['exits']:>8.3f}{row['certified']:>8}/{len(plain)}"
        )
    for row in gains:
        whole, low, high = row["first_split"]
        print(
            f"risk {row['risk']}: hidden saves {100 * row['gain']:+.1f} points more than {row['best_zelt']!r} "
            f"(first split {100 * whole:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"
        )
    shown = {
        "test_runs": len(plain[0]),
        "splits": len(plain),
        "confidence": options.confidence,
        "exact": options.exact,
        "entropy": options.entropy,
        "tokens": round(float(plain[0].mean()), 2),
        "rows": rows,
        "gains": gains,
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
