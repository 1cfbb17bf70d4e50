"""The routes, as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from .answers import Streamed, Written, expected_saving, models_of, stream_error, whole
from .guard import Access, App, Guard, Receive, Scope, Send
from .metrics import Metrics
from .refusals import Refusal
from .requests import ChatRequest, CompletionRequest, read_request, read_verdict
from .service import Service, Work

LOG = logging.getLogger("reasonctl.server")
REQUEST_ID = "x-request-id"
"""The header that announces a request's id."""
CLIENT_ID = "x-client-request-id"
"""The header in which a client may name its request, as OpenAI's API has it: known before the answer's head comes."""
_CLIENT_ID = re.compile(r"[A-Za-z0-9._~-]{16,128}")
_KNOWN = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
T = TypeVar("T")


class Routes:
    """What each route does."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.metrics = Metrics()
        self.limits = service.served.limits
        self._created = int(time.time())
        self._preparing = 0
        """Requests that are read and not handed over yet."""

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._complete(request, ChatRequest)

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._complete(request, CompletionRequest)

    async def models(self) -> Response:
        """GET /v1/models."""
        return JSONResponse(models_of(self.service, self._created))

    async def answer(self, request: Request, request_id: str) -> Response:
        """POST /v1/requests/{id}/answer: close the thinking of a running request."""
        check_json(request, empty=True)
        await self._body(request)
        closed = self.service.answer_now(request_id, request.state.owner)
        return JSONResponse({"id": request_id, "closed": closed})

    async def verdict(self, request: Request, request_id: str) -> Response:
        """POST /v1/requests/{id}/verdict: whether the answer of a finished request was right."""
        check_json(request)
        said = read_verdict(await self._body(request))
        self.service.verdicts.take(request_id, request.state.owner, right=said.right, choice=said.choice)
        return JSONResponse({"id": request_id, "right": said.right})

    async def health(self) -> Response:
        """GET /health."""
        failure = self.service.driver.failure
        status = "ok" if failure is None else "failed"
        return JSONResponse({"status": status}, 200 if failure is None else 503)

    async def page(self) -> Response:
        """GET /metrics."""
        driver = self.service.driver
        text = self.metrics.page(driver.running, driver.waiting)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def _complete(self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
        check_json(request)
        body = await self._body(request)
        if self._preparing + len(self.service.open) >= self.limits.requests:
            raise Refusal(429, f"{self.limits.requests} requests are open already; ask again later", code="queue_full")
        self._preparing += 1
        try:
            asked = read_request(kind, body, self.limits)
            work = await asyncio.to_thread(self.service.prepare, asked, request.state.owner, client_id(request))
            self.service.enter(work)
        finally:
            self._preparing -= 1
        headers = {REQUEST_ID: work.id}
        if asked.stream:
            return EventStream(self._events(work), headers, self.limits.stall_seconds, lambda: self._left(work))
        done = await unless_gone(request.receive, self._written(work))
        if done is None:
            self._left(work)
            return Response(status_code=499)
        return JSONResponse(whole(self.service, work, done), headers=headers)

    async def _written(self, work: Work) -> list[Written]:
        """What all runs of a request write."""
        written = [Written() for _ in work.choices]
        try:
            async for update in self.service.updates(work):
                written[update.choice].add(update)
        except Refusal as refusal:
            self._log(work)
            raise refusal
        finally:
            self.service.leave(work)
        self._finished(work)
        return written

    async def _events(self, work: Work) -> AsyncGenerator[bytes, None]:
        """The events of a stream."""
        streamed = Streamed(self.service, work)
        try:
            for event in streamed.begin():
                yield event
            async with aclosing(self.service.updates(work)) as updates:
                async for update in updates:
                    for event in streamed.update(update):
                        yield event
            for event in streamed.end():
                yield event
        except Refusal as refusal:
            self._log(work)
            yield stream_error(refusal.body())
            return
        finally:
            self.service.leave(work)
        self._finished(work)

    def _log(self, work: Work) -> None:
        """Say what runs failed with; a client reads what is its own mistake only."""
        for choice in work.choices:
            if choice.error is not None:
                LOG.warning("request %s failed", work.id, exc_info=choice.error)

    def _finished(self, work: Work) -> None:
        traces = [choice.trace for choice in work.choices]
        self.service.verdicts.add(work.id, work.key, work.rule, traces)
        saved, cached = sum(expected_saving(work, trace) for trace in traces), work.choices[0].text.cached
        self.metrics.finished(work.prompt_tokens, cached, traces, saved)

    def _left(self, work: Work) -> None:
        """A client has gone before the end."""
        self.service.leave(work)
        self.metrics.cancelled += 1

    async def _body(self, request: Request) -> bytes:
        """The body of a request. Raises Refusal for one that is too large or too slow."""
        most, body = self.limits.body_bytes, bytearray()
        length = request.headers.get("content-length", "0")
        too_large = Refusal(413, f"the body is larger than {most:,} bytes; send less", code="body_too_large")
        if not length.isdecimal() or len(length) > 12 or int(length) > most:
            raise too_large
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            seconds = self.limits.body_seconds
            raise Refusal(408, f"the body took longer than {seconds:g} s; send it at once", code="timeout") from None
        return bytes(body)


def client_id(request: Request) -> str | None:
    """The name that a client gives its request. Raises Refusal for one that no route can hold, or that is guessed."""
    given: str | None = request.headers.get(CLIENT_ID)
    if given is not None and not _CLIENT_ID.fullmatch(given):
        message = f"{CLIENT_ID} is {given!r:.60}; give 16 to 128 letters, digits, or any of . _ ~ -, such as a UUID"
        raise Refusal(400, message, param=CLIENT_ID)
    return given


def check_json(request: Request, *, empty: bool = False) -> None:
    """Raises Refusal for a content type that a web page can send without being asked for permission."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if empty and not kind and request.headers.get("content-length", "0") == "0":
        return
    if kind != "application/json":
        raise Refusal(415, f"the content type is {kind!r:.60}; send application/json", code="unsupported_media_type")


class EventStream(Response):
    """Server-sent events. A client that has gone, or takes nothing for long, ends them."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: dict[str, str], stall: float, left: Callable[[], None]
    ) -> None:
        """Make a response.

        Args:
            events: The events; closed whatever happens.
            headers: Further headers.
            stall: Most seconds in which the client takes nothing.
            left: Called where the client left before the end.
        """
        super().__init__(None, headers={**headers, "cache-control": "no-store"})
        del self.headers["content-length"]
        self._events, self._stall, self._left = events, stall, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""

        async def pump() -> bool:
            async def bounded(message: dict[str, Any]) -> None:
                async with asyncio.timeout(self._stall):
                    await send(message)

            await bounded({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._events) as events:
                async for event in events:
                    await bounded({"type": "http.response.body", "body": event, "more_body": True})
                    await asyncio.sleep(0)  # a backlog holds up nobody else, and a client that has gone is noticed
            await bounded({"type": "http.response.body", "body": b"", "more_body": False})
            return True

        try:
            done = await unless_gone(receive, pump())
        except (TimeoutError, OSError):
            done = None
        if done is None:
            self._left()


async def unless_gone(receive: Receive, doing: Awaitable[T]) -> T | None:
    """What is awaited; None, and it is cancelled, where the client goes away first."""
    task, gone = asyncio.ensure_future(doing), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
        with suppress(asyncio.CancelledError):
            await gone


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refused(refusal: Refusal) -> JSONResponse:
    """The answer to what isn't served."""
    return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)


def make_app(service: Service, access: Access) -> App:
    """The application; the service starts and ends with it."""
    routes = Routes(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", routes.completion, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", routes.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/requests/{request_id}/answer", routes.answer, methods=["POST"], response_model=None)
    app.add_api_route("/v1/requests/{request_id}/verdict", routes.verdict, methods=["POST"], response_model=None)
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.page, methods=["GET"], response_model=None)

    @app.exception_handler(Refusal)
    async def of_refusal(_: Request, refusal: Refusal) -> Response:
        return refused(refusal)

    @app.exception_handler(HTTPException)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def of_route(request: Request, error: Any) -> Response:
        status = getattr(error, "status_code", 404)
        return refused(Refusal(status, f"{request.method} {request.url.path!r:.80} is no route of this server"))

    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", CLIENT_ID],
            expose_headers=[REQUEST_ID],
        )
    return counted(Guard(app, access, lambda refusal, _: refused(refusal)), routes.metrics)


def counted(app: App, metrics: Metrics) -> App:
    """An application whose answers are counted by route and status."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = str(scope["path"])
                route = path if path in _KNOWN else "answer" if path.startswith("/v1/requests/") else "other"
                metrics.answered(route, int(message["status"]))
            await send(message)

        await app(scope, receive, noting if scope["type"] == "http" else send)

    return counting
