"""`--engine vllm`: what is refused before any work, and the command that becomes vLLM's server."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from reasonctl.backends.vllm import installed, start
from reasonctl.backends.vllm.folder import ModelFolder
from reasonctl.backends.vllm.options import EngineOptions
from reasonctl.calibration.cli import calibrate, vllm
from reasonctl.calibration.cli.main import cli
from reasonctl.controller import ControllerError
from support.vllm_simulated import rule_of


def said(*arguments: str) -> str:
    """What a command is refused with."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code and isinstance(done.exception, SystemExit), done.output
    return " ".join(done.output.split())


def test_without_vllm_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(installed, "installed", lambda: None)
    remedy = "vLLM is not installed here; install it: pip install 'vllm>=0.32,<0.33'"
    assert remedy in said("serve", "m", "--engine", "vllm", "--probe", "p")
    assert remedy in said("calibrate", "m", "--engine", "vllm", "--tasks", "tiny", "--out", "p.safetensors")
    from reasonctl.backends import vllm as room

    with pytest.raises(ControllerError, match="vLLM is not installed here"):
        _ = room.Worker


@pytest.mark.parametrize("option", ["--budget=9", "--preset=a=greedy", "--batch=2", "--temperature=1", "--queue=3"])
def test_options_of_our_own_server_are_refused(option):
    assert f"{option.partition('=')[0]} means nothing to ctl serve --engine vllm" in said(
        "serve", "m", "--engine", "vllm", option
    )


def test_options_of_vllm_are_refused_where_it_doesnt_serve():
    assert "'--x' is given after the model, and only --engine vllm takes such" in said("serve", "m", "--", "--x")


@pytest.mark.parametrize("option", ["--workers=2", "--draft=ngram(8)", "--runs=f", "--always-answer", "--backend=hf"])
def test_what_vllm_cant_do_while_collecting_is_refused(option):
    given = ("calibrate", "m", "--engine", "vllm", "--tasks", "tiny", "--out", "p.safetensors", option)
    assert f"{option.partition('=')[0]} means nothing to ctl calibrate --engine vllm" in said(*given)


def test_vllm_is_asked_for_many_runs_at_once(monkeypatch, tmp_path):
    """64 where nobody says, which four-fold make a window; without vLLM it is four."""
    asked = []

    def opened(name, options, *_):
        asked.append(options.batch)
        raise ControllerError("that was all")

    monkeypatch.setattr(vllm, "check_installed", lambda: "0.32.0")
    monkeypatch.setattr(calibrate, "open_model", opened)
    given = ("calibrate", "m", "--tasks", "tiny", "--out", str(tmp_path / "p.safetensors"))
    for more in (["--engine", "vllm"], ["--engine", "vllm", "--batch", "7"], []):
        assert "that was all" in said(*given, *more)
    assert asked == [64, 7, 4]


def test_a_policy_that_vllm_hasnt_is_refused(monkeypatch):
    monkeypatch.setattr(vllm, "check_installed", lambda: "0.32.0")
    given = ("calibrate", "m", "--engine", "vllm", "--tasks", "tiny", "--out", "p.safetensors", "--policy")
    for policy in ("edt(t0=0.8)", "top_p(0.9) | temperature(0.6)", "temperature(0.6) | top_p(0.9) | min_p(0.1)"):
        assert "and vLLM samples by temperature, min_p, top_k and top_p, in this order" in said(*given, policy)


def test_the_servers_command(monkeypatch, tmp_path):
    """It is checked, shown and started; the key is in the environment, where no other user sees it."""
    started = {}
    monkeypatch.setattr(vllm, "check_installed", lambda: "0.32.0")
    monkeypatch.setattr(ModelFolder, "read", lambda name: SimpleNamespace(path=f"/m/{name}"))
    monkeypatch.setattr(vllm, "checked", lambda folder, options: (rule_of("append"), ["dtype is 'x'"]))
    monkeypatch.setattr(os, "execve", lambda file, command, variables: started.update(command=command, env=variables))
    key = tmp_path / "key"
    key.write_text("k" * 20 + "\n")
    given = ("serve", "m", "--engine", "vllm", "--probe", "p.safetensors", "--risk", "0.1", "--port", "9")
    done = CliRunner().invoke(cli, [*given, "--key-file", str(key), "--", "--tensor-parallel-size", "2"])
    command = started["command"]
    assert "warning: dtype is 'x'" in done.output and "made by reasonctl's client" in " ".join(done.output.split())
    assert command[1:5] == ["-m", start.SERVER, "--model", "/m/m"] and command[-2:] == ["--tensor-parallel-size", "2"]
    assert started["env"]["VLLM_API_KEY"] == "k" * 20 and "k" * 20 not in " ".join(command)
    options = json.loads(command[command.index("--additional-config") + 1])["reasonctl"]
    assert EngineOptions.of({"reasonctl": options}).risk == 0.1 and os.path.isabs(options["probe"])
    reasoning = json.loads(command[command.index("--reasoning-config") + 1])
    assert reasoning == {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>So "}


@pytest.mark.parametrize("option", ["--worker-cls=x", "--speculative-config", "--additional-config={}"])
def test_options_that_are_set_here_are_refused(option):
    folder = SimpleNamespace(path="m")
    with pytest.raises(ControllerError, match="is given after --, and reasonctl sets it itself or can't run with it"):
        start.server_command(folder, EngineOptions("p"), rule_of(), host="h", port=1, others=[option])


def test_a_probe_next_to_the_weights_is_refused(tmp_path):
    """vLLM would read it as weights, and end with a traceback."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "my.probe.safetensors").write_bytes(b"")
    with pytest.raises(ControllerError, match="holds 'my.probe.safetensors', which vLLM would read as weights"):
        ModelFolder.read(str(tmp_path))
    with pytest.raises(ControllerError, match="is a GGUF file"):
        ModelFolder.read("m.gguf")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"speculative_config": object()}, "speculative decoding"),
        ({"enable_batch_sharded_sampling": True}, "batch-sharded sampling"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
    ],
)
def test_settings_of_vllm_that_dont_go_together_are_refused(change, what):
    from reasonctl.backends.vllm.configured import check_engine

    parallel = {"enable_batch_sharded_sampling": False, "pipeline_parallel_size": 1, **change}
    config = SimpleNamespace(
        speculative_config=change.get("speculative_config"), parallel_config=SimpleNamespace(**parallel)
    )
    with pytest.raises(ControllerError, match=f"exits and vLLM's {what} don't go together"):
        check_engine(config)
