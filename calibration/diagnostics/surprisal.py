"""Surprisal of documents under a fixed scoring model: a person's texts, and what a model wrote after their openings.

A document begins with an opening, which isn't counted. Texts of a person and of a model share their openings and have
the same number of the scoring model's tokens, so that they differ in nothing but who went on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from reasonctl.backends import Model
from reasonctl.controller import Call, Controller, ControllerError, Keys, Tokenizer, parse_policy
from reasonctl.controller.core import Fields, log_prob

from ..parallel.run_jobs import ProgressCallback
from ..runs.job_file import JobFile, append_made
from ..runs.making import run_once
from ..runs.recipe import Backend, loaded
from ..runs.teacher_forced import CHUNK, forced_rows
from .answers_file import FIRST_RUN

OPENING = 64
"""Tokens of a document's opening, under the scoring model."""
SURPLUS = 4
"""Most tokens of the writer, of those that are scored. More than this many to one are no text of a known language."""
DIGITS = 5
"""Decimal places, in bits, that are kept of a surprisal."""


class ModelName(NamedTuple):
    """A model as a worker loads it."""

    name: str
    """As the command line names it."""
    backend: Backend | None
    """The library; None: the one that the name says."""
    threads: int | None
    """Threads of a process; None: the library's choice."""

    def load(self) -> Model:
        """The model, loaded once per process."""
        return loaded(self.name, self.backend, self.threads)


@dataclass(frozen=True)
class Document:
    """One document that is scored."""

    opening: str
    """Its first tokens, which are read and not counted."""
    text: str | None
    """What follows. None: the writer writes it."""
    temperature: float = 0.0
    """Of the writer."""
    run: int = 0
    """The run's number, where it is written."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A document's surprisals."""

    text: str
    """The document after its opening."""
    surprisals: tuple[float, ...]
    """-log2 of each token's probability, in bits; none where the document ended before it was full."""

    @classmethod
    def from_json(cls, value: Any, where: str) -> Scored:
        """From parsed JSON; ControllerError for anything but a document's object."""
        found = Fields.of(value, where)
        found.only(list(cls.__slots__))
        return cls(found.text("text"), tuple(found.numbers("surprisals")))


@dataclass
class SurprisalFile(JobFile):
    """One document a line, in the order of the job."""

    what: ClassVar[str] = "surprisals"
    versions: ClassVar[tuple[int, ...]] = (1,)
    free: ClassVar[frozenset[str]] = frozenset()

    def append(self, one: Scored) -> None:
        """Write a document and make sure that it is on the disk."""
        self._write({"text": one.text, "surprisals": list(one.surprisals)})

    def read(self) -> list[Scored]:
        """All documents, in order. Raises ControllerError where the file was changed; the line is named."""
        return [Scored.from_json(value, f"line {number} of {str(self.path)!r}") for number, value in self._lines()]


def surprisals(model: Model, opening: Sequence[int], text: Sequence[int]) -> list[float]:
    """-log2 p of each token of a text, in bits, given the opening and the text before it.

    A text that is longer than the context is read in windows; then each token is given half a context or more.

    Args:
        model: The scoring model.
        opening: Tokens before the text; at least one.
        text: The tokens to score.
    """
    whole, found = [*opening, *text], list[float]()
    first, half = len(opening), model.context // 2
    if len(opening) > half:
        raise ControllerError(f"an opening of {len(opening)} tokens takes more than half of the context; shorten it")
    chunk = max(1, min(CHUNK, model.engine.room))
    while first < len(whole):
        before = whole[:first] if first < half else whole[first - half : first]
        part = whole[first : first + model.context - len(before) - 1]
        rows = forced_rows(model, before, part, chunk=chunk)
        for row, token in zip(rows, part, strict=True):
            found.append(round(-log_prob(row.logits, token) / math.log(2), DIGITS))
        first += len(part)
    return found


def documents_of(model: Model, texts: Iterable[str], tokens: int, most: int) -> tuple[list[Document], int]:
    """Texts in documents of equal length.

    Args:
        model: The scoring model, whose tokens count.
        texts: The texts; a long one gives several documents.
        tokens: Tokens of a document after its opening.
        most: Most documents.

    Returns:
        The documents, and how many texts were too short for one.
    """
    found, short, size = list[Document](), 0, OPENING + tokens
    for text in texts:
        ids = model.tokenizer.encode(text)
        short += len(ids) < size
        for first in range(0, len(ids) - size + 1, size):
            opening, rest = ids[first : first + OPENING], ids[first + OPENING : first + size]
            found.append(Document(model.tokenizer.decode(opening), model.tokenizer.decode(rest)))
            if len(found) == most:
                return found, short
    return found, short


def scored(scorer: ModelName, writer: ModelName, document: Document, tokens: int, seed: int) -> Scored:
    """Write the document if it must be, and score it.

    Args:
        scorer: The scoring model.
        writer: The model that writes where there is no text.
        document: What is scored.
        tokens: The scoring model's tokens that are scored. A document with fewer isn't.
        seed: Of the writer's sampling.
    """
    model = scorer.load()
    text = document.text
    if text is None:
        text = _written(writer.load(), model.tokenizer, document, tokens, seed)
    start, opening = list(model.start), model.tokenizer.encode(document.opening)
    ids = model.tokenizer.encode(text)[:tokens]
    if len(ids) < tokens:
        return Scored(text, ())
    return Scored(text, tuple(surprisals(model, [*start, *opening], ids)))


def _written(model: Model, counts: Tokenizer, document: Document, tokens: int, seed: int) -> str:
    """What the model writes after the opening, with no end before it is full; less where its context has no room.

    It writes on until the scoring model counts one token more than is scored: the last one may be a part of a token.
    Randomness is keyed by position, so pieces are what one long run would be.
    """
    prompt = [*model.start, *model.tokenizer.encode(document.opening)]
    sampling = "greedy" if document.temperature == 0 else f"temperature({document.temperature:g})"
    keys = Keys(seed=seed, run=FIRST_RUN + document.run)
    room = min(SURPLUS * tokens, model.context - len(prompt))
    written, counted = list[int](), 0
    while counted <= tokens and len(written) < room:
        each = max(1.0, len(written) / max(1, counted))
        most = min(math.ceil((tokens + 1 - counted) * each), room - len(written))
        policy = parse_policy(f"min_new_tokens({most}) | {sampling}")
        trace, _ = run_once(model, Controller(), Call([*prompt, *written], most, model.eos, keys, policy))
        if not trace.tokens:
            break
        written += trace.tokens
        counted = len(counts.encode(model.tokenizer.decode(written)))
    return model.tokenizer.decode(written)


def collect_surprisals(
    scorer: ModelName,
    writer: ModelName,
    documents: Sequence[Document],
    file: SurprisalFile,
    *,
    tokens: int,
    seed: int,
    done: int,
    workers: int,
    progress: ProgressCallback,
) -> list[Scored]:
    """Score the documents that the file doesn't hold yet, in order; then read all of them.

    Args:
        scorer, writer: See `scored`.
        documents: All of the job's.
        file: The open file; it holds `done` documents.
        tokens, seed: See `scored`.
        done: Documents that are there.
        workers: Number of processes.
        progress: Called after each document.
    """
    jobs = [(scorer, writer, one, tokens, seed) for one in documents]
    append_made(scored, jobs, lambda _, made: file.append(made), done=done, workers=workers, progress=progress)
    return file.read()
