"""Defaults of options from files: `reasonctl.toml` in the current folder, over the user's own `config.toml`.

A key is an option's name on the command line. One at the top is for every command that takes the option, one in a
command's table for that command:

    threads = 4

    [advise.draft]
    n = 20

What is on the command line or in an environment variable comes before both. `ctl --help` reads this file, so it
imports click and nothing of ours.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

PROJECT = "reasonctl.toml"
"""The project's file, in the current folder only: a folder above it may be somebody else's."""
ENVIRONMENT = "REASONCTL"
"""What the names of environment variables begin with."""
VARIABLE = "REASONCTL_CONFIG"
"""The variable that names the user's file in place of the platform's; empty: there is none."""
OTHER_VARIABLES = (VARIABLE, "REASONCTL_CACHE", "REASONCTL_API_KEY")
"""Variables that set no option."""
MOST_BYTES = 1 << 14
"""Largest file."""
MOST_LINE = 2000
"""Longest line, in bytes: Python takes seconds to read a key of thousands of dots."""
TRUSTED = ("grader", "utility", "dask", "host", "allow-host", "allow-origin", "key-file", "force")
"""What a project's file can't set. It may have come with a download, and these run code, overwrite or open a server."""

Path_ = tuple[str, ...]
"""A command by its names below `ctl`: ("advise", "draft")."""
Values = dict[str, Any]


class Source(NamedTuple):
    """A file that may set defaults."""

    path: Path
    """Where it is."""
    own: bool
    """Whether it is the user's own, and not a project's."""


@dataclass
class Defaults:
    """The defaults that files set."""

    by_command: dict[str, Any] = field(default_factory=dict)
    """Nested by command and option, as click's `default_map`."""
    origin: dict[tuple[Path_, str], str] = field(default_factory=dict)
    """The file that set an option's default, by command and parameter name."""


def sources() -> Iterator[Source]:
    """The files that are there, the user's first.

    Raises:
        click.UsageError: The variable names no file.
    """
    named = os.environ.get(VARIABLE)
    user = Path(click.get_app_dir("reasonctl")) / "config.toml" if named is None else Path(named)
    if named and not user.is_file():
        raise click.UsageError(f"{VARIABLE} is {named!r}, and there is no such file; correct it, or leave it empty")
    if named != "" and user.is_file():
        yield Source(user, own=True)
    if Path(PROJECT).is_file():
        yield Source(Path(PROJECT), own=False)


def configured(group: click.Group) -> Defaults:
    """The defaults of all commands.

    Raises:
        click.UsageError: A file can't be read, or a key or a value in it means nothing.
    """
    found = Defaults()
    for source in sources():
        table = _read(source)
        _known(group, table, source, "")
        for command, values in _leaves(group, table, {}, source, ()):
            place = found.by_command
            for name in command:
                place = place.setdefault(name, {})
            place.update(values)
            found.origin.update({(command, name): str(source.path) for name in values})
    return found


def check_variables(group: click.Group) -> None:
    """Check that environment variables of ours are options of some command, as keys of files are.

    A name that begins as a command's must be one of its options. Any other one must not be nearly a known name.

    Raises:
        click.UsageError: One of them isn't, so it would set nothing.
    """
    given = [name for name in os.environ if name.startswith(f"{ENVIRONMENT}_") and name not in OTHER_VARIABLES]
    if not given:
        return
    known = [*_variables(group, ENVIRONMENT), *OTHER_VARIABLES]
    commands = tuple(f"{_variable(ENVIRONMENT, name)}_" for name in group.commands)
    bare = {one.removeprefix(ENVIRONMENT): one for one in known}
    for name in sorted(set(given) - set(known)):
        of_command = name.startswith(commands)
        near = get_close_matches(name.removeprefix(ENVIRONMENT)[:64], bare, n=1, cutoff=0.6 if of_command else 0.8)
        if near or of_command:
            remedy = f"did you mean {bare[near[0]]}?" if near else "see COMMAND --help for its variables"
            raise click.UsageError(f"the environment variable {name:.80} sets no option; {remedy}")


def _variables(group: click.Group, prefix: str) -> Iterator[str]:
    """The variables that set options of the commands below a group, as click names them."""
    for name, command in group.commands.items():
        inner = _variable(prefix, name)
        if isinstance(command, click.Group):
            yield from _variables(command, inner)
        else:
            yield from (_variable(inner, one.name or "") for one in _options(command).values())


def _variable(prefix: str, name: str) -> str:
    return f"{prefix}_{name.replace('-', '_').upper()}"


def set_elsewhere(context: click.Context, only: click.Parameter | None = None) -> str:
    """What to add to an error: which options have values from a file or a variable; "" where none has.

    Args:
        context: The command's.
        only: The one option that the error is about.
    """
    command = _path(context)
    origin = context.obj.origin if isinstance(context.obj, Defaults) else {}
    found = []
    for one in context.command.params if only is None else [only]:
        source = context.get_parameter_source(one.name or "")
        if source is ParameterSource.DEFAULT_MAP:
            found.append(f"{one.opts[0]} in {origin.get((command, one.name), 'a config file')}")
        elif source is ParameterSource.ENVIRONMENT:
            found.append(f"{one.opts[0]} in {context.auto_envvar_prefix}_{(one.name or '').upper()}")
    return f" (set elsewhere: {', '.join(found)})" if found else ""


def _path(context: click.Context) -> Path_:
    above = () if context.parent is None else _path(context.parent)
    return above if context.parent is None else (*above, str(context.info_name))


def _read(source: Source) -> Values:
    """The file's tables. Raises click.UsageError."""
    try:
        with source.path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"{source.path} can't be read: {error.strerror}") from None
    if len(data) > MOST_BYTES or any(len(line) > MOST_LINE for line in data.splitlines()):
        raise click.UsageError(
            f"{source.path} is larger than {MOST_BYTES:,} bytes or has a line of more than {MOST_LINE:,}; a file of "
            "defaults isn't: shorten it"
        )
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.UsageError(f"{source.path} is no TOML file: {error!s:.200}; correct it or take it away") from None


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options that mean something to a command, by their keys."""
    found = {}
    for one in command.params:
        if isinstance(one, click.Option) and not one.hidden and one.expose_value:
            found[max(one.opts, key=len).lstrip("-")] = one
    return found


def _below(group: click.Group) -> set[str]:
    """The keys of all options of the commands below a group."""
    found: set[str] = set()
    for command in group.commands.values():
        found |= _below(command) if isinstance(command, click.Group) else _options(command).keys()
    return found


def _known(group: click.Group, table: Mapping[str, Any], source: Source, where: str) -> None:
    """Raises click.UsageError for a key that is neither a command nor an option, anywhere in the file."""
    keys = _below(group)
    for key, value in table.items():
        command = group.commands.get(key)
        if isinstance(value, dict) and command is not None:
            inner = f"{where}{key}."
            if isinstance(command, click.Group):
                _known(command, value, source, inner)
            else:
                for name in value:
                    if name not in _options(command):
                        raise _unknown(inner + name, name, _options(command), source)
        elif isinstance(value, dict):
            raise _unknown(f"[{where}{key}]", key, group.commands, source)
        elif key not in keys:
            raise _unknown(where + key, key, keys, source)


def _unknown(shown: str, key: str, known: Any, source: Source) -> click.UsageError:
    near = get_close_matches(key.replace("_", "-")[:64], list(known), n=1)
    remedy = f"did you mean {near[0]}?" if near else "see ctl --help for the commands, and COMMAND --help for options"
    return click.UsageError(f"{shown!r:.120} in {source.path} is no option and no command; {remedy}")


def _leaves(
    group: click.Group, table: Mapping[str, Any], above: Values, source: Source, path: Path_
) -> Iterator[tuple[Path_, Values]]:
    """(command, values by parameter name) of every command below a group."""
    common = {**above, **{key: value for key, value in table.items() if not isinstance(value, dict)}}
    for name, command in group.commands.items():
        inner = table.get(name, {})
        if isinstance(command, click.Group):
            yield from _leaves(command, inner, common, source, (*path, name))
            continue
        options = _options(command)
        values = {**{key: value for key, value in common.items() if key in options}, **inner}
        yield (*path, name), {options[key].name or "": _value(options[key], key, values[key], source) for key in values}


def _value(option: click.Option, key: str, value: Any, source: Source) -> Any:
    """A value as click takes it. Raises click.UsageError."""
    if not source.own and key in TRUSTED:
        raise click.UsageError(
            f"{key!r} in {source.path}: a project's file can't run code, overwrite files or open a server; set it in "
            f"your own file ({Path(click.get_app_dir('reasonctl')) / 'config.toml'}), or give --{key}"
        )
    each = value if option.multiple and isinstance(value, list) else [value]
    kinds: Any = bool if option.is_flag else (str, int, float)
    wrong = [one for one in each if not isinstance(one, kinds) or (isinstance(one, bool) and not option.is_flag)]
    if wrong or (option.multiple and not isinstance(value, list)):
        wanted = "true or false" if option.is_flag else "a list of texts" if option.multiple else "a number or a text"
        raise click.UsageError(f"{key!r} in {source.path} is {str(value)!r:.60}; it must be {wanted}")
    return value
