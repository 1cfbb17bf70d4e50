"""Declares the commands that run a model for a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .flags import (
    ANY_PROBE,
    CODES,
    MACHINE,
    MODEL,
    ORDER,
    PROMISE,
    SAMPLING,
    TRACE,
    TRACE_TEXT,
    NumberRange,
    common,
)
from .group import cli
from .refusal import given, refuse
from .terminal import utf8, utf8_each

if TYPE_CHECKING:
    from .options import Options


@cli.command("run")
@click.argument("model", type=MODEL)
@click.argument("prompt", required=False, callback=utf8)
@ANY_PROBE
@ORDER
@click.option("--budget", help="Most thinking tokens, 0 or more; or a share of the run's tokens, such as 0.5.")
@click.option(
    "--budget-per",
    type=click.Choice(("run", "span")),
    default="run",
    show_default=True,
    help="What has the budget: all thinking spans of the run, or each.",
)
@click.option("--thinking-seconds", type=float, help="Most seconds of thinking, 0 or more.")
@click.option("--effort", callback=utf8, help="How much to think: a name of --efforts, of the probe file, or 'none'.")
@click.option(
    "--efforts", callback=utf8, help="What names stand for: 'low=256, medium=0.5, quick=30s, safe=risk(0.02)'."
)
@click.option("--wrap-up", default="", callback=utf8, help="Text that the model reads when the budget is used up.")
@click.option("--warn-before", type=int, help="Warn the model so many thinking tokens before the budget's end [off].")
@click.option("--warning", callback=utf8, help="Text of the warning.")
@click.option("--min-thinking", type=int, default=0, help="No end of thinking before so many tokens, 0 or more.")
@click.option("--continue-times", type=int, default=0, help="Re-open thinking that closes too early, 0 or more times.")
@click.option("--stop-loops", type=int, help="Close thinking that repeats a span so many times in a row, 2 or more.")
@click.option("--always-answer", is_flag=True, help="Let the model answer where it would end inside its thinking.")
@click.option("--shadow", is_flag=True, help="Decide and record at every cue, and never act.")
@TRACE
@TRACE_TEXT
@click.option("-v", "--verbose", is_flag=True, help="Also the policy, stage by stage in the order of its chain.")
@common("json", *SAMPLING, *PROMISE, *MACHINE)
def run_command(model: str, prompt: str | None, options: Options, **what: Any) -> None:
    """One streamed answer, with what the controller did.

    Ctrl-\\ closes thinking at the next token, and the model answers (not on Windows).
    """
    from .run import run_any

    run_any(model, prompt, options, **what)


@cli.command("models")
@click.option(
    "--probes",
    default=".",
    show_default=True,
    type=click.Path(),
    help="Folder whose probe files are tried too.",
)
@common("json")
def models_command(options: Options, probes: str) -> None:
    """The models on this machine, bundled, in reasonctl's cache and in the hub's, and which probes fit each."""
    from .models import models

    models(options, probes=probes)


@cli.command("plugins")
@common("json")
def plugins_command(options: Options) -> None:
    """What other packages add: stages, drafters, signals, graders and tasks."""
    from .plugins import plugins

    plugins(options)


@cli.command("view")
@click.argument("runs", type=click.Path())
@click.option("--out", type=click.Path(), help="The page to write [RUNS with .html].")
@common("json", "force")
def view_command(runs: str, options: Options, out: str | None) -> None:
    """Runs as a page: RUNS is what --trace or handle.save wrote. The page needs no network."""
    from .view import view

    view(runs, options, out=out)


@cli.command("sample")
@click.argument("model", type=MODEL)
@click.argument("prompt", required=False, callback=utf8)
@ANY_PROBE
@CODES
@click.option(
    "--choose",
    type=click.Choice(("vote", "mbr", "best")),
    default="vote",
    show_default=True,
    help="By a vote of equal answers, by agreement of the texts, or the most probable one.",
)
@click.option("--utility", help="With --choose mbr: sim-lcs, exact, bleu, chrf, embedding, module:function [sim-lcs].")
@click.option(
    "--stop",
    help="When a vote is over: none, lossless, beta, the share of the leader, e.g. 0.8, or what ctl calibrate-votes "
    "wrote (.json) [lossless].",
)
@click.option("--budget", help="Most thinking tokens of each sample, 0 or more; or a share of its tokens, such as 0.5.")
@click.option("--thinking-seconds", type=float, help="Most seconds of thinking of each sample, 0 or more.")
@common("json", *SAMPLING, "n", *PROMISE, *MACHINE, "batch", "grader")
def sample_command(model: str, prompt: str | None, options: Options, **what: Any) -> None:
    """Many samples of one prompt [-n 16], in shared forwards, and the one that is chosen."""
    from .sample import sample

    sample(model, prompt, options, **what)


OF_OWN_SERVER = (
    *("preset", "efforts", "budget", "allow_host", "allow_origin", "queue", "request_seconds", "prefix_tokens"),
    *("audit", "audits", "learn", "client_share"),
    *("temperature", "policy", "draft", "max_new_tokens", "signal", "backend", "threads", "batch"),
)
"""Options of `ctl serve` that mean nothing where vLLM serves."""


@cli.command("serve")
@click.argument("model", type=MODEL)
@click.argument("others", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF vLLM]")
@click.option(
    "--engine",
    type=click.Choice(("own", "vllm")),
    default="own",
    show_default=True,
    help="What serves: reasonctl's own server, or vLLM's with the probe in it (docs/scale.md).",
)
@ANY_PROBE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another one needs a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0: a free one.")
@click.option("--key-file", type=click.Path(), help="File of keys, one a line [the variable REASONCTL_API_KEY].")
@click.option("--allow-host", multiple=True, help="A further name under which clients reach the server.")
@click.option("--allow-origin", multiple=True, help="A web page's origin that may ask, such as https://my.app.")
@click.option("--preset", multiple=True, callback=utf8_each, help="NAME=POLICY that requests may name.")
@click.option("--efforts", callback=utf8, help="What reasoning_effort's names stand for: 'low=256, high=risk(0.02)'.")
@click.option("--budget", help="Most thinking tokens where a request says nothing; or a share, such as 0.5.")
@click.option(
    "--audit",
    type=NumberRange(0, 1, min_open=True),
    help="Share of runs that aren't exited, to compare both answers; an alarm ends all exits [off].",
)
@click.option(
    "--learn",
    type=click.Path(),
    metavar="STORE",
    help="Learn an exit rule from the traffic, without a probe; it exits once a promise stands. STORE is private.",
)
@click.option(
    "--client-share",
    type=NumberRange(0, 1, min_open=True),
    help="With --learn and several keys: most of a promise's runs that one may have [0.25]; 1: all are one person's.",
)
@click.option("--audits", type=click.Path(), help="With --audit: file that keeps them, for ctl status.")
@click.option("--queue", type=click.IntRange(0, 10_000), default=64, show_default=True, help="Most runs that wait.")
@click.option(
    "--prefix-tokens",
    type=click.IntRange(0, 1 << 24),
    default=4096,
    show_default=True,
    help="Most tokens that are kept, of each key's last run, for its next one; 0: none.",
)
@click.option(
    "--request-seconds",
    type=NumberRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Most seconds of a request.",
)
@common(*(name for name in SAMPLING if name != "seed"), *PROMISE, *MACHINE, "batch")
def serve_command(model: str, options: Options, engine: str, others: tuple[str, ...], **what: Any) -> None:
    """An OpenAI-compatible endpoint; clients share forwards.

    SIGTERM and Ctrl-C let running requests end, for at most 30 seconds.
    """
    if engine == "vllm":
        refuse("ctl serve --engine vllm", given(), dict.fromkeys(OF_OWN_SERVER, "it is of reasonctl's own server"))
        from .vllm import serve_vllm

        serve_vllm(model, options, others=others, **what)
    if others:
        raise click.UsageError(f"{others[0]!r} is given after the model, and only --engine vllm takes such options")
    from .serve import serve

    serve(model, options, **what)


@cli.command("chat")
@click.argument("model", type=MODEL)
@ANY_PROBE
@click.option("--system", callback=utf8, help="What the model is to be, said before the conversation.")
@click.option("--budget", help="Most thinking tokens, 0 or more; or a share of the run's tokens, such as 0.5.")
@common(*SAMPLING, *PROMISE, *MACHINE)
def chat_command(model: str, options: Options, **what: Any) -> None:
    """A conversation in the terminal, with what the controller did.

    Ctrl-C stops an answer, Ctrl-\\ closes its thinking; /help lists what else can be said.
    """
    from .chat import chat

    chat(model, options, **what)


@cli.command("status")
@click.argument("store", type=click.Path())
@click.option("--out", type=click.Path(), help="Also write a page (.html).")
@common("json", "force")
def status_command(store: str, options: Options, out: str | None) -> None:
    """What is known of a promise in use: STORE is the file of ctl serve --audits or --learn."""
    from .status import status

    status(store, options, out=out)


@cli.command("bench")
@click.argument("model", type=MODEL)
@ANY_PROBE
@ORDER
@common("json", *SAMPLING, "n", *PROMISE, *MACHINE, "batch")
def bench_command(model: str, options: Options, **what: Any) -> None:
    """Cost curve of a forward, and the speed of plain, drafted and controlled decoding."""
    from .bench import bench

    bench(model, options, **what)
