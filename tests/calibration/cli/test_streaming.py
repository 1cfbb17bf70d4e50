"""What `ctl run` prints while a model writes."""

from __future__ import annotations

import pytest

from reasonctl.calibration.cli.console import Console
from reasonctl.calibration.cli.run import stream_run
from reasonctl.controller import Controller
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
