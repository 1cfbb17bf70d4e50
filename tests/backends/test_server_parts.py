"""The endpoint's parts without a server: splitting text, who may ask, whose turn it is, what a body may hold."""

from __future__ import annotations

import asyncio
import random
import threading
import typing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from reasonctl.backends.server.answers import did
from reasonctl.backends.server.driving import Driver, Group, ServedRun
from reasonctl.backends.server.guard import LEAST_KEY, Access, Guard, host_name, read_keys
from reasonctl.backends.server.limits import ServerLimits
from reasonctl.backends.server.metrics import Metrics
from reasonctl.backends.server.refusals import Refusal
from reasonctl.backends.server.requests import ChatRequest, read_request
from reasonctl.backends.server.sampling import Drafters
from reasonctl.backends.server.splitting import Marking, Splitter, StopAt
from reasonctl.backends.server.tools import read_answer
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Ended,
    Greedy,
    Hierarchy,
    Keys,
    Markers,
    Trace,
)
from reasonctl.controller.thinking.rendering import TemplateRenderer

MARKERS = Markers("<t>", "</t>")


def pieces_of(text: str, rng: random.Random) -> list[str]:
    """A text in random pieces of one to four characters."""
    found = []
    while text:
        n = rng.randrange(1, 5)
        found.append(text[:n])
        text = text[n:]
    return found


@pytest.mark.parametrize("seed", range(60))
def test_however_a_text_is_cut_into_tokens_its_parts_are_the_same(seed: int) -> None:
    rng = random.Random(seed)
    text = " so <b 4 </\n</t>\n\nIs <t>more</t> 7, STOP or ST and SToP. STOP 9"
    pieces = pieces_of(text, rng)
    tokenizer = ToyTokenizer(pieces)
    for stops, content, stopped in (
        ((), "Is 7, STOP or ST and SToP. STOP 9", None),
        (("STOP",), "Is 7, ", "STOP"),
        (("SToP", "SToP."), "Is 7, STOP or ST and ", "SToP"),
    ):
        splitter = Splitter(tokenizer, frozenset(), Marking(MARKERS, thinking=True), stops)
        made = [splitter.push(token) for token in range(len(pieces))] + [splitter.finish()]
        assert "".join(piece.reasoning for piece in made) == "so <b 4 </more"
        assert "".join(piece.content for piece in made) == content and splitter.stopped == stopped


@pytest.mark.parametrize("seed", range(20))
def test_an_opening_marker_that_the_model_writes_in_open_thoughts_is_no_thought(seed: int) -> None:
    """However it is cut; a text that only begins like it is one."""
    rng = random.Random(seed)
    for text, thoughts in (
        ("\n<t>\nso <t> on</t>4", "so <t> on"),
        (" <tx> on</t>4", "<tx> on"),
        ("<t", "<t"),
        ("<", "<"),
    ):
        pieces = pieces_of(text, rng)
        splitter = Splitter(ToyTokenizer(pieces), frozenset(), Marking(MARKERS, thinking=True))
        made = [splitter.push(token) for token in range(len(pieces))] + [splitter.finish()]
        assert "".join(piece.reasoning for piece in made) == thoughts
        assert "".join(piece.content for piece in made) == ("4" if "4" in text else "")


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_is_seen_at_the_token_that_completes_it(seed: int) -> None:
    """Whatever was taken back before, and never in what was forced."""
    rng = random.Random(seed)
    pieces = [*pieces_of("a STOP b</t>", rng), *pieces_of("c STO", rng), "P d"]
    tokenizer = ToyTokenizer(pieces)
    made = Splitter(tokenizer, frozenset(), Marking(MARKERS, thinking=True), ("STOP",))
    stop, tokens = StopAt(1, made), list(range(len(pieces)))
    for end in range(1, len(tokens)):
        assert not stop([0, *tokens[:end]], 1)
        if end > 3 and rng.random() < 0.3:
            assert not stop([0, *tokens[: end - 2]], 1), "tokens were taken back"
    assert stop([0, *tokens], 1)
    assert not StopAt(1, made)([0, *tokens], len(tokens) + 1), "all of it was forced"


def test_hosts_and_keys() -> None:
    for host in ("0.0.0.0", "192.168.0.4", "example.com", "::"):
        with pytest.raises(ControllerError, match="there is no key"):
            Access(host)
        Access(host, keys=("x" * LEAST_KEY,))
    with pytest.raises(ControllerError, match="every web page"):
        Access(origins=("*",))
    assert host_name("127.0.0.1.evil.example") not in Access().names
    assert {host_name(text) for text in ("localhost:1", "[::1]:80", "127.0.0.1")} <= Access().names
    assert host_name("localhost:evil") == ""


def test_keys_come_from_the_environment_or_a_file(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("file-key-of-a-test\n\nother-key-of-a-test\n")
    assert read_keys(str(file), {"REASONCTL_API_KEY": "environment-key-x"}) == (
        "environment-key-x",
        "file-key-of-a-test",
        "other-key-of-a-test",
    )
    assert read_keys(None, {}) == ()
    for text, message in (("short", "has 5 characters"), ("", "holds no key"), ("a key of several words", "spaces")):
        file.write_text(text)
        with pytest.raises(ControllerError, match=message):
            read_keys(str(file), {})


def test_every_key_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """All digests are compared, in constant time, whichever fits: no order and no prefix shows."""
    from reasonctl.backends.server import guard as module

    compared: list[tuple[bytes, bytes]] = []
    real = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    keys = tuple(f"key-number-{i}-of-a-test" for i in range(3))
    guard = Guard(lambda *_: asyncio.sleep(0), Access(keys=keys), lambda *_: None)  # type: ignore[arg-type, return-value]
    owner = guard.owner_of([f"Bearer {keys[0]}".encode()])
    assert len(compared) == 3 and keys[0] not in owner
    fewer = Guard(lambda *_: asyncio.sleep(0), Access(keys=keys[::-1]), lambda *_: None)  # type: ignore[arg-type, return-value]
    assert fewer.owner_of([f"Bearer {keys[0]}".encode()]) == owner  # a client's name stays when keys are reordered
    compared.clear()
    for wrong in ([], [b"Bearer x"], [f"Basic {keys[0]}".encode()], [f"Bearer {keys[0]}".encode()] * 2):
        with pytest.raises(Refusal):
            guard.owner_of(wrong)
    assert all(len(a) == len(b) == 32 for a, b in compared)


def test_every_field_of_openais_client_is_known_or_refused_by_name() -> None:
    fields = typing.get_type_hints(CompletionCreateParamsNonStreaming)
    assert len(fields) > 30
    for name in fields.keys() - ChatRequest.model_fields.keys():
        body = f'{{"model": "tiny", "messages": [{{"role": "user", "content": "x"}}], "{name}": null}}'
        with pytest.raises(Refusal, match=f"unknown field '{name}'"):
            read_request(ChatRequest, body.encode(), ServerLimits())


@pytest.mark.parametrize(
    ("fields", "nearest"),
    [
        ('"temprature": 1', "'temprature'; did you mean 'temperature'"),
        ('"reasonctl": {"bugdet": 3}', "'reasonctl.bugdet'; did you mean 'budget'"),
        ('"messages": [{"role": "user", "contnet": "x"}]', "'messages.0.contnet'; did you mean 'content'"),
        (
            '"tools": [{"type": "function", "function": {"name": "f", "paramters": {}}}]',
            "'tools.0.function.paramters'; did you mean 'parameters'",
        ),
        ('"thoughts": 1', "'thoughts'; leave it out"),
    ],
)
def test_an_unknown_field_is_met_with_the_nearest_of_its_own_object(fields: str, nearest: str) -> None:
    asked = '{"model": "tiny", "messages": [{"role": "user", "content": "x"}], '
    with pytest.raises(Refusal) as caught:
        read_request(ChatRequest, f"{asked}{fields}}}".encode(), ServerLimits())
    assert f"unknown field {nearest}" in str(caught.value)


class Slow:
    """A toy server: greedy runs of a model whose forwards wait for each other."""

    def __init__(self, at_once: int, queue: int) -> None:
        self.engine, self.tokenizer = ToyEngine(vocabulary=3), ToyTokenizer(["a", "b", "c"])
        self.driver = Driver(at_once, queue)
        self.order = list[tuple[str, int]]()
        self.done = threading.Semaphore(0)

    def group(self, owner: str, runs: int, length: int = 4) -> Group:
        made = []
        for _ in range(runs):
            call = Call([0], length, frozenset(), Keys(seed=1), Greedy())
            controller = Controller()
            loop = controller.run(self.engine, self.tokenizer, call, Trace())
            made.append(ServedRun(loop, controller.needs(self.engine, self.tokenizer, call)))

        def deliver(outputs: list[Any]) -> None:
            for output in outputs:
                if isinstance(output, Ended):
                    self.order.append((owner, output.key))  # type: ignore[arg-type]
                    self.done.release()

        return Group(owner, made, deliver)


def test_owners_take_turns() -> None:
    """One with many runs doesn't keep another waiting for all of them."""
    slow = Slow(1, 20)
    slow.driver.submit(slow.group("many", 6))
    slow.driver.submit(slow.group("one", 1))
    slow.driver.start()
    for _ in range(7):
        assert slow.done.acquire(timeout=30)
    slow.driver.close()
    assert slow.order.index(("one", 0)) == 1


def test_a_queue_is_bounded_and_cancelled_runs_leave_it() -> None:
    slow = Slow(2, 3)
    slow.driver.submit(slow.group("a", 2))
    kept = slow.group("a", 3)
    slow.driver.submit(kept)
    with pytest.raises(Refusal, match="wait already") as refused:
        slow.driver.submit(slow.group("b", 1))
    assert refused.value.status == 429 and refused.value.headers["Retry-After"]
    slow.driver.cancel(kept)
    slow.driver.start()
    for _ in range(2):
        assert slow.done.acquire(timeout=30)
    slow.driver.submit(slow.group("b", 1))
    assert slow.done.acquire(timeout=30)
    slow.driver.close()
    assert [owner for owner, _ in slow.order] == ["a", "a", "b"] and slow.driver.waiting == slow.driver.running == 0


def test_nobody_is_drafted_anothers_text() -> None:
    own = Hierarchy()
    drafters = Drafters(own)
    one, two = drafters.of("key-0", None), drafters.of("key-1", None)
    assert isinstance(one, Hierarchy) and isinstance(two, Hierarchy)
    assert len({id(drafter.recent) for drafter in (own, one, two)}) == 3
    assert drafters.of("key-0", None) is one and drafters.of("key-0", "hierarchy(8)") is not one
    one.recent.add(list(range(20)))  # type: ignore[union-attr]
    assert len(one.recent) and not len(two.recent)  # type: ignore[arg-type]


def test_calls_are_found_in_text() -> None:
    tools = read_request(
        ChatRequest,
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], '
        b'"tools": [{"type": "function", "function": {"name": "add"}}]}',
        ServerLimits(),
    ).tools  # type: ignore[union-attr]
    call = '{"name": "add", "arguments": {"a": 1}}'
    found = read_answer(f"So: <tool_call>\n{call}\n</tool_call><tool_call>{call}</tool_call>", tools)
    assert found.content == "So:" and [one.arguments for one in found.calls] == ['{"a": 1}'] * 2
    assert len(read_answer(f"<tool_call>{call}</tool_call>" * 3, tools, parallel=False).calls) == 1
    assert read_answer(call, tools).calls[0].name == "add"
    for text in ("<tool_call>{broken</tool_call>", call.replace("add", "rm"), f"{call} and more", "plain"):
        assert read_answer(text, tools).calls == () and read_answer(text, tools).content == text


def test_a_template_is_bounded() -> None:
    renderer = TemplateRenderer("{{ x }}{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}")
    try:
        assert renderer.render({"x": "a", "n": 1}) == "a"
        with pytest.raises(ControllerError, match="can't render"):
            renderer.render({"x": "a", "n": 10**6})
        assert renderer.render({"x": "b", "n": 1}) == "b"
    finally:
        renderer.close()


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics()
    trace = Trace(tokens=[1, 2, 3], drift={"alarm": True})
    metrics.finished(5, 4, [trace], 12.5)
    metrics.answered("/health", 200)
    lines = metrics.page(2, 1).splitlines()
    assert 'reasonctl_tokens_total{kind="completion"} 3' in lines and "reasonctl_drift_alarm 1" in lines
    assert "reasonctl_thinking_tokens_saved_total 12.5" in lines and "reasonctl_running 2" in lines
    assert all(line.startswith("# ") or np.isfinite(float(line.rpartition(" ")[2])) for line in lines)


def test_nothing_saved_is_no_negative_zero() -> None:
    assert str(did(SimpleNamespace(rule=None), Trace())["saved"]) == "0.0"
    metrics = Metrics()
    metrics.finished(5, 4, [], -0.04)
    assert "reasonctl_thinking_tokens_saved_total 0.0" in metrics.page(0, 0).splitlines()
