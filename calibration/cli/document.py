"""Writes docs/cli.md to stdout: every command's help, and the options that several of them share once.

python -m reasonctl.calibration.cli.document > docs/cli.md
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Collection, Iterator

import click

from .config import ENVIRONMENT
from .flags import SHARED, common
from .group import Command
from .main import cli

WIDTH = 100
"""Columns of the help, whatever the terminal."""


@click.command("COMMAND", cls=Command)
@common(*SHARED)
def _shared() -> None:
    """Carries the options that several commands have."""


def document() -> str:
    """The page."""
    parts = [
        "# The command line",
        "Written by `make docs` from the commands' own help; don't edit it by hand.",
        _block(_help(_without(cli, ()), None)),
        "## Shared options",
        "Each command takes those that are named under it, and refuses the others.",
        _block(_options(_shared)),
    ]
    root = click.Context(cli, info_name="ctl", auto_envvar_prefix=ENVIRONMENT)
    for context in _commands(root):
        parts += [f"## {context.command_path}", _block(_help(context.command, context.parent)), _taken(context)]
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


def _taken(context: click.Context) -> str:
    """Which of the shared options a command takes; the context's own command is without them."""
    assert context.parent is not None and isinstance(context.parent.command, click.Group)
    command = context.parent.command.commands[str(context.info_name)]
    shown = {one.name for one in command.params if isinstance(one, click.Option) and not one.hidden}
    names = [one.opts[0] for one in _shared.params if one.name in shown]
    text = f"Shared options: {', '.join(f'`{name}`' for name in names)}."
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


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
    context = click.Context(
        command,
        terminal_width=WIDTH,
        help_option_names=cli.context_settings["help_option_names"],
        auto_envvar_prefix=f"{ENVIRONMENT}_COMMAND",
    )
    formatter = context.make_formatter()
    command.format_options(context, formatter)
    return formatter.getvalue().rstrip()


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    click.echo(document(), nl=False)
