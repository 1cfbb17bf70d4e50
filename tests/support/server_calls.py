"""The requests to llama-cpp-python's own server that tests/every_call.py makes twice, on the bundled model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastapi.testclient import TestClient
from llama_cpp.server import app
from llama_cpp.server.settings import ModelSettings, ServerSettings

from support.calls import Case
from support.llama_calls import CHOICE, SCHEMA, TOOL
from support.llama_models import CHAT, PROMPT, TINY


class Served(NamedTuple):
    """A server in this process."""

    client: TestClient
    llama: Any
    """The Llama that answers."""


@contextmanager
def served() -> Iterator[Served]:
    """The library's server over the bundled model, which keeps all logits."""
    model = ModelSettings(
        model=str(TINY), model_alias="tiny", n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )
    made = app.create_app(server_settings=ServerSettings(), model_settings=[model])
    with TestClient(made) as client:
        proxy = app._llama_proxy
        assert proxy is not None
        yield Served(client, proxy())
        proxy.free()


def _post(path: str, body: dict[str, Any]) -> Any:
    def call(client: TestClient) -> Any:
        answer = client.post(path, json=body)
        events = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        if events:
            return [answer.status_code, [json.loads(line[6:]) for line in events], answer.text.count("[DONE]")]
        return [answer.status_code, answer.json()]

    return call


def _get(path: str) -> Any:
    return lambda client: [client.get(path).status_code, client.get(path).json()]


SHORT = {"max_tokens": 20, "temperature": 0.0, "model": "tiny"}
COMPLETIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "stop": {"stop": ["-6"]},
    "echo": {"echo": True},
    "logprobs": {"logprobs": 2},
    "logit_bias": {"logit_bias": {"47": 3.0}},
    "penalties": {"repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "top_k=1": {"temperature": 0.8, "top_k": 1},
    "suffix": {"suffix": " end"},
    "grammar": {"grammar": 'root ::= [0-9 ]+ "\\n"'},
    "min_tokens": {"min_tokens": 5},
    "token ids as logit_bias": {"logit_bias": {"47": 3.0}, "logit_bias_type": "input_ids"},
    "words as logit_bias": {"logit_bias": {"49": 3.0}, "logit_bias_type": "tokens"},
}
CHATS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "stop": {"stop": ["-6"]},
    "json": {"response_format": {"type": "json_object"}},
    "json schema": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "tools": {"tools": [TOOL], "tool_choice": "auto"},
    "tool by name": {"tools": [TOOL], "tool_choice": CHOICE},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "min_tokens": {"min_tokens": 5},
}


def _both(path: str, kind: str, given: dict[str, Any], sets: dict[str, dict[str, Any]]) -> list[Case]:
    return [
        Case(f"{kind}, {name}{', stream' if stream else ''}", _post(path, given | SHORT | more | {"stream": stream}))
        for name, more in sets.items()
        for stream in (False, True)
    ]


_TEXT, _TALK = {"prompt": PROMPT}, {"messages": CHAT}
CASES = [
    *_both("/v1/completions", "completion", _TEXT, COMPLETIONS),
    *_both("/v1/chat/completions", "chat", _TALK, CHATS),
    Case("completion, a list of one", _post("/v1/completions", {"prompt": [PROMPT], **SHORT})),
    Case("completion, random", _post("/v1/completions", {**_TEXT, **SHORT, "temperature": 1.0}), random=True),
    Case("chat, random", _post("/v1/chat/completions", {**_TALK, **SHORT, "temperature": 1.0}), random=True),
    Case("completion for copilot", _post("/v1/engines/copilot-codex/completions", _TEXT | SHORT)),
    Case("too long a prompt", _post("/v1/completions", {"prompt": "5 " * 400, **SHORT}), runs=False),
    Case("a wrong argument", _post("/v1/completions", {**_TEXT, **SHORT, "temperature": "hot"}), runs=False),
    Case("a model that isn't there", _post("/v1/completions", {**_TEXT, **SHORT, "model": "other"})),
    Case("embeddings of a model for text", _post("/v1/embeddings", {"input": "a", "model": "tiny"}), runs=False),
    Case("models", _get("/v1/models"), runs=False),
    Case("tokenize", _post("/extras/tokenize", {"input": PROMPT}), runs=False),
    Case("tokenize, count", _post("/extras/tokenize/count", {"input": PROMPT}), runs=False),
    Case("detokenize", _post("/extras/detokenize", {"tokens": [47, 55]}), runs=False),
]
