"""A client of vLLM's server that makes exits: it streams text, holds an open cue back, and asks again after an exit.

It speaks OpenAI's completions with tokens for a prompt, which vLLM understands, over the standard library's HTTP.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

from reasonctl.controller import ControllerError, Effort
from reasonctl.controller.core import TextDecoder
from reasonctl.controller.thinking import effort_named
from reasonctl.probes import ProbeExit

from .batch import seed_of
from .client_run import Asked, Client, ClientRun
from .folder import ModelFolder
from .options import PREFIX, EngineOptions, RequestOptions
from .start import checked

Messages = Sequence[Mapping[str, str]]
"""A conversation: of each message its role and its content."""

MOST_LINE = 1 << 20
"""Longest line of a stream that is read, in bytes."""
SECONDS = 600.0
"""Longest wait for the server's next bytes."""


@dataclass
class HTTPClient:
    """Requests to one server, whose engine has the same probe. `HTTPClient.open` reads what it needs."""

    address: SplitResult
    """The server's."""
    name: str
    """The model's name at the server."""
    client: Client
    """How its runs are controlled."""
    prompt: Callable[[Messages], list[int]]
    """Turns a conversation into a prompt's tokens."""
    risk: float = 0.05
    """The risk of requests that name none."""
    key: str | None = None
    """The server's key."""
    seconds: float = SECONDS
    """Longest wait for the server's next bytes."""
    warnings: list[str] = field(default_factory=list)
    """Small differences between the model and the probe's own."""

    @classmethod
    def open(
        cls, url: str, model: str, probe: str, *, risk: float = 0.05, key: str | None = None, name: str | None = None
    ) -> HTTPClient:
        """Read the model's tokenizer and the probe; nothing is sent.

        Args:
            url: The server's address, such as http://127.0.0.1:8000.
            model: The model's folder or hub id, as the server has it.
            probe: The probe file of the server's engine.
            risk: The risk of requests that name none.
            key: The server's key.
            name: The model's name at the server. None: the same as `model`.

        Raises:
            ControllerError: The probe is for another model, or one of them can't be read.
        """
        folder = ModelFolder.read(model)
        rule, warnings = checked(folder, EngineOptions(probe, risk))
        client = client_of(folder, rule)
        return cls(address_of(url), name or folder.path, client, folder.prompt, risk, key, warnings=warnings)

    def stream(
        self,
        messages: Messages,
        *,
        max_tokens: int,
        effort: str | None = None,
        budget: int | None = None,
        risk: float | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """The run's text as it comes, thoughts included; closing the iterator ends the request.

        Args:
            messages: The conversation.
            max_tokens: Most tokens of the run.
            effort: A name that the card defines, or "none".
            budget: Most thinking tokens: vLLM's own thinking_token_budget.
            risk: The request's own risk.
            sampling: Entries of the request, such as temperature, top_p and seed.

        Raises:
            ControllerError: The server refuses the request, or can't be reached.
        """
        run = self.run(messages, max_tokens=max_tokens, effort=effort, risk=risk)
        return self.follow(run, sampling, self.budget_of(effort, budget, max_tokens))

    def run(
        self, messages: Messages, *, max_tokens: int, effort: str | None = None, risk: float | None = None
    ) -> ClientRun:
        """A run that wasn't begun; it holds its tokens and its exit as `follow` goes on."""
        named = None if effort is None else self._effort(effort).risk
        arguments = {PREFIX + "risk": next(one for one in (risk, named, self.risk) if one is not None)}
        RequestOptions.of(arguments)
        return ClientRun(self.client, self.prompt(messages), max_tokens, arguments)

    def budget_of(self, effort: str | None, budget: int | None, max_tokens: int) -> int | None:
        """vLLM's thinking_token_budget for a budget, or for what an effort's name stands for.

        Raises:
            ControllerError: The name stands for a time, or for nothing.
        """
        if effort is None:
            return budget
        found = self._effort(effort).budget
        return budget if found is None else int(found * max_tokens) if isinstance(found, float) else found

    def follow(self, run: ClientRun, sampling: Mapping[str, Any], budget: int | None = None) -> Iterator[str]:
        """Make a run to its end, part by part; gives its text as it can no longer be taken back."""
        decoder = TextDecoder(self.client.tokenizer)
        while (asked := run.asked()) is not None:
            body = self._body(asked, {**sampling, **({"thinking_token_budget": budget} if budget is not None else {})})
            with closing(self._post(body)) as parts:
                for tokens, reason in parts:
                    for token in tokens:
                        run.push(token)
                        if run.interrupted:
                            break
                    text = "".join(decoder.push(token) for token in run.show() if token not in self.client.eos)
                    if text:
                        yield text
                    if run.interrupted:
                        break
                    if reason is not None:
                        run.ended(reason)
            if not run.interrupted and run.finish is None:
                raise ControllerError(f"the server's stream ended after {len(run.written)} tokens, before the run did")
            if run.exit is not None:
                budget = None  # thinking is over
        rest = "".join(decoder.push(token) for token in run.show() if token not in self.client.eos) + decoder.finish()
        if rest:
            yield rest

    def _effort(self, name: str) -> Effort:
        found = effort_named(name, {}, self.client.rule.efforts)
        if found.thinking_seconds is not None:
            raise ControllerError(
                f"effort {name!r} stands for {found.thinking_seconds:g} seconds, and vLLM limits thinking by tokens "
                "only; give a budget"
            )
        return found

    def _body(self, asked: Asked, sampling: Mapping[str, Any]) -> dict[str, Any]:
        made = {
            **sampling,
            "model": self.name,
            "prompt": asked.prompt,
            "max_tokens": asked.most,
            "stream": True,
            "return_token_ids": True,
            "vllm_xargs": {**sampling.get("vllm_xargs", {}), **asked.arguments},
            "stop_token_ids": [*sampling.get("stop_token_ids", ()), *asked.stop_tokens],
        }
        if sampling.get("seed") is not None:
            made["seed"] = seed_of(sampling["seed"], asked.turn)
        return made

    def _headers(self) -> dict[str, str]:
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return {"Content-Type": "application/json", **key}

    def _post(self, body: Mapping[str, Any]) -> Generator[tuple[list[int], str | None], None, None]:
        """The tokens of each part of a stream, and why it ended; leaving early closes the connection, which aborts."""
        address = self.address
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        with closing(kind(address.hostname or "", address.port, timeout=self.seconds)) as connection:
            try:
                connection.request(
                    "POST", f"{address.path.rstrip('/')}/v1/completions", json.dumps(body), self._headers()
                )
                answer = connection.getresponse()
                if answer.status != 200:
                    raise ControllerError(f"the server answers {answer.status}: {_message(answer.read(MOST_LINE))}")
                yield from _parts(answer)
            except (OSError, http.client.HTTPException) as error:
                raise ControllerError(f"the server at {address.geturl()} can't be reached: {error}") from error


def client_of(folder: ModelFolder, rule: ProbeExit) -> Client:
    """How runs of a model are controlled by its client. Raises ControllerError as `stop_token` does."""
    stop = folder.stop_token() if rule.form != "append-open" else -1
    thinking = replace(folder.thinking, markers=rule.markers, suffix=rule.suffix)
    return Client(rule, folder.served.tokenizer, thinking, stop, folder.eos)


def address_of(url: str) -> SplitResult:
    """A server's address; raises ControllerError where it is none."""
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ControllerError(f"the server's address is {url!r:.80}; give one such as http://127.0.0.1:8000")
    return found


def _parts(answer: http.client.HTTPResponse) -> Iterator[tuple[list[int], str | None]]:
    """The events of a stream."""
    while line := answer.readline(MOST_LINE):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
            choice = event["choices"][0] if event.get("choices") else {}
            tokens = [int(token) for token in choice.get("token_ids") or ()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ControllerError(f"the server's stream holds {data[:60]!r}, which is no event of vLLM's") from None
        if "error" in event:
            raise ControllerError(f"the server ends the stream: {_message(data)}")
        reason = choice.get("finish_reason")
        yield tokens, None if reason is None else str(reason)


def _message(data: bytes) -> str:
    """The text of an error that the server answers with."""
    try:
        found = json.loads(data)
        error = found.get("error", found)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = data.decode(errors="replace")
    return " ".join(str(text).split())[:300]
