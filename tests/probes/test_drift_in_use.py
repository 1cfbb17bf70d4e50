"""The drift monitor where people meet it: in the trace of every run, and in `ctl inspect --traces`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from reasonctl.backends.load import BUNDLED_PROBE, load_model
from reasonctl.calibration.cli.main import main
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Call, Controller, Decision, Keys, Trace, parse_policy
from reasonctl.probes import load_exit
from reasonctl.probes.exit import ProbeExit, make_exit
from reasonctl.probes.files.probe_file import SignalTable
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.threshold import Grid
from support.probe_files import card, content
from support.simulated_runs import two_domains

PROBE = BUNDLED_PROBE


def traces(temperature: str, n: int, stream: int) -> list[Trace]:
    rule, model = load_exit(PROBE), load_model("tiny", threads=1)
    made = []
    for i, problem in enumerate(load_task("tiny").problems(n, stream=stream)):
        call = Call(model.prompt(problem.question), 60, model.eos, Keys(seed=4, run=i), parse_policy(temperature))
        session, trace = model.engine.session(), Trace()
        for _ in Controller(exit=rule).stream(session, model.tokenizer, call, trace):
            pass
        session.close()
        made.append(trace)
    return made


def test_runs_like_the_calibrations_raise_no_alarm_and_others_do(tmp_path, capfd):
    """Fixed seeds; a run like the calibration's raises an alarm, ever, with probability 1 %."""
    same = traces("temperature(0.6)", 60, 91)
    assert [trace.drift["runs"] for trace in same] == list(range(1, 61))
    assert not same[-1].drift["alarm"] and not any("drift" in warning for warning in same[-1].warnings)
    other = traces("temperature(2.5)", 60, 91)
    assert other[-1].drift["alarm"] and "calibrate on runs like these" in other[-1].warnings[-1]
    for made, alarm in ((same, False), (other, True)):
        path = tmp_path / f"{alarm}.jsonl"
        path.write_text("".join(json.dumps(trace.to_dict()) + "\n" for trace in made))
        with pytest.raises(SystemExit) as left:
            main(["inspect", str(PROBE), "--traces", str(path), "--json"])
        assert left.value.code == 0
        told = json.loads(capfd.readouterr().out.splitlines()[-1])["drift"]
        assert told == made[-1].drift and told["alarm"] is alarm


def exit_of(table, domain, **asked) -> ProbeExit:
    """A rule on simulated runs of two domains; the signal `entropy` is what tells."""
    made = content()
    file = replace(made, table=table, grid=Grid.of(table, 50), card=card(domains=("easy", "hard")))
    file = replace(file, others={name: SignalTable(file.grid, table) for name in ("entropy", "trial")})
    return make_exit(file, Promise(domain=domain, **asked))


def first_scores(table) -> list[float]:
    starts = table.offsets[:-1][np.diff(table.offsets) > 0]
    return [float(score) for score in table.scores[starts]]


def ended(scores: list[float], **more) -> Trace:
    decisions = [Decision(False, "wait", k, 9, score, 1.0) for k, score in enumerate(scores)]
    return Trace(decisions=decisions, finish_reason="stop", **more)


def test_a_domains_runs_are_compared_with_its_own():
    """300 runs of the hard domain alone: no alarm against its own runs (wrong once in 100), one against all."""
    table, fresh = two_domains(400, 5), two_domains(600, 77).in_domain(1)
    own, common = exit_of(table, "hard", risk=0.1), exit_of(table, None, risk=0.1)
    assert sorted(own.monitor.reference) == sorted(first_scores(table.in_domain(1)))
    for score in first_scores(fresh):
        own.finish(ended([score]))
        common.finish(ended([score]))
    assert own.monitor.runs > 250 and not own.monitor.alarm and common.monitor.alarm
    nothing = two_domains(400, 5).in_domain(0)
    assert exit_of(nothing, "hard", risk=0.1).monitor is None
    exit_of(nothing, "hard", risk=0.1).finish(trace := ended([0.5]))
    assert trace.drift is None


def test_trials_that_are_off_score_nothing():
    """At a risk that can't be promised a trial signal never exits and tries nothing: its scores are no news."""
    rule = exit_of(two_domains(400, 5), None, risk=0.3, signal="trial")
    never = rule.at(risk=0.0001)
    assert rule.trials and not never.trials and never.monitor is rule.monitor
    for made, runs in ((rule, 1), (never, 1), (rule, 2)):
        made.finish(trace := ended([0.0] if made is never else [0.7]))
        assert rule.monitor.runs == runs and (trace.drift is None) == (made is never)


def test_samples_of_one_prompt_count_once():
    rule = exit_of(two_domains(400, 5), None, risk=0.3)
    for repeat in (False, True, True):
        rule.finish(trace := ended([0.7], repeat=repeat))
        assert trace.drift["runs"] == rule.monitor.runs == 1


def test_a_file_that_holds_no_traces_is_one_line(tmp_path, capfd):
    path = tmp_path / "x.jsonl"
    for text in ('{"decisions": 3}\n', '{"decisions": [{"score": null}]}\n', '["\u2028', "[" * 9000):
        path.write_text(text)
        with pytest.raises(SystemExit) as left:
            main(["inspect", str(PROBE), "--traces", str(path)])
        said = capfd.readouterr().err
        assert left.value.code == 2 and "line 1 of " in said and "json.dumps(handle.trace.to_dict())" in said
        assert len(said.splitlines()) == 1
