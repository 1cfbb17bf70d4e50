"""Broken files of every kind that is read: each kind yields calls that read one of them, and use what they read."""

from __future__ import annotations

import json
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from reasonctl.backends.gguf import read_header
from reasonctl.backends.load import tiny_folder
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.calibration.cli.inspect import _monitored
from reasonctl.calibration.fitting.all_signals import fill, recorded_scores
from reasonctl.calibration.fitting.frozen import Frozen
from reasonctl.calibration.fitting.tables import make_table
from reasonctl.calibration.pages.evaluation_file import read_evaluation
from reasonctl.calibration.pages.report_parts import measured
from reasonctl.calibration.runs.arrays import share_truncated, to_arrays
from reasonctl.calibration.runs.cue_sets import check_collected, with_cues
from reasonctl.calibration.runs.run_file import FORMAT, RunFile
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.calibration.tasks.texts import read as read_texts
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Draft,
    Keys,
    Markers,
    Sampling,
    Thinking,
    parse_draft,
    parse_policy,
)
from reasonctl.controller.core.tokenizer import vocabulary_hash
from reasonctl.controller.drafting.drafter import Target
from reasonctl.controller.drafting.hierarchy import Hierarchy
from reasonctl.controller.drafting.ngrams import build_table, load_table, save_table
from reasonctl.controller.drafting.planning.cost_cache import load_curve
from reasonctl.controller.drafting.planning.payoff import best_part
from reasonctl.probes.exit import answer_tokens, make_exit
from reasonctl.probes.files import heads_file, probe_file
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.drift import DriftMonitor
from reasonctl.probes.risk.give_up import LowerGrid
from reasonctl.probes.risk.threshold import Grid
from reasonctl.probes.signals.probe import Probe
from reasonctl.probes.signals.signals import Stack
from support.fuzz import ODD_TEXTS, broken_bytes, broken_json, write_anew
from support.heads_files import heads_file as write_heads
from support.probe_files import content
from support.report_files import evaluation
from support.run_records import cue, run

Read = Callable[[], Any]
WORDS = ToyTokenizer([f"{chr(97 + i)} " for i in range(12)])


def costs(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """A cost curve from the cache, and prices of drafts by it."""
    path = folder / "curve.json"
    whole = {"identity": "x", "seconds": {"64": {"1": 0.01, "2": 0.012, "48": 0.1}, "512": {"1": 0.02, "8": 0.05}}}
    tree = Draft((1, 2, 3), (-1, 0, -1))

    def read() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                curve = load_curve(path)
            except RuntimeWarning as warning:
                raise ControllerError(str(warning)) from None
        for rows in (1, 2, 3, 7, 48, 49, 500):
            curve.note(rows, 0.01, 100)
            assert curve.now(rows, 300) > 0
        best_part(tree, [0.9, 0.8, 0.3], curve, 200, leaves=3, size=48)

    for data in _json_or_bytes(whole, n, seed):
        write_anew(path, data)
        yield read


def ngrams(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """An n-gram database, half of them with a digest that is right for what they hold."""
    path, rng = folder / "table.ngrams", np.random.default_rng(seed)
    table = build_table([[1, 2, 3, 4, 5, 6, 7, 8] * 5], vocabulary=vocabulary_hash(WORDS), source="words")
    save_table(path, table)
    whole = path.read_bytes()
    target = Target(ToyEngine(vocabulary=12).session(), WORDS, Keys(seed=0), Sampling())

    def read() -> None:
        found = load_table(path)
        Hierarchy(model=found).start(target)
        for pair in ([1, 2], [7, 8], [0, 0]):
            assert all(0 <= token < 12 for chain in found.continuations(pair) for token in chain)

    for data in broken_bytes(whole, n // 2, seed):
        write_anew(path, data)
        yield read
    for _ in range(n - n // 2):
        save_table(path, replace(table, keys=_broken(table.keys, rng), rest=_broken(table.rest, rng)), force=True)
        yield read


def runs(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """Collected runs and their plan, and the arrays, tables and smaller sets of cues that are made of them."""
    path, names = folder / "a.runs.jsonl", ["wait", "hmm"]
    settings = {"cues": names, "max_cues": 4, "answer_tokens": 16, "fit": 1, "labels": "records"}
    met = [cue(name=names[i % 2], position=20 + i, state=[0.5, i], score=0.1 + i / 8) for i in range(3)]
    met[1] = replace(met[1], answer=None, tokens=None, trial=0, logprobs=())
    whole = [{"format": FORMAT, "settings": settings}]
    whole += [run(run=i, cues=tuple(met), others=(met[0],)).to_json() for i in range(3)]
    whole.insert(2, {"plan": plan(names).to_json()})

    def read() -> None:
        file = RunFile(path, {})
        records, stored = file.read(), file.stored_settings()
        check_collected(["wait"], stored.texts("cues"))
        share_truncated(records, stored.whole("answer_tokens", 1))
        for some in (records, with_cues(records, ["hmm"], stored.whole("max_cues"))):
            arrays = to_arrays(some)
            make_table(arrays, np.full(len(arrays.cues), 0.5), stored.texts("cues"))
        found = file.read_plan()
        if found is not None:
            frozen = Frozen.from_json(found)
            calibrating = to_arrays(with_cues(records[1:], frozen.cues, stored.whole("max_cues")))
            frozen.check(None, Promise("wrong"), "replace")
            hidden = replace(frozen, grids={"hidden": frozen.grids["hidden"]})
            domains = sorted({record.domain for record in records})
            table = fill(hidden, calibrating, domains, recorded_scores(calibrating)).tables["hidden"].table
            Promise("wrong", 0.3).threshold(table.one_per_problem(), frozen.grids["hidden"])

    for data in _lines_or_bytes(whole, n, seed):
        write_anew(path, data)
        yield read


def plan(cues: list[str]) -> Frozen:
    """A plan with every part that one may have."""
    probe = Probe((np.array([[0.5], [0.25]]),), (np.array([0.0]),))
    grid = Grid(np.array([0.3, 0.05]), np.array([0.5, 1.0]))
    stack = Stack(0.2, 0.8, Probe((np.ones((3, 1)),), (np.zeros(1),)), Probe((np.ones((6, 1)),), (np.zeros(1),)))
    lower = LowerGrid(0.1, np.array([30.0, 20.0]))
    return Frozen(tuple(cues), "wrong", 0.3, probe, {"hidden": grid, "stack": grid}, stack, lower, {"auc": 0.9})


def tasks(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """A file of problems."""
    path = folder / "t.jsonl"
    whole = [{"question": f"{i} + 1\u2028?", "answer": i + 1, "domain": "d"} for i in range(4)]
    for data in _lines_or_bytes(whole, n, seed):
        write_anew(path, data)
        yield lambda: load_task(str(path)).problems(1, stream=0)


def texts(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """Texts for an n-gram database."""
    path = folder / "t.jsonl"
    for data in _lines_or_bytes([{"text": f"{i} é\u2029"} for i in range(4)], n, seed):
        write_anew(path, data)
        yield lambda: list(read_texts([str(path)]))


def traces(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """Traces that are tested for drift."""
    path = folder / "traces.jsonl"
    whole = [{"decisions": [{"score": 0.5 + i / 9}], "repeat": i == 2, "why": "x"} for i in range(4)]
    for data in _lines_or_bytes(whole, n, seed):
        write_anew(path, data)
        yield lambda: _monitored(DriftMonitor([0.1, 0.5, 0.9]), path)


def evaluations(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """What `ctl eval --json` wrote, and the figures of a page on it."""
    path = folder / "e.json"

    def read() -> None:
        found = read_evaluation(path)
        names = ("mode", "risk", "confidence", "signal", "domain", "give_up")
        measured(found, Promise(**{name: found[name] for name in names}))

    for data in _json_or_bytes(evaluation(), n, seed):
        write_anew(path, b"a line before\n" + data + b"\n")
        yield read


def ggufs(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """The header of a GGUF file; the weights are a hole in the file."""
    path, whole = folder / "m.gguf", (tiny_folder() / "tiny.gguf").read_bytes()
    header = whole[: whole.index(b"token_embd.weight") + 4000]
    for data in broken_bytes(header, n, seed):
        write_anew(path, data)
        os.truncate(path, len(whole))
        yield lambda: read_header(path)


POLICIES = (
    'think: no_wait(["wait"]) | temperature(0.6) | min_p(0.1) ; answer: greedy',
    "edt(t0=0.8,theta=0.4) | top_k(40) | top_p(0.95) | xtc(0.1,0.5)",
    "mirostat(5,0.1)",
    "min_new_tokens(3) | dynatemp(0.5,1.5) | top_n_sigma(1.5) | typical(0.9) | epsilon(0.001) | eta(0.001)",
    "dry(0.8,base=1.75) | bad_words([[3]]) | ead(d=0.5) | top_h(0.4)",
    "penalties(repeat=1.1,last_n=64) | logit_bias([[3,1.5],[4,-2]]) | temperature(1)",
)
DRAFTS = ("ngram(8)", "hierarchy(48)", "triforce(6, budget=1024)", "none")


def policies(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """Texts of policies; what is read is the same when it is written and read again."""
    for text in _texts(POLICIES, n, seed):
        yield lambda text=text: _again(text)


def drafts(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """Texts of drafters."""
    for text in _texts(DRAFTS, n, seed):
        yield lambda text=text: parse_draft(text)


def probes(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """A probe file: its bytes broken, and its content broken under a digest that is right for it."""
    path, whole = folder / "p.safetensors", content()
    probe_file.save_probe(path, whole)

    def read() -> None:
        found = probe_file.load_probe(path)
        probe_file.digest_of(found)
        answer_tokens(found.card)
        for mode in ("harm", "wrong", "event"):
            rule = make_exit(found, Promise(mode, 0.3, 0.9))
            rule.in_use("greedy", 64)

    sealed = (probe_file.SEALED, probe_file._tensors(whole), whole.card.to_dict())
    yield from _sealed(path, sealed, n, seed, read)


def heads(folder: Path, n: int, seed: int) -> Iterator[Read]:
    """A file of heads, as probes are broken."""
    path = write_heads(folder / "h.safetensors")
    whole = heads_file.load_heads(path)
    tensors = {f"temperature.{name}": array for name, array in whole.heads.temperature.arrays().items()}
    tensors |= {f"top_p.{name}": array for name, array in whole.heads.top_p.arrays().items()}

    def read() -> None:
        found = heads_file.load_heads(path).heads
        found.at(np.ones(found.width), np.zeros(9))

    yield from _sealed(path, (heads_file.SEALED, tensors, asdict(whole.card)), n, seed, read)


KINDS = (costs, ngrams, runs, tasks, texts, traces, evaluations, ggufs, policies, drafts, probes, heads)


def _sealed(path: Path, sealed: Any, n: int, seed: int, read: Read) -> Iterator[Read]:
    kind, tensors, card = sealed
    for data in broken_bytes(path.read_bytes(), n // 3, seed):
        write_anew(path, data)
        yield read
    for broken in broken_json(card, n // 3, seed + 1):
        kind.save(path, tensors, broken)
        yield read
    rng = np.random.default_rng(seed)
    for _ in range(n - 2 * (n // 3)):
        changed = dict(tensors)
        for name in rng.choice(sorted(tensors), rng.integers(1, 3)):
            changed[str(name)] = _broken(np.atleast_1d(changed[name]), rng)
        kind.save(path, changed, card)
        yield read


def _broken(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An array of another order, length, type, or with odd numbers in it."""
    made = array.copy()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = rng.integers(7)
        if kind == 0:
            return made[::-1].copy()
        if kind == 1:
            return made[: rng.integers(len(made) + 1)].copy()
        if kind == 2:
            return np.repeat(made, 2, axis=0)
        if kind == 3:
            return made.astype(rng.choice(["float32", "int64", "int8", "bool", "uint16"]))
        if kind == 4:
            return made.reshape(-1, 1).copy() if made.ndim == 1 else made.ravel()
        odd = np.array(rng.choice([0.0, -1.0, 1.0, 2.0**31, -(2.0**62), np.nan, np.inf, 1e308])).astype(made.dtype)
        if made.size:
            made.flat[rng.integers(made.size)] = odd
        return made


def _json_or_bytes(whole: Any, n: int, seed: int) -> Iterator[bytes]:
    for value in broken_json(whole, n // 2, seed):
        yield json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    yield from broken_bytes(json.dumps(whole, ensure_ascii=False).encode(), n - n // 2, seed)


def _lines_or_bytes(whole: list[Any], n: int, seed: int) -> Iterator[bytes]:
    for value in broken_json(whole, n // 2, seed):
        rows = value if isinstance(value, list) else [value]
        yield b"".join(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for row in rows)
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in whole)
    yield from broken_bytes(lines, n - n // 2, seed)


def _texts(whole: tuple[str, ...], n: int, seed: int) -> Iterator[str]:
    """Texts broken as bytes are, with odd values somewhere, and with odd numbers in the place of one."""
    rng = random.Random(seed)
    odd = ["9" * 400, "-" + "9" * 400, "1e999", "nan", "[" * 3000, "a" * 9000, *map(repr, ODD_TEXTS)]
    numbers = ["0", "-1", "1", "2", "0.5", "1e308", "-1e308", "1e-308", "9" * 20, "9" * 31, "9" * 400, "true", "x"]
    for i in range(n):
        text = rng.choice(whole)
        if i % 3 == 0:
            (data,) = broken_bytes(text.encode(), 1, seed + i)
            yield data.decode("utf-8", "replace")
        elif i % 3 == 1:
            at = rng.randrange(len(text))
            yield text[:at] + rng.choice(odd) + text[at + rng.randrange(3) :]
        else:
            places = list(re.finditer(r"(?<=[(,=\[ ])[-\d.]+", text)) or [re.search("$", text)]
            start, end = rng.choice(places).span()
            yield text[:start] + rng.choice(numbers) + text[end:]


def _again(text: str) -> None:
    """Read, write, read again, and draw some tokens."""
    policy = parse_policy(text)
    assert parse_policy(str(policy)) == policy
    call = Call([1, 2], 4, frozenset(), Keys(seed=0), policy)
    controller = Controller(thinking=Thinking(Markers("a ", "b "), "b "))
    with np.errstate(all="ignore"):
        list(controller.stream(ToyEngine(vocabulary=12).session(), WORDS, call))
