"""`ctl diagnose fractal`: fractal exponents of surprisal, a person's texts next to what a model writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import ControllerError, Need
from reasonctl.controller.core import check_memory

from ...advice.prefix_trie import check_files
from ...diagnostics.fractal import LEAST_DOCUMENT, LEAST_POOLED, Exponent
from ...diagnostics.fractal_sources import SHUFFLED, Source, needed_documents, sources_of
from ...diagnostics.fractal_tests import LEVEL
from ...diagnostics.fractional_noise import Recovered, recovery
from ...diagnostics.surprisal import (
    OPENING,
    Document,
    ModelName,
    Scored,
    SurprisalFile,
    collect_surprisals,
    documents_of,
)
from ...parallel.run_jobs import processes_of
from ...runs.collect import identity_of
from ...tasks.texts import read
from ..console import Console
from ..options import Options
from ..recipes import open_model
from .diagnosed import short
from .stability import numbers

DOCUMENTS = 16
"""Documents of a source where nobody asks for a number."""
TOKENS = 1024
"""Tokens of a document where nobody asks for a number."""
INTERVALS = (
    "Intervals are nominally 95 %. In simulations they covered R/S and DFA in 93 to 96 of 100 cases at 8,192 tokens "
    "and in 85 to 90 at 2,048, Joseph in 84 to 89, and S, at 50,176 tokens, in 93 to 96."
)
"""How often the bootstrap's intervals hold the mean estimate: measured on noise, docs/fractal.md."""
HEAD = ("source", "documents", "tokens", "bits", "H by R/S", "H by DFA", "Joseph", "S", "p order", "p apart", "Holm")


def fractal(
    name: str, options: Options, *, texts: tuple[str, ...], writer: str | None, temperatures: str | None, out: str
) -> None:
    """Score the documents, print their exponents, and write the page."""
    from ...pages.diagnostic import check_out  # reads jinja2

    show = Console(as_json=options.json)
    check_out(out, options.force)
    check_files(texts)
    sweep = _sweep(writer, temperatures)
    tokens, most = options.max_new_tokens or TOKENS, options.n or DOCUMENTS
    _check_lengths(tokens, most)
    given = _given(show, open_model(name, options), texts, tokens, most)
    documents = [*given, *(_asked(one, t, i) for t in sweep for i, one in enumerate(given))]
    show.say(f"{len(documents)} documents of {tokens} tokens, after openings of {OPENING}")
    if sweep and writer in (None, name):
        show.say("the model scores its own text: above temperature 0 that mixes model and sampler", "yellow")
    if options.dry_run:
        show.result({"documents": len(documents), "tokens": tokens, "dry_run": True})
        return
    scores = _scores(show, name, (writer or name) if sweep else None, documents, tokens, options, out)
    sources = sources_of(scores, len(given), sweep, tokens=tokens, seed=options.seed)
    noise = recovery([tokens] * len(given), seed=options.seed) if sources[0].found is not None else []
    title = f"Fractal structure of surprisal under {short(name)}"
    show_sources(show, title, sources, noise)
    write(Path(out), title, sources, noise)
    show.say(f"written: {out}")
    settings = {"model": name, "writer": (writer or name) if sweep else None, "tokens": tokens, "seed": options.seed}
    show.result(settings | {"sources": [one.to_json() for one in sources], "noise": [asdict(one) for one in noise]})


def _given(show: Console, model: Model, texts: Sequence[str], tokens: int, most: int) -> list[Document]:
    """The documents of the given texts; what is left out is printed."""
    given, left_out = documents_of(model, read(texts), tokens, most)
    if left_out:
        show.say(f"{left_out} texts have fewer than {OPENING + tokens} tokens and are left out", "yellow")
    if not given:
        raise ControllerError(f"no text has {OPENING + tokens} tokens; give longer ones, or a lower --max-new-tokens")
    needed = needed_documents(tokens)
    if len(given) < needed:
        raise ControllerError(
            f"the texts give {len(given)} documents of {OPENING + tokens} tokens, and the exponents need {needed}; "
            "give more texts"
        )
    return given


def _scores(
    show: Console,
    name: str,
    writer: str | None,
    documents: Sequence[Document],
    tokens: int,
    options: Options,
    out: str,
) -> list[Scored]:
    """The surprisals of all documents; those of an earlier job of the same settings are read and not made again."""
    workers, threads = options.machine(name)
    scorer = ModelName(name, options.backend, threads)
    author = ModelName(writer or name, options.backend, threads)
    header: dict[str, Any] = {"model": identity_of(scorer.load()), "tokens": tokens, "seed": options.seed}
    header |= {"documents": _digest(documents), "writer": identity_of(author.load())}
    if writer is not None:
        header["lengths"] = "in the scoring model's tokens"  # once they were the writer's; given texts always were so
    needs = [Need(engine, OPENING + tokens) for engine in {scorer.load().engine, author.load().engine}]
    check_memory(needs, 1, processes=processes_of(workers, len(documents)))
    with closing(SurprisalFile(Path(out + ".surprisals.jsonl"), header)) as file:
        done = file.open(force=options.force)
        if done:
            show.say(f"{min(done, len(documents))} documents are there already")
        with show.progress("scoring") as progress:
            return collect_surprisals(
                *(scorer, author, documents, file),
                tokens=tokens,
                seed=options.seed,
                done=done,
                workers=workers,
                progress=progress,
            )


def _sweep(writer: str | None, temperatures: str | None) -> list[float]:
    """The temperatures at which the writer writes; none where nobody asks."""
    if temperatures is None:
        if writer is not None:
            raise ControllerError("--writer writes at --temperatures; give them, such as 0,0.6,1")
        return []
    sweep = numbers("--temperatures", temperatures)
    if len(set(sweep)) < len(sweep) or not all(0 <= one <= 100 for one in sweep):
        raise ControllerError(f"--temperatures is {temperatures!r}; give numbers from 0 to 100, each once")
    return sweep


def _check_lengths(tokens: int, most: int) -> None:
    """Refuse, before any work, what would be noise."""
    if tokens < LEAST_DOCUMENT:
        raise ControllerError(
            f"--max-new-tokens is {tokens}; a document needs {LEAST_DOCUMENT} tokens or more, below that the exponents "
            "are noise"
        )
    needed = needed_documents(tokens)
    if most < needed:
        raise ControllerError(f"-n is {most}; with documents of {tokens} tokens give {needed} or more")


def _asked(given: Document, temperature: float, index: int) -> Document:
    """The same opening, written on by the writer. Equal run numbers: temperatures share their uniforms."""
    return Document(given.opening, None, temperature, index)


def _digest(documents: Sequence[Document]) -> str:
    return hashlib.sha256(json.dumps([asdict(one) for one in documents]).encode()).hexdigest()


def cells(source: Source) -> list[str]:
    """A row of the table."""
    found = source.found
    tests = ["" if p is None else f"{p:.2g}" for p in (source.memory_p, source.apart_p, source.apart_adjusted)]
    if found is None:
        return [source.name, "", "", f"{source.bits:.2f}", *["refused"] * 4, *tests]
    similarity = found.self_similarity
    return [
        source.name,
        f"{found.documents} ({source.left_out} left out)" if source.left_out else str(found.documents),
        str(found.tokens),
        f"{source.bits:.2f}",
        *(_cell(one) for one in (found.rescaled_range, found.dfa, found.joseph)),
        "-" if similarity is None else _cell(similarity),
        *tests,
    ]


def _cell(one: Exponent) -> str:
    return f"{one.value:.2f} ({one.low:.2f}-{one.high:.2f})"


def in_words(sources: Sequence[Source], noise: Sequence[Recovered]) -> list[str]:
    """What the exponents say, next to what noise of known exponents gives at the same lengths."""
    said = [f"{one.name}: {one.refused}" for one in sources if one.found is None]
    given, shuffled = sources[0].found, sources[1].found
    if given is None or shuffled is None:
        return said
    h, floor, p = given.rescaled_range, shuffled.rescaled_range, sources[0].memory_p
    assert p is not None, "the texts were estimated, so they were tested"
    first = f"The texts: Hurst exponent {h.value:.2f} ({h.low:.2f} to {h.high:.2f}) by rescaled range"
    first += f", {given.dfa.value:.2f} by DFA; shuffled {floor.value:.2f}"
    first += ": their order has memory" if p <= LEVEL else ": no more memory than chance gives"
    first += f" (p = {p:.2g}, {sources[0].shuffles} shuffles)."
    lines = [first, *_apart_in_words(sources[2:])]
    if any(one.left_out for one in sources):
        left_out = ", ".join(f"{one.name} {one.left_out}" for one in sources if one.left_out and one.name != SHUFFLED)
        lines.append(f"Left out, as they ended before they were full: {left_out}.")
    measured = "; ".join(f"{a.hurst:g}: {a.rescaled_range[0]:.2f}, {a.dfa[0]:.2f}" for a in noise)
    lines.append(f"Noise of a known exponent at these lengths (R/S, DFA): {measured}.")
    if given.self_similarity is None:
        lines.append(f"S, the self-similarity exponent, needs {LEAST_POOLED} tokens; there are {given.tokens}.")
    lines.append(INTERVALS)
    lines.append("A description of texts: no detector of who wrote them, and no signal for an exit.")
    return [*lines, *said]


def _apart_in_words(written: Sequence[Source]) -> list[str]:
    """Of each temperature whether it is apart from the texts."""
    lines = []
    for one in written:
        if one.found is not None and one.apart_adjusted is not None:
            own, apart = one.found.rescaled_range, "apart" if one.apart_adjusted <= LEVEL else "not seen apart"
            lines.append(
                f"{one.name}: {own.value:.2f} ({own.low:.2f} to {own.high:.2f}), {apart} from the texts "
                f"(Holm-adjusted p = {one.apart_adjusted:.2g}, documents permuted)."
            )
    return lines


def show_sources(show: Console, title: str, sources: Sequence[Source], noise: Sequence[Recovered]) -> None:
    """The tables and their meaning."""
    show.title(title)
    show.table([cells(one) for one in sources], *HEAD)
    if noise:
        show.table(noise_cells(noise), *NOISE_HEAD)
    first, *rest = in_words(sources, noise)
    show.say(first, "bold")
    for line in rest:
        show.say(line)


NOISE_HEAD = ("noise of known H", "by R/S (sd)", "by DFA (sd)")


def noise_cells(noise: Sequence[Recovered]) -> list[list[str]]:
    """The rows of the recovery table."""
    return [
        [f"{one.hurst:g}", *(f"{mean:.3f} ({sd:.3f})" for mean, sd in (one.rescaled_range, one.dfa))] for one in noise
    ]


def write(path: Path, title: str, sources: Sequence[Source], noise: Sequence[Recovered]) -> None:
    """The page: exponents with intervals, the straight lines that they are slopes of, and the tables."""
    from ...pages.diagnostic import PageFigure, PageTable, write_diagnostic
    from ...pages.fractal_figure import hurst_rows, scaling

    shown = [(one.name, one.found) for one in sources if one.found is not None]
    figures = []
    if shown:
        figures.append(
            PageFigure(
                hurst_rows(shown, noise),
                "Hurst exponents with bootstrap intervals, of shuffled texts the middle 95 % of shuffles: dots by "
                "rescaled range, bars by DFA. Dotted: what noise of a known exponent gives by rescaled range at these "
                "lengths.",
            )
        )
        caption = "Rescaled range against the size of the window. The Hurst exponent is the slope."
        figures.append(PageFigure(scaling(shown), caption))
    tables = [PageTable("All sources", HEAD, [cells(one) for one in sources])]
    if noise:
        tables.append(PageTable("The estimators on noise of a known exponent", NOISE_HEAD, noise_cells(noise)))
    write_diagnostic(path, title, in_words(sources, noise), figures, tables)
