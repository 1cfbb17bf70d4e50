"""Declares the commands that measure a model, and say what pays on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .flags import (
    ANY_PROBE,
    MACHINE,
    MODEL,
    PROMISE,
    SAMPLED,
    SAMPLES,
    common,
)
from .group import cli

if TYPE_CHECKING:
    from .options import Options


@cli.command("frontier")
@click.argument("model", type=MODEL)
@click.option("--tasks", required=True, help="Where problems come from.")
@ANY_PROBE
@SAMPLES
@click.option("--out", required=True, type=click.Path(), help="A page (.html) or the figure (.svg, .png, .pdf).")
@common(*SAMPLED, "temperature", "policy", "draft")
def frontier_command(model: str, options: Options, **what: Any) -> None:
    """Accuracy against all tokens: one run, exits, votes, and what makes votes cheaper. Resumable."""
    from .frontier import show_frontier

    show_frontier(model, options, **what)


@cli.group("advise")
def advise_group() -> None:
    """What pays on this machine and this model, from measurements."""


@advise_group.command("draft")
@click.argument("model", type=MODEL)
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
@click.argument("model", type=MODEL)
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
    policy="a policy is what is searched for",
)
def advise_policy_command(model: str, options: Options, **what: Any) -> None:
    """Truncations at equal risk, and the one that keeps the most: ctl advise policy MODEL --texts FILE."""
    from .advise_policy import advise_policy

    advise_policy(model, options, **what)


@advise_group.command("samples")
@click.argument("model", type=MODEL)
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
@click.argument("model", type=MODEL)
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
@click.argument("model", type=MODEL)
@click.option("--tasks", required=True, help="Where problems come from.")
@click.option(
    "--perturb",
    required=True,
    type=click.Choice(("text", "whitespace", "options", "seed", "temperature", "exit", "audio")),
    help="What is changed that shouldn't change an answer.",
)
@click.option("--lengths", help="How much: sentences, spaces, places, seconds [1,4,16; options: 1; audio: 5].")
@click.option(
    "--strengths", default="0,1", show_default=True, help="Share of sentences with numbers, or of gaps, from 0 to 1."
)
@click.option("--temperatures", default="0,0.6", show_default=True, help="Sampling temperatures; 0 is greedy.")
@click.option(
    "--votes", type=int, default=1, show_default=True, help="Runs of each; above 1 votes of them are compared too."
)
@click.option("--sounds", help="With audio: silence, noise:DBFS, a .wav file; with commas [silence,noise:-40].")
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
    from .diagnostics.stability import stability

    stability(model, options, **what)


@cli.command("mcq")
@click.argument("model", type=MODEL)
@click.option("--tasks", required=True, help="Questions with lettered options, or whose answers are whole numbers.")
@click.option("--shots", default="0", show_default=True, help="Worked examples, from the same task.")
@click.option("--orders", default="answer,explanation", show_default=True, help="What comes first.")
@click.option("--formats", default="list,markdown,json", show_default=True, help="Of question and answer.")
@click.option("--temperatures", default="0", show_default=True, help="Sampling temperatures; 0 is greedy.")
@click.option("--debias", default="none", show_default=True, help="none, prior (PriDe), cyclic; several with commas.")
@click.option("--irac", is_flag=True, help="Explanations as issue, rule, application and conclusion.")
@click.option("--sft", type=click.Path(), help="Write right answers as conversations for fine-tuning (.jsonl).")
@PAGE
@common(
    "json",
    "seed",
    "draft",
    "max_new_tokens",
    "n",
    "force",
    "dry_run",
    *MACHINE,
    "workers",
    "batch",
    grader="answers are letters",
    temperature="it compares --temperatures",
    policy="it compares --temperatures and --debias",
)
def mcq_command(model: str, options: Options, **what: Any) -> None:
    """Multiple choice: prompts, orders, formats, temperatures, selection bias and its removal. Resumable."""
    from .diagnostics.mcq import mcq

    mcq(model, options, **what)


@cli.command("pairs")
@click.argument("model", type=MODEL)
@click.option("--tasks", required=True, help="Where problems come from.")
@click.option(
    "--strategies",
    default="prefix,demonstration,elicitive,refine,policy",
    show_default=True,
    help="Also parameters, leaderboard, exit.",
)
@click.option("--smaller", metavar="MODEL", help="With parameters: a smaller model of the family.")
@click.option("--lower", metavar="MODEL", help="With leaderboard: a model that ranks lower.")
@click.option(
    "--policies",
    nargs=2,
    show_default="greedy temperature(1.5)",
    metavar="BETTER WORSE",
    help="With policy: the two that are contrasted.",
)
@click.option(
    "--wording",
    type=click.Choice(("good-bad", "harmless-harmful")),
    show_default="good-bad",
    help="How prompts ask for better and worse; the second one asks for harmful text.",
)
@click.option(
    "--keep",
    type=click.Choice(("agreeing", "untied", "different")),
    default="agreeing",
    show_default=True,
    help="Write the pairs that the grader agrees with, also reversed ones, also ties.",
)
@click.option("--probe", help="With exit: the probe file [tiny: the bundled one].")
@click.option("--out", required=True, type=click.Path(), help="The pairs to write (.jsonl); a page lies next to it.")
@common(*SAMPLED, "temperature", "policy", "draft")
def pairs_command(model: str, options: Options, **what: Any) -> None:
    """Contrasting responses (PopAlign) as JSONL for DPO, graded: how often is the better one better? Resumable."""
    from .diagnostics.pairs import pairs

    pairs(model, options, **what)


@cli.group("diagnose")
def diagnose_group() -> None:
    """What a model's texts are like."""


@diagnose_group.command("fractal")
@click.argument("model", type=MODEL)
@click.option("--texts", required=True, multiple=True, type=click.Path(), help="A person's texts: text files, .jsonl.")
@click.option("--writer", help="The model that writes on after the texts' openings [MODEL].")
@click.option("--temperatures", metavar="T,T,...", help="Write at these temperatures, too; 0 is greedy.")
@PAGE
@common(
    "json",
    "seed",
    "max_new_tokens",
    "n",
    "force",
    "dry_run",
    *MACHINE,
    "workers",
    temperature="it compares --temperatures",
    policy="it compares --temperatures",
)
def fractal_command(model: str, options: Options, **what: Any) -> None:
    """Hurst, Joseph and self-similarity exponents of surprisal under MODEL; -n documents of each source. Resumable."""
    from .diagnostics.fractal import fractal

    fractal(model, options, **what)
