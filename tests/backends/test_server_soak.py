"""The endpoint under many clients, of which some leave, send nonsense, or read slowly."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.serving import KEYS, Running, running, spawned


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(probe=False, at_once=8) as made:
        yield made


def headers(key: int) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[key]}", "content-type": "application/json"}


def body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": question}], "seed": 1, **more}


WRONG: tuple[tuple[str, Any], ...] = (
    ("model", 3),
    ("model", "other"),
    ("messages", "hello"),
    ("messages", []),
    ("messages", [{"role": "robot", "content": "x"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}]),
    ("temperature", "hot"),
    ("temperature", -0.5),
    ("top_p", 1.5),
    ("n", 0),
    ("n", 99),
    ("n", True),
    ("max_tokens", -1),
    ("max_tokens", 1e30),
    ("stop", [""]),
    ("stop", ["x" * 300]),
    ("seed", -5),
    ("seed", 1.5),
    ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
    ("logprobs", 3),
    ("top_logprobs", 3),
    ("logit_bias", {"first": 3}),
    ("response_format", {"type": "yaml"}),
    ("response_format", {"type": "json_schema"}),
    ("tools", [{"type": "retrieval"}]),
    ("tool_choice", "required"),
    ("reasoning_effort", "heroic"),
    ("thinking_token_budget", -1),
    ("chat_template_kwargs", {"chat_template": "{{ x }}"}),
    ("chat_template", "{{ 'x' * 1000000000 }}"),
    ("reasonctl", {"budget": "much"}),
    ("reasonctl", {"policy": "grammar(/etc/passwd)"}),
    ("reasonctl", {"draft": "hierarchy(corpus=/etc/passwd)"}),
    ("reasonctl", {"x": 1}),
    ("logit_processors", []),
)


def malformed(i: int) -> bytes:
    """The i-th broken body: a wrong field, a torn or nested text, or bytes."""
    rng = random.Random(i)
    whole = json.dumps(body("48 a-9 b+6 c-3")).encode()
    kind = i % 5
    if kind < 3:
        name, value = WRONG[rng.randrange(len(WRONG))]
        return json.dumps({**body("48 a-9 b+6 c-3"), name: value, "user": str(i)}).encode()
    if kind == 3:
        return whole[: rng.randrange(len(whole))]
    return rng.choice([b"[" * rng.randrange(1, 9999), rng.randbytes(rng.randrange(1, 400)), b"[1, 2]", b"9" * 99])


def check_malformed(served: Running, number: int) -> None:
    with httpx2.Client(headers=headers(0), timeout=60) as client:
        for i in range(number):
            got = client.post(f"{served.url}/v1/chat/completions", content=malformed(i))
            assert 400 <= got.status_code < 500 and got.json()["error"]["message"], (i, malformed(i)[:200], got.text)
    assert served.idle()


def test_malformed_bodies_get_a_message(served: Running) -> None:
    check_malformed(served, 60)


def leave_midway(served: Running, number: int) -> None:
    """Streams whose clients go after the first event."""
    with httpx2.Client(headers=headers(0), timeout=60) as client:
        for i in range(number):
            asked = body("48 a-9 b+6 c-3", stream=True, seed=i, temperature=1.0)
            with client.stream("POST", f"{served.url}/v1/chat/completions", json=asked) as response:
                assert response.status_code == 200
                next(response.iter_raw())
    assert served.idle()
    engine: Any = served.service.served.model.engine
    sessions = [engine.session() for _ in range(engine.most_sessions)]
    for session in sessions:
        session.close()


def test_clients_that_leave_lose_no_row(served: Running) -> None:
    leave_midway(served, 12)


@pytest.mark.slow
def test_two_hundred_that_leave(served: Running) -> None:
    leave_midway(served, 200)


@pytest.mark.slow
def test_a_thousand_malformed_bodies(served: Running) -> None:
    check_malformed(served, 1000)


def memory(process: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def idle(url: str, seconds: float = 30.0) -> bool:
    """Whether no run is left on a server, within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        page = httpx2.get(f"{url}/metrics", headers=headers(0)).text
        if "reasonctl_running 0\n" in page and "reasonctl_waiting 0\n" in page:
            return True
        time.sleep(0.1)
    return False


def question(rng: random.Random) -> str:
    """Every other one is so long that what it has in common with an earlier one is kept."""
    steps = [f"{letter}{rng.choice('+-')}{rng.randrange(2, 10)}" for letter in "abcdefghijkl"[: rng.choice((3, 12))]]
    return f"{rng.randrange(20, 90)} {' '.join(steps)}"


def one(client: httpx2.Client, url: str, i: int, known: dict[str, str], seen: Counter[str]) -> None:
    """One of the mixed requests."""
    rng, url = random.Random(i), f"{url}/v1/chat/completions"
    kind = i % 10
    if kind == 0:
        assert 400 <= client.post(url, content=malformed(i)).status_code < 500
        seen["bad"] += 1
        return
    asked = body(question(random.Random(rng.randrange(40))), max_tokens=12, temperature=0, stream=kind < 5)
    text = asked["messages"][0]["content"]
    if kind == 1:
        with client.stream("POST", url, json=asked) as response:
            next(response.iter_raw())
        seen["left"] += 1
        return
    got = client.post(url, json=asked)
    if got.status_code == 429:
        seen["full"] += 1
        return
    assert got.status_code == 200, got.text
    if kind < 5:
        events = [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        answer = "".join(delta.get("reasoning_content", "") + delta.get("content", "") for delta in deltas)
    else:
        message = got.json()["choices"][0]["message"]
        answer = message.get("reasoning_content", "") + (message["content"] or "")
    assert known.setdefault(text, answer) == answer, "an answer came to the wrong client"
    seen["whole"] += 1


@pytest.mark.slow
def test_ten_thousand_mixed_requests_take_no_memory() -> None:
    """Greedy answers to 40 questions: each client must get its own question's. Memory is flat after 2,000."""
    known, seen = dict[str, str](), Counter[str]()
    clients = [httpx2.Client(headers=headers(i % 2), timeout=300) for i in range(16)]
    lock = threading.Lock()
    with spawned("--batch", "8") as (process, url):

        def batch(first: int, last: int) -> int:
            """Bytes of the server after these requests."""
            numbers = iter(range(first, last))

            def work(client: httpx2.Client) -> None:
                while True:
                    with lock:
                        i = next(numbers, None)
                    if i is None:
                        return
                    one(client, url, i, known, seen)

            with ThreadPoolExecutor(len(clients)) as pool:
                list(pool.map(work, clients))
            assert idle(url)
            return memory(process.pid)

        sizes = [batch(at, at + 1000) for at in range(0, 10_000, 1000)]
        page = httpx2.get(f"{url}/metrics", headers=headers(0)).text
    print(f"{dict(seen)}; {len(known)} questions; MB after each 1,000: {[round(size / 1e6, 1) for size in sizes]}")
    print("\n".join(line for line in page.splitlines() if not line.startswith("#")))
    assert len(set(known.values())) > 20, "the questions have answers of their own"
    assert sizes[-1] <= 1.02 * sizes[1]
