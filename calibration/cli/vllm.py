"""`--engine vllm`: options of jobs whose runs vLLM makes, and vLLM's own server with a probe.

The server is started after the probe was checked against the model.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from reasonctl.backends import BUNDLED_PROBE, TINY, tiny_folder
from reasonctl.backends.vllm.folder import ModelFolder
from reasonctl.backends.vllm.installed import check_installed
from reasonctl.backends.vllm.options import EngineOptions
from reasonctl.backends.vllm.sampler import sampling_of
from reasonctl.backends.vllm.start import checked, server_command
from reasonctl.controller import ControllerError, parse_policy

from .console import Console
from .options import Options

KEY_VARIABLE = "VLLM_API_KEY"
"""Where vLLM's server reads its key."""


def vllm_options(options: Options) -> Options:
    """The options of a job whose runs vLLM makes.

    Raises:
        ControllerError: There is no vLLM, or it has no such sampling.
    """
    check_installed()
    sampling_of(parse_policy(options.policy_text()))
    return replace(options, backend="vllm")


def serve_vllm(name: str, options: Options, *, probe: str | None, others: Sequence[str], **what: Any) -> NoReturn:
    """Replace this process by vLLM's server.

    Raises:
        ControllerError: vLLM isn't there, or the probe is for another model.
    """
    show = Console(as_json=False)
    check_installed()
    folder = ModelFolder.read(str(tiny_folder()) if name == TINY else name)
    engine = EngineOptions(
        probe_of(name, probe), options.risk, options.confidence, options.mode, options.domain, options.give_up
    )
    rule, warnings = checked(folder, engine)
    for warning in warnings:
        show.say(f"warning: {warning}", "yellow")
    show.say(rule.why, "bold")
    if rule.form != "append-open":
        show.say(
            f"exits of the form {rule.form} are made by reasonctl's client (docs/scale.md); requests of other clients "
            "run in full",
            "yellow",
        )
    command = server_command(folder, engine, rule, host=what["host"], port=what["port"], others=others)
    show.say(shlex.join(command))
    os.execve(command[0], command, {**os.environ, **key_of(what["host"], what["key_file"])})


def probe_of(name: str, probe: str | None) -> str:
    """The probe file.

    Raises:
        ControllerError: There is none.
    """
    if probe == "none" or (probe is None and name != TINY):
        raise ControllerError(
            "ctl serve --engine vllm needs --probe; without one start vLLM itself: it serves as it is"
        )
    return str(BUNDLED_PROBE) if probe is None else probe


def key_of(host: str, key_file: str | None) -> dict[str, str]:
    """The server's key, as an entry of the environment, where other users of the machine don't see it.

    Raises:
        ControllerError: Other machines reach the server, and there is no key; or there are several.
    """
    from reasonctl.backends.server.guard import Access, read_keys

    keys = Access(host, read_keys(key_file)).keys
    if len(keys) > 1:
        raise ControllerError(f"--key-file holds {len(keys)} keys, and vLLM takes one this way; give a file with one")
    return {KEY_VARIABLE: keys[0]} if keys else {}
