"""Runs the application until the process is asked to end."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn

from reasonctl.controller import ControllerError

from .app import make_app
from .guard import Access
from .service import Service

LARGEST_HEAD = 1 << 15
"""Bytes of a request's head."""
KEEP_ALIVE = 15
"""Seconds in which an idle connection sends its next request."""


def make_server(service: Service, access: Access, port: int) -> uvicorn.Server:
    """A server that hasn't started.

    SIGTERM and SIGINT make it accept nothing more, and let running requests end.

    Args:
        service: What is served.
        access: Who may ask, and on which address.
        port: 0: a free one.
    """
    limits = service.served.limits
    config = uvicorn.Config(
        make_app(service, access),
        host=access.host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=2 * limits.requests,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.drain_seconds),
        h11_max_incomplete_event_size=LARGEST_HEAD,
        http="h11",
        ws="none",
        loop="asyncio",
    )
    return uvicorn.Server(config)


def serve(service: Service, access: Access, port: int, announce: Callable[[str], None]) -> None:
    """Serve until the process is asked to end.

    Args:
        service: What is served.
        access: Who may ask, and on which address.
        port: 0: a free one.
        announce: Is given the address, with the port, once clients can connect.

    Raises:
        ControllerError: The address can't be had.
    """
    server = make_server(service, access, port)
    try:
        listening = server.config.bind_socket()
    except SystemExit as end:  # uvicorn has logged why
        raise ControllerError(f"can't listen on {access.host}:{port}; choose another --port") from end
    host = f"[{access.host}]" if ":" in access.host else access.host
    with listening:
        listening.listen(server.config.backlog)
        announce(f"{host}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])
