"""`ctl calibrate-votes`: how early a vote of many samples may stop, calibrated on recorded votes."""

from __future__ import annotations

from pathlib import Path

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import CalibratedStop, Codes, LosslessStop, ShareStop, stop_text
from reasonctl.probes.files import write_whole

from ..evaluation.early_votes import EarlyVote, calibrated_stop, tried
from ..pages.wording import percent
from ..runs.sampled import SampleSet
from .console import Console
from .frontier import vote_confidence
from .options import Options
from .sampled import VOTE_UNIT, SamplingJob, open_job, probe_text, sampled

PROBLEMS = 200
"""Default number of problems."""


def calibrate_votes(
    name: str, options: Options, *, tasks: str, probe: str | None, samples: int, codes: Codes, out: str
) -> None:
    """Sample every problem, calibrate the share at which a vote stops, and write it."""
    show = Console(as_json=options.json)
    confidence, n = vote_confidence(options), options.n or PROBLEMS
    if not out.endswith(".json"):
        raise ControllerError(f"--out is {out!r}; it must end in .json, as ctl sample --stop takes it")
    job = open_job(show, "ctl calibrate-votes", name, options, tasks=tasks, probe=probe, n=n, samples=samples, out=out)
    show.say(f"{len(job.problems)} problems of {job.task.name}, {samples} samples each; {job.recipe.policy}")
    if options.dry_run:
        show.result({"n": len(job.problems), "runs": samples * len(job.problems), "dry_run": True})
        return
    drawn = SampleSet("votes", samples, job.recipe.policy, codes, job.rule)
    votes = [one.votes(drawn.name) for one in sampled(show, job, [drawn], options, out, name)]
    found = calibrated_stop(votes, options.risk, confidence)
    stop = calibrated(job, drawn, found, options.risk, confidence)
    write_whole(Path(out), stop_text(stop).encode())
    lossless = tried(LosslessStop(), votes)
    _report(show, stop, found, lossless)
    show.say(f"written: {out}; use it with ctl sample --stop {out}")
    show.result({"out": out, **stop.to_json(), "saved": found.saved, "lossless_saved": lossless.saved, **job.room})


def calibrated(
    job: SamplingJob, drawn: SampleSet, found: EarlyVote[ShareStop], risk: float, confidence: float
) -> CalibratedStop:
    """The rule with what it was calibrated on, and what is promised of it."""
    rule = found.rule
    return CalibratedStop(
        threshold=rule.threshold,
        least=rule.least,
        n=found.full,
        risk=risk,
        confidence=confidence,
        problems=found.problems,
        failures=found.failures,
        samples=found.samples,
        model=job.model.fingerprint(),
        tasks=job.task.name,
        grader=job.task.grader.name,
        policy=job.recipe.policy,
        codes=drawn.codes,
        max_new_tokens=job.recipe.max_new_tokens,
        probe=probe_text(job.rule),
    )


def _report(
    show: Console, stop: CalibratedStop, found: EarlyVote[ShareStop], lossless: EarlyVote[LosslessStop]
) -> None:
    asked = f"the early vote differs from the full vote in at most {percent(stop.risk)} of problems"
    if stop.threshold >= 1:
        show.say(
            f"too few problems, or too many that change: nothing can be promised ({asked}, confidence "
            f"{stop.confidence:g}), so a vote stops once its leader can't be overtaken; give more problems or a larger "
            "--risk",
            "yellow",
        )
    else:
        show.say(f"promised: {asked}, with confidence {stop.confidence:g}", "bold")
    show.say(
        f"stops once the leader has more than {percent(stop.threshold)} of {stop.least} samples or more, or can't be "
        f"overtaken: {stop.samples:.1f} of {stop.n} samples drawn ({percent(found.saved)} saved; lossless "
        f"{percent(lossless.saved)}), {stop.failures} of {stop.problems} votes differ"
    )
    show.say(VOTE_UNIT, "dim")
