"""How the calls of each library are made twice, and the tables of tests/every_call.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reasonctl.backends import attach
from reasonctl.backends.handle import Handle
from reasonctl.controller import Controller
from support import hf_calls, llama_calls, odd_hf_calls, odd_llama_calls, server_calls
from support.calls import Case, Failed, Outcome, compared, made
from support.llama_models import open_llama

Run = Callable[[Sequence[Case]], Iterator[tuple[Case, Outcome]]]


def _attached(model: Any, case: Case, **more: Any) -> tuple[Any, int]:
    """What an attached call gives, and how many runs it made."""
    handles: list[Handle] = []
    failed = made(lambda one: handles.append(attach(one, Controller(), **more)), model)
    if isinstance(failed, Failed):
        return failed, 0
    answer = made(case.call, model)
    handles[0].detach()
    return answer, handles[0].runs


def run_llama(cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Each on two Llamas of its own."""
    for case in cases:
        stock, ours = (open_llama(**case.opening) for _ in range(2))
        try:
            found = made(case.call, stock)
            answer, runs = _attached(ours, case)
            yield case, compared(found, answer, case, runs)
        finally:
            stock.close()
            ours.close()


def run_hf(cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """In stock, then attached; a call that changes its model has one of its own each time."""
    for case in cases:
        found = made(case.call, hf_calls.opened(**case.opening))
        answer, runs = _attached(hf_calls.opened(**case.opening), case, tokenizer=hf_calls.TOKENIZER)
        yield case, compared(found, answer, case, runs)


def run_server(cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """All requests to the library's server in stock, then all to one whose model is attached."""
    with server_calls.served() as stock:
        found = [made(case.call, stock.client) for case in cases]
    with server_calls.served() as ours, attach(ours.llama, Controller()) as handle:
        for case, expected in zip(cases, found, strict=True):
            before = handle.runs
            yield case, compared(expected, made(case.call, ours.client), case, handle.runs - before)


TABLES: dict[str, tuple[Sequence[Case], Run]] = {
    "llama-cpp-python": ([*llama_calls.CASES, *odd_llama_calls.CASES], run_llama),
    "llama-cpp-python's server": (server_calls.CASES, run_server),
    "transformers": ([*hf_calls.CASES, *odd_hf_calls.CASES], run_hf),
}
