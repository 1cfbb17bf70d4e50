"""The command `ctl` itself; the commands below it are declared in `*_commands.py`."""

from __future__ import annotations

from typing import Any

import click

from .config import ENVIRONMENT


class Command(click.Command):
    """A command whose help names the environment variable of each option."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for one in self.params:
            if isinstance(one, click.Option):
                one.show_envvar = True


class Group(click.Group):
    """Its commands, and those of groups in it, are of the class above."""

    command_class = Command
    group_class = type


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from .version import lines

        click.echo("\n".join(lines(context)))
        context.exit()


@click.group(
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": ENVIRONMENT,
    },
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_version,
    help="Show the versions, also of the libraries, and exit.",
)
def cli() -> None:
    """Reasoning-time control for language models on your own machine.

    MODEL is `tiny` or `tiny-hybrid` (bundled), a .gguf file (llama.cpp), a transformers folder or hub id, or
    hf:FILE.gguf; `ctl models` lists those that are here. `ctl run`, `eval` and `bench` take masked models too:
    `tiny-masked`, or a folder of LLaDA's, Dream's or DiffuCoder's.
    TASKS is `tiny`, reasoning-gym:NAME[,k=v...], a .jsonl file of {"question", "answer"}, or a plugin's.

    To begin: ctl run tiny "52 a+3 b-6 c+8", then ctl demo; on a model of your own ctl calibrate, eval and run.

    Defaults of options come from reasonctl.toml in the current folder, your own config.toml, and the environment
    variables that each command's help names.
    """
