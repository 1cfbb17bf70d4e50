"""Clients that are slow, late or gone, and what they may ask of a request that runs."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from reasonctl.backends.server.app import EventStream
from reasonctl.backends.server.limits import ServerLimits
from support.serving import KEYS, QUESTION, Running, post, running, spawned


@contextmanager
def held(served: Running, forwards: int) -> Iterator[threading.Event]:
    """The model makes so many forwards; further ones wait for the event."""
    gate, made, engine = threading.Event(), list[int](), served.service.served.model.engine
    real = engine.forward

    def forward(requests: Any) -> Any:
        made.append(len(requests))
        return (len(made) <= forwards or gate.wait(30)) and real(requests)

    object.__setattr__(engine, "forward", forward)
    try:
        yield gate
    finally:
        gate.set()
        assert served.idle()
        object.__setattr__(engine, "forward", real)


def until(condition: Any, seconds: float = 20.0) -> bool:
    """Whether something comes true within some seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(condition())


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    limits = ServerLimits(drain_seconds=5, stall_seconds=4.0, body_seconds=0.3)
    with running(probe=False, limits=limits, at_once=1) as made:
        yield made


def raw(served: Running, body: bytes, length: int, *, window: int | None = None) -> socket.socket:
    """A connection on which a request has been written, and nothing is read."""
    made = socket.socket()
    if window is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    made.connect(("127.0.0.1", served.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS[0]}\r\n"
    made.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + body)
    return made


def test_a_reader_that_stops_reading_holds_no_row_and_is_cancelled(served: Running) -> None:
    """The only row is free as soon as its run is over, though not a byte was read; after the stall it is forgotten."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "seed": 1, "stream": True}
    body = json.dumps({**asked, "logprobs": True, "top_logprobs": 20, "reasonctl": {"budget": 0}, "n": 16}).encode()
    served.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with raw(served, body, len(body), window=4096):
        assert until(lambda: served.service.open)
        assert served.ask(max_tokens=4).usage.completion_tokens == 4, "another client waits for no reader"
        (work,) = served.service.open.values()
        assert not served.service.driver.running, "every run of the stream is over"
        assert until(lambda: not served.service.open)
        assert work.outputs.qsize() <= sum(len(choice.trace.tokens) for choice in work.choices)
    page = post(served, "/metrics", method="GET").text
    assert re.search(r"^reasonctl_cancelled_total 1$", page, re.MULTILINE)


@pytest.mark.parametrize("stuck", [True, False])
def test_a_stream_ends_where_nothing_is_taken_for_long(stuck: bool) -> None:
    left, closed, sent = list[str](), list[str](), list[bytes]()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            for i in range(5):
                yield b"%d" % i
        finally:
            closed.append("closed")

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        await asyncio.sleep(60 if stuck and len(sent) == 3 else 0)

    start = time.monotonic()
    asyncio.run(EventStream(events(), {}, 0.05, lambda: left.append("left"))({}, receive, send))
    assert time.monotonic() - start < 5 and closed == ["closed"] and left == ["left"] * stuck
    assert sent == ([b"", b"0", b"1"] if stuck else [b"", b"0", b"1", b"2", b"3", b"4", b""])


def test_a_body_has_a_time_and_a_size(served: Running) -> None:
    with raw(served, b'{"model":', 100) as late:
        late.settimeout(10)
        assert late.recv(1 << 12).startswith(b"HTTP/1.1 408")
    parts = (b"x" * (1 << 16) for _ in range(17))
    answer = post(served, "/v1/chat/completions", content=parts)
    assert answer.status_code == 413 and "larger than" in answer.json()["error"]["message"]


def test_a_request_has_a_time() -> None:
    """It ends with what there is, and says so."""
    with running(limits=ServerLimits(drain_seconds=5, request_seconds=1.0)) as served, held(served, 6):
        answer = served.ask()
        assert answer.choices[0].finish_reason == "length"
        (warning,) = answer.reasonctl["choices"][0]["warnings"]
        assert warning == "the request took longer than 1 s, and ends here"
        assert answer.choices[0].message.reasoning_content


ANSWERED = "/v1/requests/{}/answer"


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_is_closed_from_outside_by_the_clients_own_name(served: Running, stream: bool) -> None:
    """The name is known before the answer's head comes, and means nothing with another key."""
    name = "my-request-of-today"
    with ThreadPoolExecutor(1) as pool, held(served, 6) as gate:
        with pytest.raises(openai.BadRequestError, match="16 to 128"):
            served.ask(extra_headers={"x-client-request-id": "short"})
        asked = pool.submit(served.ask, stream=stream, extra_headers={"x-client-request-id": name})
        assert until(lambda: any(work.answers[0].thinking for work in list(served.service.open.values())))
        with pytest.raises(openai.ConflictError, match="a name of its own"):
            served.ask(extra_headers={"x-client-request-id": name})
        assert post(served, ANSWERED.format(name), key=1).status_code == 404
        assert post(served, ANSWERED.format("another-request-id")).status_code == 404
        assert post(served, ANSWERED.format(name)).json()["closed"] == 1
        gate.set()
        answer = asked.result()
        done = list(answer)[-1] if stream else answer
        assert done.reasonctl["choices"][0]["closed_by"] == "asked"
        assert post(served, ANSWERED.format(name)).status_code == 404


@pytest.mark.slow
def test_sigterm_lets_running_requests_end() -> None:
    """A stream that has begun comes to its end; nobody else is let in; the process ends."""
    with spawned() as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEYS[0], max_retries=0)
        asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "seed": 1}
        stream = client.chat.completions.create(**asked, stream=True, n=16, temperature=1.5, max_tokens=400)
        first = next(stream)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        with pytest.raises(openai.APIConnectionError):
            client.with_options(timeout=5).chat.completions.create(**asked)
        ends = [choice.finish_reason for chunk in (first, *stream) for choice in chunk.choices if choice.finish_reason]
        assert len(ends) == 16
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
