"""`ctl serve` under several clients against rows in turn and against llama-cpp-python's server; and a conversation.

    python examples/benchmarks/serving.py clients hf:smollm2.gguf --dtype bfloat16
    python examples/benchmarks/serving.py clients smollm2.gguf --library
    python examples/benchmarks/serving.py chat smollm2.gguf

`clients`: 8 clients ask at the same time, 32 greedy tokens each; a round asks one server, then the other.
`chat`: 8 turns with a server that keeps what a key's prompts have in common, and with one that keeps nothing. Both are
sent the same messages. Servers are processes of one thread that wait while another one is asked. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2

from reasonctl.backends import load_model
from reasonctl.backends.server.guard import Access
from reasonctl.backends.server.limits import ServerLimits
from reasonctl.backends.server.service import Served, Service
from reasonctl.backends.server.serving import serve
from reasonctl.controller import Controller, Greedy

CLIENTS = 8
TOKENS = 32
CONTEXT = 2048
TOPICS = ("tides", "glass", "bridges", "bread", "maps", "clocks", "rivers", "steel")
PROMPT = "Here is a short and plain explanation of how {} came to be what they are today. In the beginning, people"
TURN = (
    "Tell me more about {}. Say where it was first found, who made use of it, what it costs today, how it is kept, and "
    "which mistakes people make with it most often. Leave out what you said before, use short sentences, and end with "
    "one question for me that shows what you would tell next."
)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["clients", "chat", "serve"])
    parser.add_argument("model")
    parser.add_argument("--dtype", help="of a transformers model")
    parser.add_argument("--library", action="store_true", help="against llama-cpp-python's server; else rows in turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=CLIENTS, help="of `serve`")
    parser.add_argument("--prefix-tokens", type=int, default=16384, help="of `serve`")
    options = parser.parse_args()
    if options.what == "serve":
        run_server(options)
        return
    with ExitStack() as stack:
        found = (clients if options.what == "clients" else chat)(options, stack)
    print(json.dumps(found))


def run_server(options: argparse.Namespace) -> None:
    """This project's server, until the process is ended; its first line is its address."""
    if options.dtype is None:
        model = load_model(options.model, context=CONTEXT, threads=1, batch=max(2, options.at_once), hidden=False)
    else:
        import torch

        from reasonctl.backends.hf.load import load_transformers

        model = load_transformers(options.model, threads=1, dtype=getattr(torch, options.dtype))
    limits = ServerLimits(prefix_tokens=options.prefix_tokens)
    service = Service(Served(model, Controller(), Greedy(), TOKENS, options.at_once, limits=limits))
    serve(service, Access(), 0, lambda address: print(address, service.served.name, flush=True))


@contextmanager
def ours(options: argparse.Namespace, *more: str) -> Iterator[tuple[str, str]]:
    """A server in a process of its own: its address, and its model's name."""
    dtype = () if options.dtype is None else ("--dtype", options.dtype)
    command = [sys.executable, __file__, "serve", options.model, *dtype, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address, _, name = process.stdout.readline().strip().partition(" ")
        try:
            yield f"http://{address}", name
        finally:
            process.kill()


@contextmanager
def library(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """llama-cpp-python's server in a process of its own."""
    port = 8971
    command = [sys.executable, "-m", "llama_cpp.server", "--model", options.model, "--n_ctx", str(CONTEXT)]
    command += ["--n_threads", "1", "--n_threads_batch", "1", "--port", str(port), "--interrupt_requests", "False"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    httpx2.get(f"{url}/v1/models")
                    break
                except httpx2.ConnectError:
                    time.sleep(0.2)
            yield url, options.model
        finally:
            process.kill()


def completed(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request's answer."""
    path = "chat/completions" if "messages" in body else "completions"
    answer = httpx2.post(f"{url}/v1/{path}", json={"max_tokens": TOKENS, "temperature": 0, **body}, timeout=600)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def together(server: tuple[str, str]) -> float:
    """Tokens a second of all clients."""
    url, name = server
    bodies = [{"model": name, "prompt": PROMPT.format(topic)} for topic in TOPICS[:CLIENTS]]
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda body: completed(url, body), bodies))
    return float(sum(answer["usage"]["completion_tokens"] for answer in answers) / (time.perf_counter() - start))


def clients(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    """Several clients at once: tokens a second of both servers, and the medians' ratio."""
    mine = stack.enter_context(ours(options))
    other = stack.enter_context(library(options) if options.library else ours(options, "--at-once", "1"))
    together(mine), together(other)  # not counted
    rates: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        rates.append((together(mine), together(other)))
        print(f"{rates[-1][0]:7.1f} and {rates[-1][1]:7.1f} tokens a second", flush=True)
    ratios = sorted(a / b for a, b in rates)
    return {"rates": rates, "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def chat(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    """A conversation: seconds of each turn with and without what is kept, and how much of the prompt was kept."""
    servers = [stack.enter_context(ours(options, "--prefix-tokens", n)) for n in ("16384", "0")]
    turns: list[dict[str, Any]] = []
    for n in range(options.rounds):
        said: list[dict[str, str]] = []
        for topic in TOPICS:
            said.append({"role": "user", "content": f"({n}) {TURN.format(topic)}"})
            answers, seconds = list[dict[str, Any]](), list[float]()
            for url, name in servers:
                start = time.perf_counter()
                answers.append(completed(url, {"model": name, "messages": said}))
                seconds.append(time.perf_counter() - start)
            said.append({"role": "assistant", "content": answers[0]["choices"][0]["message"]["content"]})
            usage = answers[0]["usage"]
            turns.append(
                {
                    "turn": len(said) // 2,
                    "prompt": usage["prompt_tokens"],
                    "cached": usage["prompt_tokens_details"]["cached_tokens"],
                    "seconds": seconds,
                }
            )
            print(turns[-1], flush=True)
    return {"turns": turns, **summary(turns, options.rounds)}


def summary(turns: Sequence[dict[str, Any]], rounds: int) -> dict[str, float]:
    """Medians over the conversations."""
    each = [turns[i * len(TOPICS) : (i + 1) * len(TOPICS)] for i in range(rounds)]
    kept, fresh = (statistics.median(sum(turn["seconds"][i] for turn in one) for one in each) for i in (0, 1))
    last = [statistics.median(one[-1]["seconds"][i] for one in each) for i in (0, 1)]
    share = sum(turn["cached"] for turn in turns) / sum(turn["prompt"] for turn in turns)
    return {"kept": kept, "fresh": fresh, "last_kept": last[0], "last_fresh": last[1], "cached_share": share}


if __name__ == "__main__":
    main()
