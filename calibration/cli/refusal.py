"""Refuses options that mean nothing to a command, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import click
from click.core import ParameterSource


def given() -> frozenset[str]:
    """Names of the running command's options that are on the command line, even those with a default's value."""
    context = click.get_current_context()
    names = (parameter.name or "" for parameter in context.command.params)
    return frozenset(name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)


def chosen() -> frozenset[str]:
    """Names of its options that have a value from anywhere: the command line, an environment variable, or a file."""
    context = click.get_current_context()
    names = (parameter.name or "" for parameter in context.command.params)
    return frozenset(name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT)


def refuse(command: str, found: Collection[str], reasons: Mapping[str, str]) -> None:
    """Refuse options that a command can't honour.

    Args:
        command: The command, for the message.
        found: Names of the options that were given.
        reasons: Why, by the option's name; empty where the name says it.

    Raises:
        click.UsageError: One of them was given.
    """
    for name, reason in reasons.items():
        if name in found:
            option = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            because = f": {reason}" if reason else ""
            raise click.UsageError(f"{option} means nothing to {command}{because}; leave it out")
