"""Declares the commands that make probes, and that say what they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .flags import (
    ANY_PROBE,
    CODES,
    FORMS,
    MACHINE,
    MODEL,
    ORDER,
    PROMISE,
    SAMPLED,
    SAMPLES,
    SAMPLING,
    SHARED,
    TRACE,
    TRACE_TEXT,
    common,
)
from .group import cli
from .refusal import given, refuse
from .terminal import utf8

if TYPE_CHECKING:
    from .options import Options


@cli.command("demo")
@common("json", *SAMPLING, "n", *PROMISE, "dry_run", *MACHINE, "workers", "batch")
def demo_command(options: Options) -> None:
    """The main job, end to end, on the bundled model."""
    from .demo import demo

    demo(options)


HEADS_JOB = ("tasks", "out", "dask")
"""The options of `ctl calibrate` itself that mean something with --heads."""


IN_VLLM = {
    "backend": "vLLM runs transformers folders",
    "workers": "its engine has processes of its own",
    "threads": "its engine has processes of its own",
    "dask": "its engine has processes of its own",
    "runs": "a log's runs are read by forwards, and vLLM gives none",
    "draft": "vLLM drafts by itself, and not with a probe",
    "heads": "its rows are read by forwards, and vLLM gives none",
    "always_answer": "in vLLM a run that ends in its thinking is over",
}
"""Options of `ctl calibrate` that mean nothing where vLLM makes the runs, and why."""


@cli.command("calibrate")
@click.argument("model", type=MODEL)
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
@click.option(
    "--engine",
    type=click.Choice(("own", "vllm")),
    default="own",
    show_default=True,
    help="What makes the runs: reasonctl's own loop, or vLLM (docs/scale.md), greedy or by its own random numbers.",
)
@click.option("--heads", is_flag=True, help="Train AutoDeco's heads on the right runs, in place of a probe.")
@click.option("--unweighted", is_flag=True, help="With --heads: every token counts the same, see docs/sampling.md.")
@click.option("--ngrams", type=click.Path(), help="Also write the runs' n-grams, for --draft 'hierarchy(model=FILE)'.")
@common(*SHARED)
def calibrate_command(
    model: str, options: Options, heads: bool, unweighted: bool, engine: str, **overrides: Any
) -> None:
    """Collect runs, fit a probe, calibrate it. Resumable: run the same command again."""
    if engine == "vllm":
        refuse("ctl calibrate --engine vllm", given(), IN_VLLM)
        from .vllm import vllm_options

        options = vllm_options(options)
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
@click.argument("model", type=MODEL)
@ORDER
@click.option("--tasks", help="Where problems come from [the card's].")
@click.option("--probe", help="Probe file [tiny: the bundled one].")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Also what cheap rules would do.")
@click.option("--report", type=click.Path(), help="Write a page about it (.html).")
@click.option("--out", type=click.Path(), help="Keep the runs (.jsonl); the same command goes on with them.")
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


@cli.command("calibrate-votes")
@click.argument("model", type=MODEL)
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


@cli.group("probe")
def probe_group() -> None:
    """Probes that travel: packed for others, shown, and compared with a model."""


@probe_group.command("pack")
@click.argument("probe", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The folder to write: a repository for the hub.")
@common("json", "force")
def pack_command(probe: str, options: Options, out: str) -> None:
    """Write a folder with the probe and its card, without the runs that it was made from."""
    from .share_probe import pack_probe

    pack_probe(probe, options, out=out)


@probe_group.command("show")
@click.argument("probe", type=click.Path())
@common("json")
def show_command(probe: str, options: Options) -> None:
    """The card in Markdown: of a file, a packed folder, or OWNER/NAME[@REVISION] on the hub."""
    from .share_probe import show_probe

    show_probe(probe, options)


@probe_group.command("fit-check")
@click.argument("model")
@click.argument("probe", type=click.Path())
@common("json", *MACHINE)
def fit_check_command(model: str, probe: str, options: Options) -> None:
    """Whether MODEL is the one that a probe was made for."""
    from .share_probe import fit_check

    fit_check(model, probe, options)


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
