"""A file of runs, one JSON line each: what `handle.save` and `--trace` append to, and `ctl view` reads.

A line is `Trace.to_dict()` with the name of the format before it and the run's text after it. Without its text a run
is saved without its tokens too, as they can be decoded.

Appending is one write under a lock. What a killed process left of a line is cut off by the next append, and passed
over when the file is read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from .errors import ControllerError
from .json_text import Fields, lines
from .token_text import TextDecoder
from .tokenizer import Tokenizer
from .trace import BudgetPer, Closer, Decision, Finish, Held, Source, ThinkingSpan, Trace

if sys.platform != "win32":
    import fcntl

FORMAT = "reasonctl-run/1"
"""The format and its version."""
MOST_RUNS = 10_000
"""Most runs of a file that is read."""
MOST_TOKENS = 1 << 20
"""Most tokens of a run."""
MOST_BYTES = 1 << 28
"""Largest file that is read."""
MOST_TEXT = 1 << 24
"""Longest text."""

_START = json.dumps({"format": FORMAT})[:-1].encode()
_SOURCES: dict[str, Source] = {source[0]: source for source in get_args(Source)}


@dataclass
class SavedRun:
    """One run as it is kept."""

    trace: Trace
    """Its record. Without the text, `tokens` is empty."""
    length: int
    """How many tokens it generated."""
    model: str = ""
    """What the user calls the model; empty where nobody said."""
    question: str | None = None
    """What was asked, or the prompt's text; None where no text was asked for."""
    pieces: list[str] | None = None
    """The text that each token completed: together they are the run's text. None where no text was asked for."""
    plain_tokens: int | None = None
    """Tokens of the same run without control; None where it wasn't made."""
    right: bool | None = None
    """Whether the answer was graded as right; None where nothing was graded."""

    @classmethod
    def of(cls, trace: Trace, **about: Any) -> SavedRun:
        """A run without its text. about: the other fields."""
        return cls(trace, len(trace.tokens), **about)

    @classmethod
    def with_text(cls, trace: Trace, tokenizer: Tokenizer, question: str, **about: Any) -> SavedRun:
        """A run with its text."""
        return cls(trace, len(trace.tokens), question=question, pieces=pieces_of(trace.tokens, tokenizer), **about)

    def line(self) -> bytes:
        """The run as a line, with its line feed."""
        found = {"format": FORMAT, **self.trace.to_dict()}
        if self.pieces is None:
            del found["tokens"]
        found |= {"length": self.length, "model": self.model, "question": self.question, "pieces": self.pieces}
        found |= {"plain_tokens": self.plain_tokens, "right": self.right}
        return json.dumps(found, allow_nan=False).encode() + b"\n"


def pieces_of(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text that each token completes; a character that is split over tokens belongs to the last of them."""
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokens]
    if pieces:
        pieces[-1] += decoder.finish()
    return pieces


def append_runs(path: str | Path, runs: Sequence[SavedRun]) -> None:
    """Add runs to a file of runs, which is made where there is none.

    Raises:
        ControllerError: The file holds something else, or can't be written. It then stays as it was.
    """
    data = b"".join(run.line() for run in runs)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if sys.platform != "win32":
                fcntl.flock(handle, fcntl.LOCK_EX)
            end = _whole(handle, path)
            if end < os.fstat(handle).st_size:
                os.ftruncate(handle, end)
            _write(handle, data, end)
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ControllerError(f"{str(path)!r} can't be written ({reason}); give another file for the runs") from None


def _write(handle: int, data: bytes, end: int) -> None:
    """Write all of it; after a failure the file ends where it ended before."""
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, end)
        raise


def _whole(handle: int, path: str | Path) -> int:
    """Bytes of the file's whole lines. Raises ControllerError for a file of something else."""
    size = os.fstat(handle).st_size
    begin = os.pread(handle, len(_START), 0)
    if begin != _START[: len(begin)]:
        raise ControllerError(f"{str(path)!r} is no file of runs of this version; give a new file, as it would be lost")
    while size:
        block = os.pread(handle, min(size, 1 << 16), max(0, size - (1 << 16)))
        if (found := block.rfind(b"\n")) >= 0:
            return size - len(block) + found + 1
        size -= len(block)
    return 0


def read_runs(path: str | Path) -> list[SavedRun]:
    """The runs of a file.

    Raises:
        ControllerError: It can't be read, is too large, holds no run, or a line is none; the line is named.
    """
    place, found = Path(path), list[SavedRun]()
    if not place.is_file():
        raise ControllerError(f"{str(path)!r} is no file; give one that ctl run --trace or handle.save wrote")
    if place.stat().st_size > MOST_BYTES:
        raise ControllerError(f"{str(path)!r} is larger than {MOST_BYTES:,} bytes; divide it by lines")
    for number, value in lines(place, "a file of runs", torn_end=True):
        if len(found) == MOST_RUNS:
            raise ControllerError(f"{str(path)!r} holds more than {MOST_RUNS:,} runs; divide it by lines")
        found.append(_run(Fields.of(value, f"line {number} of {str(path)!r}")))
    if not found:
        raise ControllerError(f"{str(path)!r} holds no run; write some with ctl run --trace or handle.save")
    return found


def _run(line: Fields) -> SavedRun:
    if line.values.get("format") != FORMAT:
        line.refuse("format", f"{FORMAT!r}, as ctl run --trace and handle.save of this version write it")
    length = line.whole("length", 0, MOST_TOKENS)
    trace = _trace(line, length)
    pieces = line.optional(lambda name: line.texts(name, length), "pieces")
    if pieces is not None and len(pieces) != length:
        line.refuse("pieces", f"a list of {length:,} texts, as `length` says")
    return SavedRun(
        trace=trace,
        length=length,
        model=line.text("model", 4096),
        question=line.optional(lambda name: line.text(name, MOST_TEXT), "question"),
        pieces=pieces,
        plain_tokens=line.optional(line.whole, "plain_tokens"),
        right=line.optional(line.flag, "right"),
    )


def _trace(line: Fields, length: int) -> Trace:
    """The record, field by field."""
    counts = ("prompt_tokens", "cost", "forwards", "trials", "trial_tokens", "trial_forwards", "trial_rows", "drafted")
    wholes: dict[str, Any] = {name: line.whole(name) for name in (*counts, "accepted", "spent_before", "repeated")}
    flags: dict[str, Any] = {name: line.flag(name) for name in ("repeat", "controlled", "shadow", "always_answer")}
    limits: dict[str, Any] = {name: line.optional(line.whole, name) for name in ("budget", "stop_loops", "loop")}
    numbers: dict[str, Any] = {name: line.number_or_null(name) for name in ("seconds", "log_z", "mean_logprob")}
    infinite = -float("inf") if line.values.get("threshold_why") == "exits at every cue" else float("inf")
    tokens = [_whole_in(line, "tokens", one) for one in line.items("tokens", length)] if "tokens" in line else []
    if "tokens" in line and len(tokens) != length:
        line.refuse("tokens", f"a list of {length:,} values, as `length` says")
    return Trace(
        **wholes,
        **flags,
        **limits,
        **numbers,
        seed=line.whole("seed", -(1 << 64), 1 << 64),
        run=line.whole("run", 0, 1 << 64),
        tokens=tokens,
        sources=_sources(line, length),
        entropies=_per_token(line, "entropies", length),
        temperatures=_per_token(line, "temperatures", length),
        rule=line.text("rule", MOST_TEXT),
        overrides=_overrides(line),
        budget_per=_one_of(line, "budget_per", get_args(BudgetPer)),
        decisions=[_decision(one, infinite) for one in _objects(line, "decisions", MOST_TOKENS)],
        spans=[_span(one, length) for one in _objects(line, "spans", MOST_TOKENS)],
        reopened=[_whole_in(line, "reopened", one) for one in line.items("reopened", MOST_TOKENS)],
        finish_reason=line.optional(lambda name: _one_of(line, name, get_args(Finish)), "finish_reason"),
        note=line.text("note", MOST_TEXT),
        warnings=line.texts("warnings"),
        drift=line.optional(lambda name: _drift(line.inner(name)), "drift"),
        audit=_audit(line.inner("audit")) if line.values.get("audit") is not None else None,
    )


def _objects(line: Fields, name: str, most: int) -> list[Fields]:
    return [Fields.of(one, f"{name}[{i}] in {line.where}") for i, one in enumerate(line.items(name, most))]


def _whole_in(line: Fields, name: str, value: Any) -> int:
    return Fields({name: value}, line.where).whole(name, 0, 1 << 31)


def _one_of(line: Fields, name: str, names: Sequence[str]) -> Any:
    value = line.text(name)
    if value not in names:
        line.refuse(name, f"one of {', '.join(names)}")
    return value


def _sources(line: Fields, length: int) -> list[Source]:
    letters = line.text("sources", MOST_TOKENS)
    if len(letters) not in (0, length) or not set(letters) <= set(_SOURCES):
        line.refuse("sources", f"{length} letters m, d or f")
    return [_SOURCES[letter] for letter in letters]


def _per_token(line: Fields, name: str, length: int) -> list[float | None]:
    values = line.items(name, MOST_TOKENS)
    if len(values) not in (0, length):
        line.refuse(name, f"a list of {length:,} values, as `length` says")
    return [None if one is None else Fields({name: one}, line.where).number(name, 0.0) for one in values]


def _overrides(line: Fields) -> dict[str, float | str]:
    """The call's options: names with numbers or texts."""
    found = line.inner("overrides")
    values = found.values.items()
    return {name: found.text(name, 4096) if isinstance(one, str) else found.number(name) for name, one in values}


def _decision(one: Fields, infinite: float) -> Decision:
    score, threshold = one.number_or_null("score"), one.number_or_null("threshold")
    return Decision(
        exit=one.flag("exit"),
        cue=one.text("cue", 4096),
        index=one.whole("index"),
        position=one.whole("position", 0, MOST_TOKENS),
        score=float("nan") if score is None else score,
        threshold=infinite if threshold is None else threshold,
        gave_up=one.flag("gave_up"),
        held=_one_of(one, "held", get_args(Held)) if "held" in one else "",
    )


def _span(one: Fields, length: int) -> ThinkingSpan:
    start = one.whole("start", 0, length)
    closer = one.optional(lambda name: _one_of(one, name, get_args(Closer)), "closed_by")
    return ThinkingSpan(start, one.whole("end", start, length), closer, one.whole("forced", 0, MOST_TOKENS))


def _audit(found: Fields) -> dict[str, Any]:
    """The audits' summary, whose names `ledger.AuditSummary` explains."""
    wholes = ("admitted", "audits", "failures", "waiting", "exits", "tokens", "cost")
    verdicts = ("exited_right", "exited_wrong", "full_right", "full_wrong")
    numbers = ("risk", "level", "share", "evidence", "highest", "saved", "net_saved")
    return {
        "mode": found.text("mode", 40),
        **{name: found.whole(name) for name in (*wholes, *verdicts)},
        **{name: found.number(name) for name in numbers},
        **{name: found.flag(name) for name in ("alarm", "drawn")},
        "failed": found.optional(found.flag, "failed"),
    }


def _drift(found: Fields) -> dict[str, Any]:
    evidence = found.number_or_null("evidence")
    return {
        "runs": found.whole("runs"),
        "evidence": evidence,
        "alarm": found.flag("alarm"),
        "level": found.number("level", 1e-9, 1.0),
    }
