"""Threads may read tokens of one tokenizer at the same time: a server does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reasonctl.backends import load_model


def test_a_tokens_bytes_are_not_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread has its token's bytes from llama.cpp when another asks for a token: each gets its own.

    With a buffer that threads share, a client of a server read a part of another one's prompt.
    """
    from llama_cpp import llama_cpp as C

    tokenizer = load_model("tiny", threads=1).tokenizer
    first, second = (next(t for t, piece in tokenizer.pieces() if piece == text) for text in (b" c", b"answer"[:1]))
    fresh = load_model("tiny", threads=1).tokenizer
    real, written, read = C.llama_token_to_piece, threading.Event(), threading.Event()

    def slow(vocabulary: Any, token: int, *others: Any) -> int:
        n: int = real(vocabulary, token, *others)
        if token == first:
            written.set()
            assert read.wait(30)
        return n

    monkeypatch.setattr(C, "llama_token_to_piece", slow)
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(fresh.bytes_of, first)
        assert written.wait(30)
        assert fresh.bytes_of(second) == tokenizer.bytes_of(second)
        read.set()
        assert one.result(30) == b" c"
