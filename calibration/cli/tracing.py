"""What `--trace` keeps of a run."""

from __future__ import annotations

from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import Trace
from reasonctl.controller.core import SavedRun, append_runs, file_name

from .options import Options
from .refusal import refuse


def check_trace(command: str, options: Options, trace: str | None) -> None:
    """Before any work: refuse --trace-text alone, and a file that can't take runs."""
    if trace is None:
        refuse(command, options.given, {"trace_text": "it says what --trace keeps, and nothing is traced"})
    else:
        append_runs(trace, [])


def saved_run(trace: Trace, model: Model, question: str, text: bool, **about: Any) -> SavedRun:
    """A run as it is kept, with its text where that was asked for."""
    about["model"] = file_name(model.name)
    return SavedRun.with_text(trace, model.tokenizer, question, **about) if text else SavedRun.of(trace, **about)
