"""The entry point of `ctl`.

A mistake is one line and exit code 2. After Ctrl-C a line says what can be gone on with, and the exit code is 130.

Commands import their work when they are called, so that `ctl --help` imports click and nothing else.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from ..runs.kept import what_is_left
from . import measure_commands, probe_commands, run_commands
from .config import check_variables, configured, set_elsewhere
from .group import cli
from .interrupt import CODE, interruptible
from .terminal import lenient_output, one_line

__all__ = ["cli", "main"]

DECLARED = (probe_commands, run_commands, measure_commands)
"""The files that declare commands; importing them is what puts the commands into the group."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of `ctl`."""
    try:
        with interruptible(), lenient_output():
            check_variables(cli)
            defaults = configured(cli)
            code = cli.main(
                args=arguments,
                prog_name="ctl",
                standalone_mode=False,
                default_map=defaults.by_command,
                obj=defaults,
            )
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        elsewhere = ""
        if isinstance(error, click.BadParameter) and error.ctx is not None and error.param is not None:
            elsewhere = set_elsewhere(error.ctx, error.param)
        click.echo(f"Error: {one_line(error.format_message() + elsewhere)}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"Interrupted.{one_line(what_is_left())}", err=True)
        sys.exit(CODE)
