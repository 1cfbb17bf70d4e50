"""How much one request, one key and all of them may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """The limits of a server. What is beyond one of them is refused by name."""

    body_bytes: int = 1 << 20
    """Largest body of a request."""
    body_seconds: float = 20.0
    """Most seconds in which a body must have come."""
    request_seconds: float = 600.0
    """Most seconds of a request, waiting included; then it ends with what there is."""
    stall_seconds: float = 30.0
    """Most seconds in which a client takes no byte of its stream; then the request is cancelled."""
    queue: int = 64
    """Most runs that wait for a place; a request that would need more is answered with 429."""
    requests: int = 256
    """Most requests that are open at once, those whose readers are slow included."""
    prefix_tokens: int = 4096
    """Most tokens of the sequences that are kept, one for each key's next request; 0: none is."""
    most_tokens: int = 1 << 17
    """Most new tokens that a request may ask for, for each of its choices."""
    choices: int = 16
    """Most choices or samples of a request."""
    messages: int = 1024
    """Most messages of a conversation."""
    tools: int = 64
    """Most tools of a request."""
    stops: int = 16
    """Most stop strings of a request."""
    stop_characters: int = 256
    """Most characters of a stop string."""
    grammar_bytes: int = 1 << 15
    """Largest JSON schema or grammar of a request."""
    verdicts: int = 4096
    """Answered requests whose clients may still say whether the answer was right."""
    drain_seconds: float = 30.0
    """Seconds that running requests have when the server is asked to end."""
