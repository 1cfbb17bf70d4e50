"""What others wrote does nothing to the terminal; no character and no closed pipe ends in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.cli.run import stream_run
from reasonctl.calibration.cli.terminal import visible
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Controller
from reasonctl.controller.drafting.ngrams import load_table
from support.ctl import ctl
from support.toy_models import PLAIN, writing

EVIL = "\x1b[2J\x07\x9b1m\u202eabc\u2066\r[red]:smile:[/]\x7f"
SHOWN = r"\x1b[2J\x07\x9b1m\u202eabc\u2066\r[red]:smile:[/]\x7f"


def command(*arguments: str, encoding: str = "utf-8") -> tuple[list[str], dict[str, str]]:
    code = "from reasonctl.calibration.cli.main import main; main()"
    return [sys.executable, "-c", code, *arguments], {**os.environ, "PYTHONIOENCODING": encoding}


def test_every_way_of_printing_writes_control_characters_out(capfd):
    show = Console(as_json=False)
    show.say(EVIL)
    show.title(EVIL)
    show.stream(EVIL)
    show.table([[EVIL, "1"]], EVIL, "n")
    printed = capfd.readouterr().out
    assert printed.count(SHOWN) == 5
    assert visible(printed) == printed


def test_what_a_model_writes_is_written_out(capfd):
    stream_run(Console(as_json=False), writing([b"a\x1b", b"[2J\nb", b"\xc2", b"\x9bc"]), PLAIN, EVIL, Controller())
    assert capfd.readouterr().out.splitlines()[:3] == [SHOWN, r"a\x1b[2J", r"b\x9bc"]


def test_json_holds_the_text_itself_and_no_control_character(capfd):
    Console(as_json=True).result({"text": EVIL})
    line = capfd.readouterr().out
    assert json.loads(line) == {"text": EVIL} and line.rstrip("\n").isprintable() and line.isascii()


def test_an_error_is_one_line_whatever_it_quotes(capfd):
    for name in ("a\nb.gguf", "\x1b[2J.gguf", "\u202ex.gguf"):
        code, _, err = ctl(capfd, "run", name, "x", "--probe", "none")
        assert code == 2 and len(err.splitlines()) == 1 and visible(err) == err
    code, _, err = ctl(capfd, "fly\x1b[2J\n")
    assert code == 2 and len(err.splitlines()) == 1 and "\x1b" not in err


@pytest.mark.parametrize(
    ("encoding", "extra"),
    [("ascii", []), ("cp1252", ["--json"]), pytest.param("ascii", ["--json"], marks=pytest.mark.slow)],
)
def test_an_encoding_without_the_character_ends_nothing(encoding, extra):
    arguments, env = command("run", "tiny", "48 a-9 b+6 \u4e2d", "--probe", "none", *extra, encoding=encoding)
    done = subprocess.run(arguments, env=env, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"\\u4e2d" in done.stdout + done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("where", [["48 a-9\udcff"], ["48", "--wrap-up", "\udcff"], ["\ud800"]])
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_bytes_that_are_no_text_are_refused_in_one_line(where, extra, capfd):
    code, out, err = ctl(capfd, "run", "tiny", *where, "--probe", "none", *extra)
    assert code == 2 and not out and len(err.splitlines()) == 1 and "no UTF-8" in err


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux only")
def test_a_file_name_that_is_no_text_is_written_down_all_the_same(tmp_path, capfd):
    texts, out = tmp_path / "caf\udce9.txt", str(tmp_path / "n\udcff.ngrams")
    texts.write_text("48 a-9 b+6 c-3 \u4e2d 17 d+4\n" * 20, encoding="utf-8")
    code, said, _ = ctl(capfd, "ngrams", "tiny", str(texts), "--out", out, "--json")
    assert code == 0 and json.loads(said)["source"] == "caf\\xe9.txt"
    assert load_table(Path(out)).source == "caf\\xe9.txt"
    tasks = tmp_path / "t\udcff.jsonl"
    tasks.write_text('{"question": "48 a-9", "answer": "39"}\n', encoding="utf-8")
    assert load_task(str(tasks)).name == "t\\xff.jsonl"


def test_half_of_a_surrogate_pair_is_no_character(tmp_path, capfd):
    job = ["calibrate", "tiny", "--tasks", "tiny", "--out", str(tmp_path / "p.safetensors"), "--dry-run"]
    code, _, err = ctl(capfd, *job, "--suffix", r"</think>\ud800")
    assert code == 2 and len(err.splitlines()) == 1 and "surrogate" in err


def test_a_reader_that_has_gone_ends_the_command_quietly():
    arguments, env = command("run", "tiny", "48 a-9 b+6 c-3", "--probe", "none", "-v")
    with subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()
        assert running.wait(120) == 1 and said == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a place that is always full")
@pytest.mark.parametrize("extra", [["--help"], ["tiny", "48 a-9 b+6 c-3", "--probe", "none"]])
def test_a_full_disk_under_the_output_is_one_line(extra):
    arguments, env = command("run", *extra)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(arguments, env=env, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr) == (1, b"Error: the output can't be written: No space left on device\n")


def test_a_wide_table_in_a_pipe_keeps_one_line_a_row(capfd):
    """Without a terminal there is no width to fold cells to; a row is a line for whoever reads the file."""
    row = [f"cell {i} of some width" for i in range(9)]
    Console(as_json=False).table([row], *row)
    assert [line.split("  ") for line in map(str.strip, capfd.readouterr().out.splitlines())] == [row, row]
