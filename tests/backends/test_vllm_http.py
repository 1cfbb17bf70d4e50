"""The client over HTTP, against a server that answers as vLLM's does, from the simulated engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from reasonctl.backends.vllm.client_run import Asked
from reasonctl.backends.vllm.http import HTTPClient, address_of
from reasonctl.backends.vllm.options import RequestOptions
from reasonctl.controller import ControllerError, Effort
from reasonctl.controller.thinking import EXIT_FORMS
from support.toy_thinking import EOS, PROMPT, TOKENIZER
from support.vllm_simulated import STOP, SimulatedEngine, client_of, our_run, rule_of

SEED = 3


class Stub:
    """What the simulated engine feeds in place of a client's run: it only keeps the tokens."""

    def __init__(self, asked):
        self.interrupted, self.finish, self.tokens, self._asked, self._stop = False, None, [], asked, asked.stop_tokens
        self._left = True

    def asked(self):
        left, self._left = self._left, False
        return self._asked if left else None

    def push(self, token):
        self.tokens.append(token)
        if token in self._stop:
            self.finish = "stop"

    def ended(self, reason):
        self.finish = reason


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append((body, dict(self.headers)))
        try:
            RequestOptions.of(body["vllm_xargs"])
        except ControllerError as error:
            self._answer(400, json.dumps({"error": {"message": str(error)}}))
            return
        asked = Asked(body["prompt"], body["max_tokens"], body["vllm_xargs"], body["stop_token_ids"], 0)
        run = Stub(asked)
        SimulatedEngine(self.server.rule).make([run], [SEED])
        parts = [run.tokens[i : i + 3] for i in range(0, len(run.tokens), 3)]
        events = [{"choices": [{"token_ids": part, "finish_reason": None}]} for part in parts]
        events[-1]["choices"][0]["finish_reason"] = run.finish
        self._answer(200, "".join(f"data: {json.dumps(one)}\n\n" for one in events) + self.server.last)

    def _answer(self, code, text):
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(rule, last="data: [DONE]\n\n") -> Iterator[tuple[HTTPClient, list]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.rule, server.bodies, server.last = rule, [], last
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield HTTPClient(urlsplit(url), "m", client_of(rule), lambda _: list(PROMPT), key="k" * 16), server.bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("form", EXIT_FORMS)
def test_a_stream_is_our_own_run(form):
    rule = rule_of(form)
    with serving(rule) as (client, bodies):
        run = client.run([], max_tokens=60)
        texts = list(client.follow(run, {"seed": 5, "temperature": 1.0}))
    assert run.written == our_run(rule, SEED).tokens and run.exit is not None
    assert "".join(texts) == TOKENIZER.decode([token for token in run.written if token != EOS]) and len(texts) > 1
    first, headers = bodies[0]
    assert first["vllm_xargs"]["reasonctl_risk"] == 0.05 and headers["Authorization"] == "Bearer " + "k" * 16
    if form != "append-open":
        assert first["stop_token_ids"] == [STOP] and bodies[1][0]["vllm_xargs"] == {"reasonctl_off": 1}
        assert bodies[1][0]["seed"] != first["seed"] and bodies[1][0]["stop_token_ids"] == []


def test_a_refusal_is_one_line():
    with serving(rule_of()) as (client, _):
        client.risk = 0.05
        run = client.run([], max_tokens=60)
        run.arguments["reasonctl_risk"] = 7
        with pytest.raises(ControllerError, match=r"the server answers 400: reasonctl_risk is 7; it must lie"):
            list(client.follow(run, {}))
        with pytest.raises(ControllerError, match="reasonctl_risk is 7"):
            list(client.stream([], max_tokens=60, risk=7))


def test_a_server_that_is_away_or_talks_nonsense_is_named():
    said = pytest.raises(ControllerError, match="holds b'{nonsense', which is no event")
    with serving(rule_of(), last="data: {nonsense\n\n") as (client, _), said:
        list(client.stream([], max_tokens=1))
    with pytest.raises(ControllerError, match=r"the server at http://127.* can't be reached"):
        list(client.stream([], max_tokens=60))
    for url in ("ftp://x", "127.0.0.1:80", ""):
        with pytest.raises(ControllerError, match="the server's address is"):
            address_of(url)


def test_efforts_become_vllms_budget_or_a_risk():
    rule = rule_of()
    rule.efforts = {"low": 12, "half": 0.5, "safe": Effort(risk=0.01), "quick": Effort(thinking_seconds=3)}
    client = HTTPClient(urlsplit("http://h"), "m", client_of(rule), lambda _: list(PROMPT))
    assert [client.budget_of(name, None, 60) for name in ("low", "half", "none", "safe")] == [12, 30, 0, None]
    assert client.run([], max_tokens=9, effort="safe").arguments == {"reasonctl_risk": 0.01}
    with pytest.raises(ControllerError, match="'quick' stands for 3 seconds, and vLLM limits thinking by tokens"):
        client.budget_of("quick", None, 60)
    with pytest.raises(ControllerError, match="effort is 'loud'"):
        client.run([], max_tokens=9, effort="loud")
