"""`ctl ngrams`: an n-gram database of text files in a model's own tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..controller import ControllerError
from ..controller.ngrams import build_table, save_table, vocabulary_hash
from .options import Options, open_model
from .show import Show


def run(name: str, texts: Sequence[str], out: str, options: Options) -> None:
    """Read, count, write; everything that can be refused is refused before the model is opened."""
    show, path = Show(as_json=options.json), Path(out)
    if path.exists() and not options.force:
        raise ControllerError(f"{path} exists; give another name, or --force to overwrite it")
    missing = [text for text in texts if not Path(text).is_file()]
    if missing:
        raise ControllerError(f"{missing[0]} is no file; give text files, or .jsonl files of {{'text'}}")
    model = open_model(name, options)
    source = ", ".join(Path(text).name for text in texts)
    tokens = (model.tokenizer.encode(text) for text in read(texts))
    table = build_table(tokens, vocabulary=vocabulary_hash(model.tokenizer), source=source)
    save_table(path, table, force=options.force)
    show.say(
        f"{path}: {len(table.keys)} n-grams, {table.megabytes():.1f} MB; use it with --draft 'hierarchy(corpus={path})'"
    )
    show.result({"out": out, "ngrams": len(table.keys), "megabytes": table.megabytes(), "source": source})


def read(paths: Sequence[str]) -> Iterator[str]:
    """The texts of files, one by one."""
    for name in paths:
        content = Path(name).read_text(encoding="utf-8")
        if not name.endswith(".jsonl"):
            yield content
            continue
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield _text(line, f"{name}, line {number}")


def _text(line: str, where: str) -> str:
    try:
        found = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise ControllerError(f"{where}: not a JSON object with 'text'") from None
    if not isinstance(found, str):
        raise ControllerError(f"{where}: 'text' is no string")
    return found
