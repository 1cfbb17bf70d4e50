"""What a client reads, in the types of the `openai` package: whole answers, and chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai.types import Completion, CompletionChoice, CompletionUsage, Model
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel

from reasonctl.controller import Tokenizer, Trace

from .recording import Drawn
from .requests import ChatRequest
from .selecting import chosen
from .service import ServedChoice, Service, Update, Work, usage_of
from .tools import Answer, read_answer

_LEAST = -9999.0
"""Stands for a probability of 0, as in the API: JSON has no infinity."""


@dataclass
class Written:
    """What one run wrote so far."""

    reasoning: str = ""
    """Its thoughts."""
    content: str = ""
    """Its answer."""
    logprobs: list[Drawn] = field(default_factory=list)
    """Of the answer's tokens, where they are wanted."""

    def add(self, update: Update) -> None:
        """Take an update in."""
        self.reasoning += update.piece.reasoning
        self.content += update.piece.content
        self.logprobs += update.logprobs


def expected_saving(work: Work, trace: Trace) -> float:
    """Tokens that a run's exit saved, as the calibration runs say, less what its audit cost; 0 without either."""
    cost = 0.0 if trace.audit is None else float(trace.audit["cost"])
    if work.rule is None or trace.exit is None or trace.exit.gave_up:
        return -cost
    return (work.rule.expected_saving(trace.exit.position) or 0.0) - cost


def did(work: Work, trace: Trace) -> dict[str, Any]:
    """What the controller did in a run."""
    return {
        "why": trace.why,
        "saved": round(expected_saving(work, trace), 1) + 0,  # no negative zero
        "warnings": trace.warnings,
        "closed_by": trace.closed_by,
        "audited": trace.audit is not None and bool(trace.audit["drawn"]),
        "thinking_tokens": trace.thinking_tokens,
        "cost": trace.cost,
        "forwards": trace.forwards,
        "drafted": trace.drafted,
        "accepted": trace.accepted,
        "seed": trace.seed,
        "run": trace.run,
    }


def models_of(service: Service, created: int) -> dict[str, Any]:
    """The answer of /v1/models."""
    model = Model(id=service.served.name, created=created, object="model", owned_by="reasonctl")
    return {"object": "list", "data": [_plain(model)]}


def whole(service: Service, work: Work, written: Sequence[Written]) -> dict[str, Any]:
    """The answer to a request that isn't streamed."""
    picked: Sequence[int] = range(len(written))
    share: float | None = None
    if work.request.reasonctl.samples:
        picked, share = chosen([one.content for one in written])
    made = [_choice(service, work, n, work.choices[i], written[i]) for n, i in enumerate(picked)]
    base: dict[str, Any] = {"id": work.id, "created": work.created, "model": service.served.name}
    usage = CompletionUsage.model_validate(usage_of(work))
    answer: BaseModel
    if isinstance(work.request, ChatRequest):
        answer = ChatCompletion(object="chat.completion", choices=made, usage=usage, **base)
    else:
        answer = Completion(object="text_completion", choices=made, usage=usage, **base)
    return {**_plain(answer), "reasonctl": summary(work, picked, share)}


def summary(work: Work, picked: Sequence[int], share: float | None) -> dict[str, Any]:
    """The answer's field `reasonctl`: what was done in each choice's run."""
    found: dict[str, Any] = {"choices": [did(work, work.choices[i].trace) for i in picked]}
    if share is not None:
        found |= {"samples": len(work.choices), "share": share}
    return found


def _choice(service: Service, work: Work, index: int, choice: ServedChoice, written: Written) -> Any:
    """One choice of a whole answer."""
    tokenizer, request = service.served.model.tokenizer, work.request
    if not isinstance(request, ChatRequest):
        logprobs = None if choice.recorded is None else _text_logprobs(tokenizer, written.logprobs)
        return CompletionChoice(
            index=index, text=written.content, finish_reason=choice.finish_reason, logprobs=logprobs
        )
    answer = _answer(request, written)
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, **_calls(answer)}
    if written.reasoning:
        message["reasoning_content"] = written.reasoning
    finish = "tool_calls" if answer.calls else choice.finish_reason
    noted = None if choice.recorded is None else {"content": _chat_logprobs(tokenizer, written.logprobs)}
    return Choice.model_validate({"index": index, "message": message, "finish_reason": finish, "logprobs": noted})


def _answer(request: ChatRequest, written: Written) -> Answer:
    if not request.tools or request.tool_choice == "none":
        return Answer(written.content)
    return read_answer(written.content, request.tools, parallel=request.parallel_tool_calls)


def _calls(answer: Answer, *, numbered: bool = False) -> dict[str, Any]:
    """`tool_calls`, where there are some."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        | ({"index": i} if numbered else {})
        for i, call in enumerate(answer.calls)
    ]
    return {"tool_calls": calls} if calls else {}


class Streamed:
    """Makes the chunks of one stream."""

    def __init__(self, service: Service, work: Work) -> None:
        self._service = service
        self._work = work
        self._chat = isinstance(work.request, ChatRequest)
        self._written = [Written() for _ in work.choices]
        # A call is whole or no call, and one of several samples is known at the end.
        self._whole = bool(work.request.reasonctl.samples) or (
            isinstance(work.request, ChatRequest) and bool(work.request.tools) and work.request.tool_choice != "none"
        )
        options = work.request.stream_options
        self._usage = options is not None and options.include_usage

    def begin(self) -> Iterator[bytes]:
        """The first chunks: who speaks."""
        if self._chat and not self._work.request.reasonctl.samples:
            for i in range(len(self._work.choices)):
                yield self._event([_delta(i, {"role": "assistant", "content": ""})])

    def update(self, update: Update) -> Iterator[bytes]:
        """The chunks of an update."""
        written = self._written[update.choice]
        written.add(update)
        if self._whole:
            if update.ended and not self._work.request.reasonctl.samples:
                yield from self._ending(update.choice, update.choice)
            return
        yield from self._texts(update.choice, update)
        if update.ended:
            yield self._last(update.choice, update.choice, self._work.choices[update.choice].finish_reason)

    def end(self) -> Iterator[bytes]:
        """The last chunks: the chosen sample, the usage, and that it is over."""
        if self._work.request.reasonctl.samples:
            picked, share = chosen([one.content for one in self._written])
            if self._chat:
                yield self._event([_delta(0, {"role": "assistant", "content": ""})])
            yield from self._ending(0, picked[0], share)
        if self._usage:
            yield self._event([], usage=usage_of(self._work))
        yield b"data: [DONE]\n\n"

    def _texts(self, index: int, update: Update) -> Iterator[bytes]:
        """New text of a choice. Thoughts come in chunks of their own."""
        piece = update.piece
        if piece.reasoning:
            yield self._event([_delta(index, {"reasoning_content": piece.reasoning})])
        if piece.content or update.logprobs:
            yield self._event([self._content(index, piece.content, update.logprobs)])

    def _ending(self, index: int, i: int, share: float | None = None) -> Iterator[bytes]:
        """A choice that is given out as a whole."""
        written, choice, request = self._written[i], self._work.choices[i], self._work.request
        if written.reasoning:
            yield self._event([_delta(index, {"reasoning_content": written.reasoning})])
        answer = _answer(request, written) if isinstance(request, ChatRequest) else Answer(written.content)
        if answer.content:
            yield self._event([self._content(index, answer.content, written.logprobs)])
        if answer.calls:
            yield self._event([_delta(index, _calls(answer, numbered=True))])
        yield self._last(index, i, "tool_calls" if answer.calls else choice.finish_reason, share)

    def _content(self, index: int, text: str, drawn: Sequence[Drawn]) -> dict[str, Any]:
        tokenizer = self._service.served.model.tokenizer
        wanted = self._work.request.most_alternatives is not None
        if self._chat:
            logprobs = {"content": _chat_logprobs(tokenizer, drawn)} if wanted else None
            return {**_delta(index, {"content": text}), "logprobs": logprobs}
        logprobs = _text_logprobs(tokenizer, drawn).model_dump() if wanted else None
        return {"index": index, "text": text, "finish_reason": None, "logprobs": logprobs}

    def _last(self, index: int, i: int, reason: str, share: float | None = None) -> bytes:
        """The last chunk of a choice, with what was done in its run."""
        ending = _delta(index, {}) if self._chat else {"index": index, "text": "", "logprobs": None}
        return self._event([{**ending, "finish_reason": reason}], reasonctl=summary(self._work, [i], share))

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """One chunk."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        base = {"id": self._work.id, "object": kind, "created": self._work.created, "model": self._service.served.name}
        return _event({**base, "choices": choices, **more})


def stream_error(body: dict[str, Any]) -> bytes:
    """An error inside a stream that has begun, and its end."""
    return _event(body) + b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}


def _plain(value: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = value.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return found


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)


def _chat_logprobs(tokenizer: Tokenizer, drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = tokenizer.bytes_of(token)
        return {"token": piece.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(piece)}

    return [{**entry(one.token, one.logprob), "top_logprobs": [entry(*other) for other in one.most]} for one in drawn]


def _text_logprobs(tokenizer: Tokenizer, drawn: Sequence[Drawn]) -> Logprobs:
    texts = [tokenizer.text(one.token) for one in drawn]
    offsets = [sum(map(len, texts[:i])) for i in range(len(texts))]
    most = [{tokenizer.text(token): _finite(value) for token, value in one.most} for one in drawn]
    values = [_finite(one.logprob) for one in drawn]
    return Logprobs(tokens=texts, text_offset=offsets, top_logprobs=most, token_logprobs=values)
