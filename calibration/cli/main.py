"""Declares every command of `ctl`. Each one's work is in the file that it imports.

A mistake is one line and exit code 2. Ctrl-C leaves a job that can be resumed, and exit code 130.

Commands import their work when they are called, so that `ctl --help` imports click and nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .flags import (
    ANY_PROBE,
    CODES,
    FORMS,
    MACHINE,
    ORDER,
    PROMISE,
    SAMPLED,
    SAMPLES,
    SAMPLING,
    SHARED,
    TRACE,
    TRACE_TEXT,
    NumberRange,
    common,
)
from .interrupt import CODE, interruptible
from .refusal import given, refuse
from .terminal import lenient_output, one_line, utf8, utf8_each

if TYPE_CHECKING:
    from .options import Options


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="reasonctl", prog_name="ctl")
def cli() -> None:
    """Reasoning-time control for language models on your own machine.

    MODEL is `tiny` or `tiny-hybrid` (bundled), a .gguf file (llama.cpp), a transformers folder or hub id, or
    hf:FILE.gguf. `ctl run`, `eval` and `bench` take masked models too: `tiny-masked`, or a folder of LLaDA's, Dream's
    or DiffuCoder's.
    TASKS is `tiny`, reasoning-gym:NAME[,k=v...], or a .jsonl file of {"question", "answer"}.
    """


@cli.command("demo")
@common("json", *SAMPLING, "n", *PROMISE, "dry_run", *MACHINE, "workers", "batch")
def demo_command(options: Options) -> None:
    """The main job, end to end, on the bundled model."""
    from .demo import demo

    demo(options)


HEADS_JOB = ("tasks", "out", "dask")
"""The options of `ctl calibrate` itself that mean something with --heads."""


@cli.command("calibrate")
@click.argument("model")
@click.option("--tasks", help="Where problems come from; with --runs: where the right answers come from.")
@click.option(
    "--runs",
    multiple=True,
    type=click.Path(),
    help="Read MODEL's runs from a log (traces, a server's, OpenAI batch files); may be given twice.",
)
@click.option("--out", required=True, type=click.Path(), help="The probe file to write (.safetensors).")
@click.option("--think-open", callback=utf8, help="Text that opens thinking [from the chat template].")
@click.option("--think-close", callback=utf8, help="Text that closes it.")
@click.option("--suffix", callback=utf8, help="Text that an exit feeds: it closes thinking.")
@click.option(
    "--form",
    type=click.Choice(FORMS),
    metavar="FORM",
    default="replace",
    show_default=True,
    help="replace: the suffix takes the cue's place; append: it follows the cue; append-open: even amid its word.",
)
@click.option("--cues", callback=utf8, help="Words, 'paragraph', 'sentence', comma-separated; or 'auto'.")
@click.option(
    "--answer",
    type=click.Choice(["natural", "box", "line"]),
    help="What ends an answer: the model, its box or its line [what --suffix asks for; else natural].",
)
@click.option(
    "--answer-tokens",
    type=click.IntRange(1),
    help="Most tokens of a trial answer [64; with --answer natural: --max-new-tokens].",
)
@click.option("--always-answer", is_flag=True, help="Let the model answer where it would end inside its thinking.")
@click.option("--later-spans", is_flag=True, help="Exit in thinking that opens again too, not in the first span only.")
@click.option(
    "--fit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="The first so many runs of -n [300] fit the probe; all later ones calibrate it.",
)
@click.option(
    "--labels",
    type=click.Choice(("records", "all")),
    default="records",
    show_default=True,
    help="Where calibration runs try exits: at cues that a threshold can choose, or at all.",
)
@click.option(
    "--until",
    type=click.Choice(("promised",)),
    help="Stop as soon as the risk can be promised and tokens are saved; -n is then the most.",
)
@click.option(
    "--efforts",
    callback=utf8,
    help="What names of --effort stand for: 'low=256, high=risk(0.02)' [low, medium, high: twice, once, half --risk].",
)
@click.option("--layers", help="Fractions of depth that the probe reads, above 0 and up to 1, e.g. 0.5,0.75,1.")
@click.option("--dask", help="Collect on a cluster: its scheduler, e.g. tcp://host:8786, or local:2 to try it here.")
@click.option("--report/--no-report", default=True, show_default=True, help="Also write the page P.html.")
@click.option("--heads", is_flag=True, help="Train AutoDeco's heads on the right runs, in place of a probe.")
@click.option("--unweighted", is_flag=True, help="With --heads: every token counts the same, see docs/sampling.md.")
@click.option("--ngrams", type=click.Path(), help="Also write the runs' n-grams, for --draft 'hierarchy(model=FILE)'.")
@common(*SHARED)
def calibrate_command(model: str, options: Options, heads: bool, unweighted: bool, **overrides: Any) -> None:
    """Collect runs, fit a probe, calibrate it. Resumable: run the same command again."""
    if heads:
        others = {name: "no probe is made" for name in (*PROMISE, *overrides) if name not in HEADS_JOB}
        refuse("ctl calibrate --heads", given(), others)
        if overrides["tasks"] is None:
            raise click.UsageError("Missing option '--tasks'.")
        from .heads import calibrate_heads

        calibrate_heads(model, options, weighted=not unweighted, **{name: overrides[name] for name in HEADS_JOB})
    else:
        refuse("ctl calibrate", given(), {"unweighted": "it is for --heads"})
        from .calibrate import calibrate

        calibrate(model, options, **overrides)


@cli.command("eval")
@click.argument("model")
@ORDER
@click.option("--tasks", help="Where problems come from [the card's].")
@click.option("--probe", help="Probe file [tiny: the bundled one].")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Also what cheap rules would do.")
@click.option("--report", type=click.Path(), help="Write a page about it (.html).")
@TRACE
@TRACE_TEXT
@common(*(name for name in SHARED if name != "time_limit"))
def eval_command(model: str, options: Options, **what: Any) -> None:
    """Controlled against uncontrolled on the same fresh problems."""
    from .evaluate import evaluate_any

    evaluate_any(model, options, **what)


@cli.command("report")
@click.argument("probe", type=click.Path())
@click.option("--eval", "evaluation", type=click.Path(), help="What ctl eval --json wrote; its promise is reported.")
@click.option("--out", type=click.Path(), help="The page to write [P.html].")
@common("json", *PROMISE, "force")
def report_command(probe: str, options: Options, evaluation: str | None, out: str | None) -> None:
    """A page about a probe file: promised, measured, and five runs. It reads the collected runs next to the file."""
    from .report import report

    report(probe, options, evaluation=evaluation, out=out)


@cli.command("run")
@click.argument("model")
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
    from .run import run

    run(model, prompt, options, **what)


@cli.command("view")
@click.argument("runs", type=click.Path())
@click.option("--out", type=click.Path(), help="The page to write [RUNS with .html].")
@common("json", "force")
def view_command(runs: str, options: Options, out: str | None) -> None:
    """Runs as a page: RUNS is what --trace or handle.save wrote. The page needs no network."""
    from .view import view

    view(runs, options, out=out)


@cli.command("sample")
@click.argument("model")
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


@cli.command("serve")
@click.argument("model")
@ANY_PROBE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another one needs a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0: a free one.")
@click.option("--key-file", type=click.Path(), help="File of keys, one a line [the variable REASONCTL_API_KEY].")
@click.option("--allow-host", multiple=True, help="A further name under which clients reach the server.")
@click.option("--allow-origin", multiple=True, help="A web page's origin that may ask, such as https://my.app.")
@click.option("--preset", multiple=True, callback=utf8_each, help="NAME=POLICY that requests may name.")
@click.option("--efforts", callback=utf8, help="What reasoning_effort's names stand for: 'low=256, high=risk(0.02)'.")
@click.option("--budget", help="Most thinking tokens where a request says nothing; or a share, such as 0.5.")
@click.option("--queue", type=click.IntRange(0, 10_000), default=64, show_default=True, help="Most runs that wait.")
@click.option(
    "--request-seconds",
    type=NumberRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Most seconds of a request.",
)
@common(*(name for name in SAMPLING if name != "seed"), *PROMISE, *MACHINE, "batch")
def serve_command(model: str, options: Options, **what: Any) -> None:
    """An OpenAI-compatible endpoint; clients share forwards [--batch 8].

    SIGTERM and Ctrl-C let running requests end, for at most 30 seconds.
    """
    from .serve import serve

    serve(model, options, **what)


@cli.command("chat")
@click.argument("model")
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


@cli.command("calibrate-votes")
@click.argument("model")
@click.option("--tasks", required=True, help="Where problems come from.")
@ANY_PROBE
@SAMPLES
@CODES
@click.option("--out", required=True, type=click.Path(), help="The file to write (.json), for ctl sample --stop.")
@common(*SAMPLED, "temperature", "policy", draft="drafting changes no sample, and so no vote")
def calibrate_votes_command(model: str, options: Options, **what: Any) -> None:
    """How early votes may stop [-n 200 problems], so that few of them change. Resumable."""
    from .calibrate_votes import calibrate_votes

    calibrate_votes(model, options, **what)


@cli.command("frontier")
@click.argument("model")
@click.option("--tasks", required=True, help="Where problems come from.")
@ANY_PROBE
@SAMPLES
@click.option("--out", required=True, type=click.Path(), help="A page (.html) or the figure (.svg, .png, .pdf).")
@common(*SAMPLED, "temperature", "policy", "draft")
def frontier_command(model: str, options: Options, **what: Any) -> None:
    """Accuracy against all tokens: one run, exits, votes, and what makes votes cheaper. Resumable."""
    from .frontier import show_frontier

    show_frontier(model, options, **what)


@cli.command("inspect")
@click.argument("probe", type=click.Path())
@click.option("--traces", type=click.Path(), help="Traces of runs in use, one JSON line each: tested for drift.")
@common("json", *PROMISE, *MACHINE)
def inspect_command(probe: str, options: Options, traces: str | None) -> None:
    """The card of a probe file and what it can promise at which risk; of a MODEL, where it thinks."""
    from .inspect import inspect

    inspect(probe, options, traces=traces)


@cli.command("replay")
@click.argument("runs", type=click.Path())
@click.option("--cues", help="Only these of the collected cues.")
@click.option(
    "--splits", type=click.IntRange(1, 1000), default=5, show_default=True, help="Random re-splits to average."
)
@common(
    "json",
    "seed",
    "mode",
    "risk",
    "confidence",
    "domain",
    signal="it compares all of them",
    give_up="it compares signals, without giving up",
)
def replay_command(runs: str, options: Options, cues: str | None, splits: int) -> None:
    """Every signal compared on collected runs, without a model. RUNS is P.safetensors.runs.jsonl."""
    from .replay import replay

    replay(runs, options, cues=cues, splits=splits)


@cli.command("bench")
@click.argument("model")
@ANY_PROBE
@ORDER
@common("json", *SAMPLING, "n", *PROMISE, *MACHINE, "batch")
def bench_command(model: str, options: Options, **what: Any) -> None:
    """Cost curve of a forward, and the speed of plain, drafted and controlled decoding."""
    from .bench import bench

    bench(model, options, **what)


@cli.group("advise")
def advise_group() -> None:
    """What pays on this machine and this model, from measurements."""


@advise_group.command("draft")
@click.argument("model")
@click.option("--drafts", "first", required=True, metavar="DRAFT...", help="Smaller models of the same family.")
@click.argument("more", nargs=-1, metavar="")
@common(
    "json",
    "seed",
    "temperature",
    "policy",
    "max_new_tokens",
    "n",
    *MACHINE,
    batch="its speed-ups are those of one run at a time; in batches measure with ctl bench --batch and --draft",
)
def advise_draft_command(model: str, first: str, more: tuple[str, ...], options: Options) -> None:
    """Which draft model pays, if any: ctl advise draft MODEL --drafts A B C."""
    from .advise_draft import advise_draft

    advise_draft(model, (first, *more), options)


@advise_group.command("policy")
@click.argument("model")
@click.option("--tasks", help="Learn from the model's own right answers to these problems.")
@click.option("--texts", multiple=True, type=click.Path(), help="Learn from your own texts: text files, .jsonl, runs.")
@click.option("--at", default="1,5,15", show_default=True, help="Risks above 0 at which truncations are compared.")
@click.option("--out", type=click.Path(), help="A page (.html) or the figure (.svg, .png, .pdf).")
@common(
    "json",
    "seed",
    "temperature",
    "max_new_tokens",
    "n",
    "force",
    "dry_run",
    *MACHINE,
    "batch",
    "grader",
    policy="a policy is what is looked for",
)
def advise_policy_command(model: str, options: Options, **what: Any) -> None:
    """Truncations at equal risk, and the one that keeps the most: ctl advise policy MODEL --texts FILE."""
    from .advise_policy import advise_policy

    advise_policy(model, options, **what)


@advise_group.command("samples")
@click.argument("model")
@click.option("--tasks", required=True, help="Where problems come from.")
@ANY_PROBE
@click.option("--at", default="4,16", show_default=True, help="Numbers of samples; each divides the largest.")
@click.option("--policies", multiple=True, metavar="POLICY", help="Compare this policy; give it once for each.")
@click.option("--out", required=True, type=click.Path(), help="A page (.html) or the figure (.svg, .png, .pdf).")
@common(*SAMPLED, policy="give --policies", temperature="give --policies", draft="drafting changes no sample")
def advise_samples_command(model: str, options: Options, **what: Any) -> None:
    """Temperatures and annealed schedules (EAD) for votes of 4 and 16 samples [-n 100 problems]. Resumable."""
    from .advise_samples import advise_samples

    advise_samples(model, options, **what)


@cli.command("ngrams")
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The database to write.")
@common("json", "force", *MACHINE)
def ngrams_command(model: str, texts: tuple[str, ...], out: str, options: Options) -> None:
    """An n-gram database for --draft 'hierarchy(corpus=FILE)'.

    TEXTS are text files, .jsonl files of {"text"}, or collected runs (P.safetensors.runs.jsonl).
    """
    from .ngrams import ngrams

    ngrams(model, texts, out, options)


PAGE = click.option(
    "--out", required=True, type=click.Path(), help="The page to write (.html); answers lie next to it."
)
"""The option of the diagnostics."""


@cli.command("stability")
@click.argument("model")
@click.option("--tasks", required=True, help="Where problems come from.")
@click.option(
    "--perturb",
    required=True,
    type=click.Choice(("text", "whitespace", "options", "seed", "temperature", "exit")),
    help="What is changed that shouldn't change an answer.",
)
@click.option("--lengths", help="How much: sentences, spaces, or places that options move on [1,4,16; options: 1].")
@click.option(
    "--strengths", default="0,1", show_default=True, help="Share of sentences with numbers, or of gaps, from 0 to 1."
)
@click.option("--temperatures", default="0,0.6", show_default=True, help="Sampling temperatures; 0 is greedy.")
@click.option(
    "--votes", type=int, default=1, show_default=True, help="Runs of each; above 1 votes of them are compared too."
)
@click.option("--probe", help="With --perturb exit: the probe file [tiny: the bundled one].")
@PAGE
@common(
    "json",
    "seed",
    "draft",
    "max_new_tokens",
    "n",
    *PROMISE,
    "force",
    "dry_run",
    *MACHINE,
    "workers",
    "batch",
    "grader",
    temperature="it compares --temperatures",
    policy="it compares --temperatures",
)
def stability_command(model: str, options: Options, **what: Any) -> None:
    """Do answers survive what shouldn't change them? Influence rate, flips and the noise floor. Resumable."""
    from .stability import stability

    stability(model, options, **what)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of `ctl`."""
    try:
        with interruptible(), lenient_output():
            code = cli.main(args=arguments, prog_name="ctl", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"Error: {one_line(error.format_message())}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. What was collected is kept: run the same command again to go on.", err=True)
        sys.exit(CODE)
