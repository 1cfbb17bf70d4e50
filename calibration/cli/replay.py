"""`ctl replay`: what rules at other risks, signals and cues would have done on recorded runs, without a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from reasonctl.controller import ControllerError
from reasonctl.controller.thinking import FORM_MEANS

from ..evaluation.baselines import EQUAL_COST
from ..evaluation.signals import BUDGET, Comparison, compare_signals
from ..pages.wording import percent
from ..runs.arrays import ANSWERS_TRUNCATED, share_truncated, truncation_note
from ..runs.cue_sets import check_collected, with_cues
from ..runs.records import RunRecord
from ..runs.run_file import RunFile, stored_form
from .console import Console
from .options import Options

RISKS = (0.02, 0.05, 0.10)
"""Risks in the table, besides the one that is asked for."""


def replay(path: str, options: Options, *, cues: str | None, splits: int) -> None:
    """Print the savings of every signal at every risk, and what `hidden` gains over the best fixed cue.

    Args:
        path: The file of collected runs.
        options: The shared options.
        cues: Some of the collected cues, comma-separated. None: all of them.
        splits: Random splits that are averaged.

    Raises:
        ControllerError: The file can't be read, or holds no such cue or domain.
    """
    show, file = Console(as_json=options.json), _run_file(path)
    records = _records(file, cues, options.domain)
    risks = sorted({*RISKS, options.risk})
    with show.progress("re-splitting") as progress:
        found = compare_signals(
            records, options.promise, risks=risks, splits=splits, seed=options.seed, progress=progress
        )
    show_table(show, found, len(records), splits, options)
    settings = file.stored_settings()
    form, limit = stored_form(settings), settings.whole("answer_tokens", 1)
    show.say(f"All exits are of the form {form}: {FORM_MEANS[form]}.")
    share = share_truncated(records, limit)
    if (message := truncation_note(share, limit)) is not None:
        show.say(message, "yellow")
    show.result(
        {
            "runs": len(records),
            "splits": splits,
            "mode": options.mode,
            "confidence": options.confidence,
            "domain": options.domain,
            "form": form,
            ANSWERS_TRUNCATED: share,
            **asdict(found),
        }
    )


def _run_file(path: str) -> RunFile:
    if not Path(path).is_file():
        raise ControllerError(f"{path!r} is no file; give the .runs.jsonl next to a probe file")
    return RunFile(Path(path), {})


def _records(file: RunFile, cues: str | None, domain: str | None) -> list[RunRecord]:
    """The file's runs, under the given cues and of the given domain."""
    records = file.read()
    if cues is not None:
        wanted, settings = [name.strip() for name in cues.split(",") if name.strip()], file.stored_settings()
        check_collected(wanted, settings.texts("cues"))
        records = with_cues(records, wanted, settings.whole("max_cues"))
    if domain is not None:
        records = of_domain(records, domain)
    if not all(cue.labelled for record in records for cue in record.cues):
        raise ControllerError(
            f"the exits of {str(file.path)!r} were tried at some cues only, and comparing signals needs all of them: "
            "not collected; calibrate with --labels all"
        )
    if not any(record.cues for record in records):
        raise ControllerError(f"{str(file.path)!r} holds no cue, so there is nothing to compare")
    return records


def of_domain(records: list[RunRecord], domain: str) -> list[RunRecord]:
    """The runs of one domain.

    Raises:
        ControllerError: There is none.
    """
    found = [record for record in records if record.domain == domain]
    if not found:
        known = ", ".join(map(repr, sorted({record.domain for record in records})))
        raise ControllerError(f"domain is {domain!r}; these runs are of {known}")
    return found


def show_table(show: Console, found: Comparison, runs: int, splits: int, options: Options) -> None:
    """Print the net tokens saved by signal and risk, and the failures measured on the held-out runs."""
    risks = sorted({entry.risk for entry in found.entries})
    cells = {(entry.signal, entry.risk): entry for entry in found.entries}
    rows = []
    for name in dict.fromkeys(entry.signal for entry in found.entries):
        row = [name]
        for risk in risks:
            entry = cells[name, risk]
            row.append(f"{percent(entry.saved)} ({percent(entry.failed)})" if entry.certified else "never exits")
        rows.append(row)
    level = "marginal" if options.confidence is None else f"confidence {options.confidence:g}"
    show.title(f"net tokens saved (measured {options.mode}), {level}: {runs} runs, {splits} random splits")
    show.table(rows, "signal or rule", *(f"risk {risk:g}" for risk in risks))
    show.say(
        f"Savings are net of trials and exits. The budgets close at the first cue after so many tokens: {BUDGET!r} is "
        f"certified for the risk like a signal; {EQUAL_COST!r} costs what hidden does on the same held-out runs, by "
        "a coin between two budgets, and promises nothing: compare what is measured."
    )
    if cells["hidden", found.gain_risk].certified:
        show.say(
            f"at risk {found.gain_risk:g} hidden saves {percent(found.gain, True)} of the tokens more than the best "
            f"fixed cue at its own failure rate (95 % interval {percent(found.gain_low, True)} to "
            f"{percent(found.gain_high, True)}, {found.judged} runs of the first split)",
            "bold",
        )
