"""The command `ctl` itself; the commands below it are declared in `*_commands.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="reasonctl", prog_name="ctl")
def cli() -> None:
    """Reasoning-time control for language models on your own machine.

    MODEL is `tiny` or `tiny-hybrid` (bundled), a .gguf file (llama.cpp), a transformers folder or hub id, or
    hf:FILE.gguf. `ctl run`, `eval` and `bench` take masked models too: `tiny-masked`, or a folder of LLaDA's, Dream's
    or DiffuCoder's.
    TASKS is `tiny`, reasoning-gym:NAME[,k=v...], or a .jsonl file of {"question", "answer"}.
    """
