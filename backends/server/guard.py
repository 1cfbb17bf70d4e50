"""Who may ask: the Host header, the key, and the origin are checked before anything else of a request is read."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.core import read_bytes

from .refusals import Refusal

KEY_VARIABLE = "REASONCTL_API_KEY"
"""The variable of the environment that holds a key."""
LEAST_KEY = 16
"""Fewest characters of a key."""
MOST_KEY_FILE = 1 << 16
"""Largest file of keys, in bytes."""
LOCAL = "local"
"""Who asks where there is no key."""
OPEN_PATHS = frozenset({"/health"})
"""What anybody may ask, of an allowed host."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Access:
    """Who may reach a server."""

    host: str = "127.0.0.1"
    """The address that it listens on."""
    keys: tuple[str, ...] = ()
    """Keys; empty: none is needed, which only a loopback address allows."""
    hosts: tuple[str, ...] = ()
    """Further names under which clients may reach it."""
    origins: tuple[str, ...] = ()
    """Origins of web pages that may ask; none unless somebody wants it."""

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise ControllerError(
                f"--host is {self.host!r}, which other machines reach, and there is no key; set {KEY_VARIABLE} or give "
                "--key-file FILE, or listen on 127.0.0.1"
            )
        if "*" in self.origins:
            raise ControllerError("--allow-origin is '*', which is every web page; name the origins")

    @property
    def names(self) -> frozenset[str]:
        """Host names that a request may be sent to, in lower case."""
        own = () if self.host in ("0.0.0.0", "::") else (self.host,)
        return frozenset(name.lower().strip("[]") for name in ("localhost", "127.0.0.1", "::1", *own, *self.hosts))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(file: str | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The keys of the environment and of a file, which holds one a line.

    Raises:
        ControllerError: The file can't be read, or a key is too short or no printable ASCII.
    """
    texts = [environment[KEY_VARIABLE]] if environment.get(KEY_VARIABLE) else []
    if file is not None:
        texts += read_bytes(file, "a file of keys", MOST_KEY_FILE).decode("utf-8", "replace").splitlines()
    keys = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if file is not None and not keys:
        raise ControllerError(f"{file!r:.80} holds no key; write one a line")
    for i, key in enumerate(keys):
        if len(key) < LEAST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
            raise ControllerError(
                f"key {i + 1} has {len(key)} characters; it needs {LEAST_KEY} or more of printable ASCII without spaces"
            )
    return keys


class Guard:
    """An ASGI application around another one: it lets through what `Access` allows, and says whose request it is."""

    def __init__(self, app: App, access: Access, refuse: Callable[[Refusal, str], App]) -> None:
        """Guard an application.

        Args:
            app: The application.
            access: Who may ask.
            refuse: Makes the application that answers a refusal.
        """
        self._app = app
        self._names = access.names
        self._refuse = refuse
        self._digests = tuple(_digest(key.encode()) for key in access.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            owner = self._owner(scope)
        except Refusal as refusal:
            await self._refuse(refusal, str(scope["path"]))(scope, receive, send)
            return
        scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)

    def _owner(self, scope: Scope) -> str:
        """Whose request it is. Raises Refusal where nobody's."""
        headers = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or host_name(hosts[0].decode("latin-1")) not in self._names:
            shown = hosts[0].decode("latin-1") if hosts else ""
            raise Refusal(421, f"this server isn't {shown!r:.80}; reach it as localhost, or start it with --allow-host")
        if scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            return LOCAL
        return self.owner_of([value for name, value in headers if name == b"authorization"])

    def owner_of(self, credentials: Sequence[bytes]) -> str:
        """Whose key it is, in a time that doesn't depend on the keys: a name that stays when keys come and go.

        Args:
            credentials: The values of the Authorization header.

        Raises:
            Refusal: It is nobody's.
        """
        if not self._digests:
            return LOCAL
        kind, _, given = (credentials[0] if len(credentials) == 1 else b"").partition(b" ")
        found, digest = -1, _digest(given.strip())
        for i, known in enumerate(self._digests):
            if hmac.compare_digest(known, digest):
                found = i
        if found < 0 or kind.lower() != b"bearer":
            raise Refusal(401, "the key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key")
        return digest.hex()


def host_name(header: str) -> str:
    """The name in a Host header, without its port; "" for what is none.

    >>> host_name("LOCALHOST:8000"), host_name("[::1]:80"), host_name("evil.example@localhost")
    ('localhost', '::1', 'evil.example@localhost')
    """
    name, port = header.strip().lower(), ""
    if name.startswith("["):
        name, _, port = name[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in name:
        name, _, port = name.rpartition(":")
    return name if not port or port.isdecimal() else ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
