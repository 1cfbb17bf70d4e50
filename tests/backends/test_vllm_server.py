"""vLLM's own server with a probe in it, as `ctl serve --engine vllm` starts it, and our client of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reasonctl.backends import BUNDLED_PROBE, tiny_folder
from reasonctl.controller import ControllerError

pytestmark = pytest.mark.vllm

START_SECONDS = 900
QUESTION = [{"role": "user", "content": "What is 90-6-7-9-7?"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A client of a server that runs while the module's tests do."""
    from reasonctl.backends.vllm.folder import ModelFolder
    from reasonctl.backends.vllm.http import HTTPClient
    from reasonctl.backends.vllm.options import EngineOptions
    from reasonctl.backends.vllm.start import checked, server_command

    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, options = ModelFolder.read(str(tiny_folder())), EngineOptions(str(BUNDLED_PROBE))
    rule, _ = checked(folder, options)
    others = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--block-size", "32"]
    command = server_command(folder, options, rule, host="127.0.0.1", port=port, others=others)
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": os.pathsep.join(sys.path), "VLLM_LOGGING_LEVEL": "ERROR"}
    log = Path(tmp_path_factory.mktemp("server")) / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process, log)
        yield HTTPClient.open(url, folder.path, str(BUNDLED_PROBE))
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no server after {START_SECONDS} s: {log.read_text()[-3000:]}")


def test_a_stream_exits_and_shows_nothing_that_is_taken_back(client) -> None:
    run = client.run(QUESTION, max_tokens=768)
    text = "".join(client.follow(run, {"temperature": 0.0}))
    plain = client.run(QUESTION, max_tokens=768)
    plain.controlled = False
    whole = "".join(client.follow(plain, {"temperature": 0.0}))
    assert run.exit is not None and "</think>\nThe answer is" in text and len(text) < len(whole)
    assert whole.startswith(text.split("</think>")[0].rstrip()) and plain.exit is None


def test_a_bad_risk_is_answered_with_400(client) -> None:
    run = client.run(QUESTION, max_tokens=64)
    run.arguments["reasonctl_risk"] = 7
    with pytest.raises(ControllerError, match="the server answers 400: .*reasonctl_risk is 7; it must lie between"):
        list(client.follow(run, {}))


def test_clients_that_go_away_leave_the_server_as_it_was(client) -> None:
    for _ in range(20):
        stream = client.stream(QUESTION, max_tokens=768, temperature=0.6)
        next(stream)
        stream.close()
    run = client.run(QUESTION, max_tokens=768)
    assert "The answer is" in "".join(client.follow(run, {"temperature": 0.0})) and run.exit is not None


def test_a_budget_is_vllms_own(client) -> None:
    """Its text is the card's suffix."""
    run = client.run(QUESTION, max_tokens=768, risk=0.0001)
    text = "".join(client.follow(run, {"temperature": 0.0}, budget=20))
    assert "</think>\n" in text and len(run.written) < 60 and run.exit is None
