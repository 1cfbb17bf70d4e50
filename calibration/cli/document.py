"""Writes docs/cli.md to stdout: every command's help, and the options of all commands once.

python -m reasonctl.calibration.cli.document > docs/cli.md
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

import click

from .flags import common
from .main import cli

WIDTH = 100
"""Columns of the help, whatever the terminal."""


@click.command("COMMAND")
@common
def _shared() -> None:
    """Carries the options that all commands have."""


def document() -> str:
    """The page."""
    parts = [
        "# The command line",
        "Written by `make docs` from the commands' own help; don't edit it by hand.",
        _block(_help(_without(cli, ()), None)),
        "## Options of every command",
        _block(_options(_shared)),
    ]
    root = click.Context(cli, info_name="ctl")
    for context in _commands(root):
        parts += [f"## {context.command_path}", _block(_help(context.command, context.parent))]
    return "\n\n".join(parts) + "\n"


def _commands(parent: click.Context) -> Iterator[click.Context]:
    """The commands below a group, in the order of its help, without the shared options."""
    shared = {parameter.name for parameter in _shared.params}
    group = parent.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(parent):
        context = click.Context(_without(group.commands[name], shared), info_name=name, parent=parent)
        if isinstance(context.command, click.Group):
            yield from _commands(context)
        else:
            yield context


def _without(command: click.Command, names: Collection[str | None]) -> click.Command:
    """The command without these options and without --help."""
    stripped = copy.copy(command)
    stripped.params = [parameter for parameter in command.params if parameter.name not in names]
    stripped.add_help_option = False
    return stripped


def _help(command: click.Command, parent: click.Context | None) -> str:
    name = command.name if parent is not None else "ctl"
    return command.get_help(click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH))


def _options(command: click.Command) -> str:
    """The list of a command's options alone."""
    context = click.Context(command, terminal_width=WIDTH, help_option_names=cli.context_settings["help_option_names"])
    formatter = context.make_formatter()
    command.format_options(context, formatter)
    return formatter.getvalue().rstrip()


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    click.echo(document(), nl=False)
