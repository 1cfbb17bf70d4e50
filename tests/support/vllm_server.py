"""vLLM's server as a user starts it: `ctl serve tiny --engine vllm`, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonctl.backends import tiny_folder
from reasonctl.backends.vllm.http import HTTPClient

START_SECONDS = 900
CTL = (sys.executable, "-c", "from reasonctl.calibration.cli.main import main; main()")
"""The command `ctl`."""
OF_VLLM = ("--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--block-size", "32")
"""What is given after `--`."""


def environment() -> dict[str, str]:
    """Of the command: our packages, and as little of the machine as will do."""
    others = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return {**others, "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    """Its address."""
    key: str
    """Its key."""
    probe: str
    """Its probe file."""
    log: Path
    """What it writes."""

    def client(self) -> HTTPClient:
        """Ours."""
        return HTTPClient.open(self.url, str(tiny_folder()), self.probe, key=self.key)

    def get(self, path: str) -> str:
        """What a plain client reads."""
        asked = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return str(answer.read().decode())

    def post(self, path: str, **body: Any) -> tuple[int, str]:
        """Status and text of the answer to a plain client."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = json.dumps({"model": str(tiny_folder()), **body}).encode()
        try:
            asked = urllib.request.Request(self.url + path, data, headers)
            with urllib.request.urlopen(asked, timeout=300) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def running(self) -> int:
        """Requests that are under way."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith("vllm:num_requests_running")]
        return int(sum(float(line.split()[-1]) for line in lines))


@contextmanager
def serving(folder: Path, probe: Path) -> Iterator[Server]:
    """Start it with a probe, and end it."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key, log = "k" * 32, folder / "log"
    (folder / "key").write_text(key)
    ours = ("serve", "tiny", "--engine", "vllm", "--probe", str(probe), "--port", str(port))
    command = [*CTL, *ours, "--key-file", str(folder / "key"), "--", *OF_VLLM]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    try:
        server = Server(f"http://127.0.0.1:{port}", key, str(probe), log)
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, server.log.read_text()[-3000:]
        try:
            server.get("/health")
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no server after {START_SECONDS} s: {server.log.read_text()[-3000:]}")
