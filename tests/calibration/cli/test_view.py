"""`--trace`, `handle.save` and `ctl view`: from a run to its page, with its text only where that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_cpp import Llama

from reasonctl.backends import attach, tiny_folder
from reasonctl.controller import Controller, ControllerError, PromptLookup
from reasonctl.controller.core import read_runs
from support.ctl import ctl


def test_a_run_becomes_a_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    assert ctl(capfd, "run", "tiny", "12 a+3 b-6", "--trace", str(path))[0] == 0
    assert ctl(capfd, "run", "tiny", "12 a+3 b-6", "--trace", str(path), "--trace-text")[0] == 0
    bare, whole = read_runs(path)
    assert bare.question is None and bare.pieces is None and "12 a+3" not in path.read_text().splitlines()[0]
    assert whole.question == "12 a+3 b-6" and "".join(whole.pieces or []).startswith("First a")
    assert len(whole.trace.entropies) == whole.length == bare.length and "forced" in whole.trace.sources
    code, out, _ = ctl(capfd, "view", str(path))
    assert code == 0 and "2 runs" in out and "12 a+3 b-6" in (tmp_path / "a.html").read_text()
    assert ctl(capfd, "view", str(path))[0] == 2, "the page is there already"
    assert ctl(capfd, "view", str(path), "--out", str(path), "--force")[0] == 2, "the runs would be lost"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "tiny", "--trace-text"], "nothing is traced"),
        (["run", "tiny", "--trace", "{notes}"], "no file of runs"),
        (["eval", "tiny", "-n", "9", "--trace", "{notes}"], "no file of runs"),
        (["view", "{notes}"], "is no JSON"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    code, _, err = ctl(capfd, *(one.format(notes=notes) for one in arguments))
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert notes.read_text() == "my notes\n"


def test_a_handle_saves_its_last_call(tmp_path: Path) -> None:
    llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    with attach(llm, Controller(drafter=PromptLookup(), record=True)) as handle:
        with pytest.raises(ControllerError, match="no run to save"):
            handle.save(tmp_path / "a.jsonl")
        written = llm.create_completion("12 a+3 b-6", max_tokens=30, seed=1)["choices"][0]["text"]
        handle.save(tmp_path / "a.jsonl")
        handle.save(tmp_path / "a.jsonl", text=True, model="tiny")
    bare, whole = read_runs(tmp_path / "a.jsonl")
    assert bare.pieces is None and whole.model == "tiny" and whole.question == "12 a+3 b-6"
    assert "".join(whole.pieces or []).removesuffix("<eos>") == written
    assert whole.trace.sources.count("draft") == whole.trace.accepted
