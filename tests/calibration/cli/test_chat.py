"""`ctl chat` talks, and `ctl serve` refuses before it loads what it would have to refuse later."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonctl.calibration.cli.main import cli

QUESTION = "48 a-9 b+6 c-3"


def test_a_conversation() -> None:
    said = [QUESTION, "/why", "/budget 3", QUESTION, "/why", "/budget much", "/budget none", "/new"]
    said += ["/thoughts", QUESTION, "/thoughts", "/quit", ""]
    done = CliRunner().invoke(cli, ["chat", "tiny", "--threads", "1"], input="\n".join(said))
    assert done.exit_code == 0, done.output
    assert done.output.count("The answer is") == 3
    assert "exited at cue" in done.output and "budget of 3 thinking tokens used up" in done.output
    assert "/budget much: give a number, or none" in done.output and "about 107 saved" in done.output
    hidden, _, shown = done.output.partition("thoughts are hidden")[2].partition("a second")
    assert "First a-9" not in hidden and "thinking ... " in hidden
    assert "First a-9" in shown.partition("thoughts are shown")[0], "the last answer's, which were hidden"
    counts = [int(n) for n in re.findall(r"^(\d+) tokens, \d+ of them thoughts", done.output, re.MULTILINE)]
    assert len(counts) == 3 and f"3 answers: {sum(counts)} tokens, " in done.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--key-file", "nowhere"], "is no file"),
        (["--preset", "careful"], "give NAME=POLICY"),
        (["--allow-origin", "*"], "every web page"),
        (["--seed", "3"], "--seed"),
    ],
)
def test_serve_refuses(flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REASONCTL_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["serve", "tiny", *flags])
    assert done.exit_code != 0 and message in done.output
