"""N-gram databases in a model's own tokens: of text files (`ctl ngrams`), and of collected runs (`ctl calibrate`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller.core import file_name, vocabulary_hash
from reasonctl.controller.drafting import NgramTable, build_table, save_table
from reasonctl.probes.files import check_target

from ..advice.prefix_trie import check_files, own_texts
from ..runs.records import RunRecord
from .console import Console
from .options import Options
from .recipes import open_model


def ngrams(name: str, texts: Sequence[str], out: str, options: Options) -> None:
    """Read texts, count their n-grams and write the database. What can be refused is refused before the model loads."""
    show, path = Console(as_json=options.json), Path(out)
    check_target(path, options.force)
    check_files(texts)
    model = open_model(name, options)
    source = ", ".join(map(file_name, texts))
    table = write(model, own_texts(texts), path, source=source, force=options.force)
    show.say(usage(table, path, "corpus"))
    show.result({"out": out, "ngrams": len(table.keys), "megabytes": table.megabytes(), "source": source})


def keep_ngrams(model: Model, records: Sequence[RunRecord], path: Path, *, source: str, force: bool) -> NgramTable:
    """The database of what a model wrote in collected runs, their trial answers left out."""
    return write(model, (record.text for record in records), path, source=source, force=force)


def write(model: Model, texts: Iterable[str], path: Path, *, source: str, force: bool) -> NgramTable:
    """Count the n-grams of texts and save them.

    Raises:
        ControllerError: The texts hold no n-grams, or the file can't be written.
    """
    tokens = (model.tokenizer.encode(text) for text in texts)
    table = build_table(tokens, vocabulary=vocabulary_hash(model.tokenizer), source=source)
    save_table(path, table, force=force)
    return table


def usage(table: NgramTable, path: Path, place: str) -> str:
    """What was written, and how to use it."""
    size = f"{len(table.keys)} n-grams, {table.megabytes():.1f} MB"
    return f"{path}: {size}; use it with --draft 'hierarchy({place}={path})'"
