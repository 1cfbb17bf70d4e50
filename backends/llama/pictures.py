"""Chat calls with pictures or sound: the library's handler feeds them, and the controlled run goes on from its cache.

A picture has no token ids. In the Llama's record, and so in the prompt that the handler passes on, a token without a
meaning stands in its places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_cpp import Llama


def has_pictures(llm: Llama, args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether a chat call's messages hold more than text, and the Llama has a handler that reads it."""
    messages = named.get("messages", args[0] if args else ())
    if llm.chat_handler is None or isinstance(messages, str):
        return False
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return any(part.get("type") != "text" for part in parts)


def clear_record(llm: Llama) -> None:
    """Let the record hold the token that begins a text, which no model writes, wherever a handler leaves a gap."""
    llm.input_ids[:] = max(llm.token_bos(), 0)
