"""A server over the bundled model, in a thread of its own on a free port."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai

from reasonctl.backends import BUNDLED_PROBE, load_model
from reasonctl.backends.server.guard import Access
from reasonctl.backends.server.limits import ServerLimits
from reasonctl.backends.server.service import Served, Service
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
    port: int
    """Where."""

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


@contextlib.contextmanager
def running(
    backend: Any = "llama.cpp",
    *,
    probe: bool = True,
    rule: ExitRule | None = None,
    limits: ServerLimits | None = None,
    at_once: int = 4,
    **more: Any,
) -> Iterator[Running]:
    """A server over the bundled model, for as long as the block lasts."""
    model = load_model("tiny", backend=backend, threads=1, batch=at_once)
    controller = Controller(exit=rule or (load_exit(BUNDLED_PROBE, risk=0.05) if probe else None))
    limits = limits or ServerLimits(drain_seconds=5)
    presets = {"careful": parse_policy("temperature(0.3)")}
    served = Served(model, controller, parse_policy(POLICY), 768, at_once, presets, limits)
    service = Service(served)
    server = make_server(service, Access(keys=KEYS, **more), 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Running(service, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()
