"""A server over the bundled model, in a thread of its own on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai

from reasonctl.backends import BUNDLED_PROBE, load_model
from reasonctl.backends.server.answers import Written
from reasonctl.backends.server.guard import Access
from reasonctl.backends.server.limits import ServerLimits
from reasonctl.backends.server.requests import ChatRequest
from reasonctl.backends.server.service import Served, Service, Work
from reasonctl.backends.server.serving import make_server
from reasonctl.controller import Controller, ExitRule, parse_policy
from reasonctl.probes import load_exit

QUESTION = "48 a-9 b+6 c-3"
KEYS = ("first-key-of-tests", "second-key-of-tests")
POLICY = "temperature(0.6)"


@dataclass
class Running:
    """A server that runs."""

    service: Service
    """What it serves."""
    listening: socket.socket
    """Where clients connect."""

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.listening.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: int = 0) -> openai.OpenAI:
        """The official client with one of the keys."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEYS[key], max_retries=0, timeout=120)

    def ask(self, key: int = 0, **fields: Any) -> Any:
        """A chat completion of the usual question."""
        given = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "seed": 1, **fields}
        return self.client(key).chat.completions.create(**given)

    def idle(self, seconds: float = 30.0) -> bool:
        """Whether no run is left, within some seconds."""
        until, driver = time.monotonic() + seconds, self.service.driver
        while (driver.running or driver.waiting or self.service.open) and time.monotonic() < until:
            time.sleep(0.01)
        return not (driver.running or driver.waiting or self.service.open)


def answered(service: Service, key: str = "key-0", **fields: Any) -> tuple[list[Written], Work]:
    """What a chat request is answered by a service that has started, without a server around it."""
    given = {"model": service.served.name, "messages": [{"role": "user", "content": "?"}], **fields}
    request = ChatRequest.model_validate(given)

    async def ask() -> tuple[list[Written], Work]:
        work = await asyncio.to_thread(service.prepare, request, key)
        service.enter(work)
        written = [Written() for _ in work.choices]
        try:
            async for update in service.updates(work):
                written[update.choice].add(update)
        finally:
            service.leave(work)
        return written, work

    return asyncio.run(ask())


def post(served: Running, path: str, *, key: int | None = 0, **more: Any) -> Any:
    """A request that the official client wouldn't make."""
    headers = {"content-type": "application/json"} | ({} if key is None else {"authorization": f"Bearer {KEYS[key]}"})
    headers |= more.pop("headers", {})
    return httpx2.request(more.pop("method", "POST"), served.url + path, headers=headers, timeout=60, **more)


@contextlib.contextmanager
def spawned(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ctl serve tiny` in a process of its own, with the keys of these tests: the process and the server's address."""
    command = [sys.executable, "-c", "from reasonctl.calibration.cli.main import main; main()", "serve", "tiny"]
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write("\n".join(KEYS))
        keys.flush()
        command += ["--threads", "1", "--port", "0", "--key-file", keys.name, *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = re.search(r"(http://127\.0\.0\.1:\d+)/v1 \(2 keys; \d+ runs", process.stdout.readline())
            try:
                assert found is not None
                yield process, found[1]
            finally:
                process.kill()


@contextlib.contextmanager
def running(
    backend: Any = "llama.cpp",
    *,
    probe: bool = True,
    rule: ExitRule | None = None,
    limits: ServerLimits | None = None,
    at_once: int = 4,
    before_template: str = "",
    **more: Any,
) -> Iterator[Running]:
    """A server over the bundled model, for as long as the block lasts."""
    model = load_model("tiny", backend=backend, threads=1, batch=at_once)
    model = replace(model, template=before_template + (model.template or ""))
    controller = Controller(exit=rule or (load_exit(BUNDLED_PROBE, risk=0.05) if probe else None))
    limits = limits or ServerLimits(drain_seconds=5)
    presets = {"careful": parse_policy("temperature(0.3)")}
    served = Served(model, controller, parse_policy(POLICY), 768, at_once, presets, limits)
    service = Service(served)
    server = make_server(service, Access(keys=KEYS, **more), 0)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Running(service, listening)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()
