"""What a client is answered in place of a completion: a status, a message, and the field that is at fault."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A request that isn't served. The message is one line for its sender."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        """Say why.

        Args:
            status: The HTTP status, 4xx or 5xx.
            message: The value, the limit and the remedy.
            param: The field at fault.
            code: OpenAI's word for the kind of error.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        if self.status == 429:
            return {"Retry-After": "1"}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> dict[str, Any]:
        """The answer, as OpenAI's API words it."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None) -> Refusal:
    """A refusal of what a field holds."""
    return Refusal(400, message, param=param, code="invalid_value")
