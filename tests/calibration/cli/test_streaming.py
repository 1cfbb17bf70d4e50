"""What `ctl run` prints while a model writes."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.cli.run import stream_run
from reasonctl.controller import Controller, Thinking
from support.ctl import ctl
from support.toy_models import PLAIN, writing


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"caf\xc3", b"\xa9 ", b"ok"], "café ok"),
        ([b"\xf0", b"\x9f", b"\x98", b"\x80", b"!"], "\N{GRINNING FACE}!"),
        ([b"ok", b"\xc3"], "ok\N{REPLACEMENT CHARACTER}"),
        ([b"\xc3", b"x"], "\N{REPLACEMENT CHARACTER}x"),
    ],
)
def test_a_character_that_is_split_over_tokens_is_printed_whole(pieces, text, capfd):
    stream_run(Console(as_json=False), writing(pieces), PLAIN, "?", Controller())
    assert capfd.readouterr().out.splitlines()[:2] == ["?", text]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGQUIT")
def test_ctrl_backslash_asks_for_the_answer(capfd):
    class Pressed(Console):
        def stream(self, text, style=None):
            super().stream(text, style)
            if text in ("c", "e"):
                os.kill(os.getpid(), signal.SIGQUIT)

    before = signal.getsignal(signal.SIGQUIT)
    model = writing([b"a", b"b", b"c", b"d", b"e"])
    trace = stream_run(Pressed(as_json=False), model, PLAIN, "?", Controller(thinking=Thinking(None, "?")))
    out, err = capfd.readouterr()
    assert trace.closed_by == "asked" and out.splitlines()[1].startswith("abcd?abc")
    assert "isn't thinking" in err
    assert signal.getsignal(signal.SIGQUIT) is before


@pytest.mark.parametrize(("command", "model"), [("run", "tiny"), ("sample", "tiny"), ("run", "tiny-masked")])
def test_a_prompt_beyond_the_context_is_refused_before_it_is_printed(command, model, capfd):
    code, out, err = ctl(capfd, command, model, "52 a+3 " * 800, "--threads", "1")
    assert code == 2 and "a+3" not in out + err
    assert "and the context 1024; shorten it" in err or "and the model has 1024" in err
