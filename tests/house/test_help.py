"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from reasonctl.calibration.cli.document import document
from reasonctl.calibration.cli.flags import BACKENDS, FORMS, MODES, SIGNALS
from reasonctl.calibration.cli.main import cli
from reasonctl.calibration.runs.recipe import Backend
from reasonctl.controller.thinking import EXIT_FORMS
from reasonctl.probes.risk import threshold
from reasonctl.probes.signals import signals
from support.source import ROOT


def test_the_page_is_the_commands_help() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == document(), "write it anew with: make docs"


def test_the_page_holds_every_option() -> None:
    """Of two commands, every line of the real help is in the page, in whatever width."""
    page = " ".join(document().split())
    for command in ("run", "calibrate"):
        said = CliRunner().invoke(cli, [command, "--help"], terminal_width=100).output
        options = [line.split("  ")[1] for line in said.splitlines() if line.startswith("  -")]
        assert len(options) > 20 and all(" ".join(option.split()) in page for option in options)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (MODES, threshold.MODES),
        (SIGNALS, signals.SIGNALS),
        (FORMS, EXIT_FORMS),
        ((*BACKENDS.values(), "vllm"), Backend.__args__),  # --engine names the last
    ],
    ids=["modes", "signals", "forms", "backends"],
)
def test_choices_are_the_types_they_stand_for(written: tuple[str, ...], meant: tuple[str, ...]) -> None:
    assert written == meant
