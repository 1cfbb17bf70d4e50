"""An exit's form from collecting to use: what is tried is what is deployed, and no form loads as another."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from reasonctl.calibration.fitting.collecting import collect_job, plan_of
from reasonctl.calibration.fitting.frozen import Frozen
from reasonctl.calibration.fitting.job import CalibrationJob, calibrate_and_save
from reasonctl.calibration.fitting.saved_runs import saved_runs
from reasonctl.calibration.runs.collect import asked_runs
from reasonctl.calibration.runs.logged import LoggedRun
from reasonctl.calibration.runs.making import run_once
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.runs.splits import runs_path
from reasonctl.calibration.runs.teacher_forced import forced_rows
from reasonctl.calibration.runs.worker import answer_text, collect_run, collect_runs, one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Controller, ControllerError, Cues, Markers
from reasonctl.controller.core import Fields
from reasonctl.probes.exit import ProbeExit, load_exit, make_exit
from reasonctl.probes.files import Card, load_probe
from reasonctl.probes.fixed_exits import FixedExit
from reasonctl.probes.promise import Promise
from reasonctl.probes.signals import layer_of
from support.ctl import ctl
from support.recipes import RECIPE

FORMS = ("append", "append-open")
FIT, N = 14, 18
TASK = load_task("tiny")
PROBLEMS = TASK.problems(N, stream=6)
BACKENDS = ("llama.cpp", "transformers")


def fixed(recipe, index):
    cues, markers = Cues(recipe.cues), Markers(*recipe.markers)
    return FixedExit(index=index, cues=cues, suffix=recipe.suffix, markers=markers, form=recipe.form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trial_is_the_exit_itself_and_a_fresh_run_over_the_same_text(backend, form):
    """Token for token under the same keys; drafted too. The text before the suffix ends in the cue."""
    recipe = replace(RECIPE, backend=backend, form=form)
    model, problem = recipe.load(), PROBLEMS[1]
    record = collect_run(recipe, 1, problem.question)
    drafted = replace(recipe, draft="ngram(4)")
    for k, tried in enumerate(record.cues[: 3 if backend == "llama.cpp" else 1]):
        trace, _ = one_run(recipe, model, 1, problem.question, fixed(recipe, k))
        again, _ = one_run(drafted, model, 1, problem.question, fixed(recipe, k))
        assert again.tokens == trace.tokens and trace.exit.position == tried.position
        assert trace.cost == tried.tokens
        assert answer_text(recipe, model, trace.tokens[trace.forced[0] :]) == tried.answer
        start, length = trace.forced
        assert start == tried.row + 1 and model.tokenizer.decode(trace.tokens[start : start + length]) == recipe.suffix
        assert tried.name in model.tokenizer.decode(trace.tokens[:start][-4:]).lower()
        call = recipe.call(model, problem.question, 1)
        text = [*call.prompt, *trace.tokens[: start + length]]
        fresh, _ = run_once(model, Controller(), replace(call, prompt=text, max_new_tokens=recipe.answer_tokens))
        assert fresh.tokens == trace.tokens[start + length :][: recipe.answer_tokens]
    assert len(record.cues) >= 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_of_a_batch_and_of_a_log_try_the_same_exits(backend):
    recipe = replace(RECIPE, backend=backend, form="append", max_new_tokens=110)
    window = asked_runs(PROBLEMS[:2])
    alone = [collect_run(recipe, asked.run, asked.question) for asked in window]
    together = collect_runs(replace(recipe, batch=2), window)
    model = recipe.load()
    (trace, _) = one_run(recipe, model, 0, window[0].question, None)
    log = LoggedRun(tuple(token for token in trace.tokens if token not in model.eos), "log.jsonl:1")
    read = collect_run(recipe, 0, window[0].question, logged=log)

    def said(one):
        return one.text, [(cue.name, cue.position, cue.row, cue.answer, cue.tokens) for cue in one.cues]

    assert [said(one) for one in together] == [said(one) for one in alone]
    assert said(read) == said(alone[0]) and len(read.cues) > 1


def test_the_row_that_is_read_is_the_cues_last_token():
    recipe, problem = replace(RECIPE, form="append"), PROBLEMS[0]
    model = recipe.load()
    record = collect_run(recipe, 0, problem.question)
    trace, _ = one_run(recipe, model, 0, problem.question, None)
    prompt = model.prompt(problem.question)
    blocks = [layer_of(fraction, model.depth) for fraction in recipe.layers]
    rows = [list(forced_rows(model, prompt, trace.tokens, layer=block, chunk=1)) for block in blocks]
    for cue in record.cues:
        # The row after token i is the one before token i + 1.
        states = np.concatenate([of[cue.row + 1].hidden for of in rows])
        assert np.abs(states - cue.state).max() < 1e-4 * np.abs(states).max()


def job_at(out, form="append", **changes):
    recipe = replace(RECIPE, form=form, max_new_tokens=120)
    return replace(CalibrationJob(recipe, TASK, Promise(), N, out, fit=FIT), **changes)


def collected(job):
    model = job.recipe.load()
    with closing(job.run_file(model)) as file:
        done = file.open(force=False)
        assert collect_job(job, file, PROBLEMS[: job.n], done=done, workers=1, progress=lambda a, b: None)
        return file.read()[: job.n], plan_of(job, file)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A job in append form with its runs and its probe."""
    job = job_at(tmp_path_factory.mktemp("form") / "p.safetensors")
    calibrate_and_save(job, job.recipe.load(), *collected(job), force=False)
    return job


def test_header_plan_card_and_rule_name_the_form(made):
    records, frozen = collected(made)
    content = load_probe(made.out)
    file = RunFile(runs_path(made.out), {})
    assert file.stored_settings().text("form") == file.read_plan().text("form") == "append"
    assert frozen.form == content.card.form == load_exit(made.out).form == "append"
    rule = load_exit(made.out)
    assert rule.why.endswith("; for exits of the form append: the cue stays and the suffix follows it")
    assert rule.guarantee(sampler=content.card.sampler, max_new_tokens=120, tasks="tiny")["form"] == "append"
    # Deployed, the rule reads the rows that were recorded, to the bit.
    sees = ProbeExit(content, make_exit(content, Promise()).promise, replace(rule.threshold, value=2.0))
    trace, _ = one_run(made.recipe, made.recipe.load(), FIT, records[FIT].question, sees)
    assert [one.score for one in trace.decisions] == [cue.score for cue in records[FIT].cues] != []


def test_a_file_of_one_form_is_never_gone_on_with_in_another(made):
    for form in ("replace", "append-open"):
        with pytest.raises(ControllerError, match="collected with another form; give the old settings to resume"):
            collected(job_at(made.out, form))
        with pytest.raises(ControllerError, match="exits of the form append, from their fitting runs"):
            collected(made)[1].check(made.recipe.cues, made.promise, form)
    content = load_probe(made.out)
    other = replace(content, card=replace(content.card, form="append-open"))
    with pytest.raises(ControllerError, match="of the form append, and the probe .* append-open; move it away, or"):
        saved_runs(made.out, other)
    with pytest.raises(ControllerError, match="the card's form is 'late', .* forms replace, append, append-open; use"):
        replace(content.card, form="late")


def test_a_rule_whose_form_was_changed_by_hand_promises_nothing(made):
    rule = load_exit(made.out)
    assert not [one for one in rule.in_use("temperature(0.6)", 120) if "form" in one]
    rule.form = "replace"
    assert "form is 'replace', calibrated with 'append'" in rule.in_use("temperature(0.6)", 120)


def test_older_plans_and_cards_are_of_the_form_replace(made):
    """The form that they have is left out of new ones too, so the same job gives the same bytes as before."""
    _, frozen = collected(made)
    old = replace(frozen, form="replace").to_json()
    assert "form" not in old and Frozen.from_json(Fields.of(old, "the plan")).form == "replace"
    card = json.dumps(replace(load_probe(made.out).card, form="replace").to_dict())
    assert '"form"' not in card and Card.from_dict(json.loads(card)).form == "replace"
    settings = job_at(made.out, "replace").run_file(made.recipe.load()).settings
    assert "form" not in settings


def test_commands_name_the_form(made, capfd):
    code, out, _ = ctl(capfd, "inspect", str(made.out))
    assert code == 0 and "form: append: the cue stays and the suffix follows it" in out
    everything = ("--fit", "12", "-n", "24", "--labels", "all", "--max-new-tokens", "60", "--workers", "1")
    said = ["--dry-run", "--form", "append-open", "--tasks", "tiny", "--out", str(made.out.with_name("q.safetensors"))]
    code, out, err = ctl(capfd, "calibrate", "tiny", *said, *everything)
    assert code == 0 and "exits of the form append-open: the cue stays" in out + err
    code, out, err = ctl(capfd, "calibrate", "tiny", *said[2:], "--form", "late")
    assert code == 2 and "'late' is not one of 'replace', 'append', 'append-open'" in err
    code, out, err = ctl(capfd, "calibrate", "tiny", "--heads", *said[1:])
    assert code == 2 and "--form" in err
