"""A rule that learns: roles, promises one after the other, what is kept, and what a killed process leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from reasonctl.calibration.learning import StoreLimits, learn, open_store
from reasonctl.calibration.learning.labelling import unpacked
from reasonctl.calibration.learning.learned import ShadowRun
from reasonctl.calibration.learning.promises import share_of
from reasonctl.calibration.learning.status import status_of
from reasonctl.calibration.learning.traffic import Traffic
from reasonctl.controller import Audited, ControllerError
from reasonctl.controller.audits import Place
from support.ctl import ctl
from support.own_traffic import CALL, SETTINGS, add, opened

FIRST = 36
"""Calibration runs at the first analysis, for a risk of 0.1 at the first promise's confidence of 0.95."""


def promised(path, **more):
    """A rule whose first promise stands."""
    rule = opened(path, **more)
    add(rule, 40, seed=1)
    assert rule.idle() is None and rule.traffic.stage().plan is not None
    add(rule, FIRST, seed=2)
    assert rule.idle() is None
    return rule


def test_a_promise_comes_from_runs_in_the_order_of_their_admission(tmp_path):
    rule = opened(tmp_path / "s")
    add(rule, 39, seed=1)
    assert rule.idle() is None and rule.traffic.stage().plan is None and "40 fit" in rule.why
    add(rule, 1, seed=3)
    add(rule, FIRST - 1, seed=2) if rule.idle() else add(rule, FIRST - 1, seed=2)
    assert rule.idle() is None and rule.live is None
    add(rule, 1, seed=4)
    assert rule.idle() is None and isinstance(rule.live, Audited)
    ledger, threshold = rule.live.ledger, rule.live.inner.inner.threshold
    assert (threshold.runs, threshold.confidence) == (FIRST, 0.95) and threshold.value < 1
    assert (ledger.evidence.level, ledger.share, ledger.evidence.risk) == (0.005, 0.5, 0.1)
    rule.traffic.store.close()
    again = opened(tmp_path / "s")  # and it stands after the process has ended
    assert again.live is not None and again.live.inner.inner.threshold.value == threshold.value
    assert again.live.promised.name == "learned 1"


def test_runs_that_were_left_count_as_failures(tmp_path):
    rule = opened(tmp_path / "s")
    add(rule, 40, seed=1)
    rule.idle()
    add(rule, 3, seed=9, left=True)
    add(rule, FIRST - 3, seed=2)
    assert rule.idle() is None and rule.live is None  # with 3 failures of 36 nothing is promised
    lost = unpacked(None, 5, "wait")
    assert lost.cues[0].score > 1 and not lost.cues[0].same and lost.cues[0].labelled


def alarm(rule) -> None:
    ledger = rule.live.ledger
    for number in range(80):
        place = ledger.admit([9, number, 1])
        if place is not None and place.audited:
            ledger.end(Place(place.run, True), failed=True)
    assert ledger.alarm


def run_of(rule):
    from reasonctl.controller import AdmittedRun
    from support.own_traffic import MODEL

    given = (True, CALL["policy"], CALL["max_new_tokens"])
    return rule.for_run(AdmittedRun((1, 2, 3, 4), MODEL.tokenizer, MODEL.eos, *given))


def test_after_an_alarm_only_new_runs_count_and_the_next_promise_spends_less(tmp_path):
    rule = promised(tmp_path / "s")
    alarm(rule)
    assert isinstance(run_of(rule), ShadowRun) and rule.live is None
    stage = rule.traffic.stage()
    assert (stage.promise, stage.admitted, stage.plan, stage.promised) == (2, 0, None, None)
    assert rule.traffic.store.read("SELECT COUNT(*) FROM own_run") == [(0,)]  # the old runs are out
    assert rule.idle() is None and rule.live is None
    add(rule, 40, seed=21)
    rule.idle()
    add(rule, FIRST, seed=22)
    assert rule.idle() is None and rule.live is None  # the second promise has less of the confidence: 44 runs
    add(rule, 44 - FIRST, seed=23)
    assert rule.idle() is None and rule.live.inner.inner.threshold.confidence == 0.975
    assert rule.live.ledger.evidence.level == 0.0025
    found = status_of(rule.traffic.store, learns=True)
    assert (found.alarms, len(found.stages), found.promised.alarm) == (1, 2, False)


class Reusing(Traffic):
    """Planted: after an alarm the old calibration runs go on counting."""

    def begin_again(self, stage, fit):
        query = "SELECT number, state, client, born, record FROM own_run WHERE promise = ?"
        old, new = self.store.read(query, [stage.promise]), stage.promise + 1
        super().begin_again(stage, fit)
        with self.store.transaction() as connection:
            query = "UPDATE learned SET plan = ?, fit = ?, admitted = ? WHERE id = ?"
            connection.execute(query, [stage.plan, stage.fit, stage.admitted, new])
            query = f"INSERT INTO own_run VALUES ({new}, ?, ?, ?, ?, NULL, NULL, ?)"
            connection.executemany(query, old)


@pytest.mark.parametrize(("kind", "stands"), [(Traffic, False), (Reusing, True)])
def test_runs_from_before_an_alarm_promise_nothing_again(tmp_path, kind, stands):
    """With them the next promise would stand as soon as its first look has its 44 runs, 8 of which are new."""
    rule = promised(tmp_path / "s")
    rule.traffic.__class__ = kind
    alarm(rule)
    run_of(rule)
    add(rule, 44 - FIRST, seed=24)
    assert rule.idle() is None and (rule.live is not None) == stands


def test_what_all_promises_spend_stays_within_what_was_asked():
    assert sum(share_of(0.1, k) for k in range(1, 200)) <= 0.1


def test_texts_are_deleted_once_labelled_and_kept_on_purpose(tmp_path):
    rule = opened(tmp_path / "s")
    add(rule, 2, seed=1)
    rows = "SELECT prompt, tokens FROM own_run"
    assert set(rule.traffic.store.read(rows)) == {(None, None)}
    (text,) = rule.traffic.store.read("SELECT record FROM own_run WHERE number = 0")[0]
    assert json.loads(text)["text"] == json.loads(text)["question"] == json.loads(text)["answer"] == ""
    traffic, stage = rule.traffic, rule.traffic.stage()
    number = traffic.admit(stage, [7, 7], 2, "", FIRST)
    traffic.end(stage.promise, number, [7], [8])
    traffic.label(stage.promise, number, "{}", 1, keep=True)
    assert (b"\x07\0\0\0", b"\x08\0\0\0") in traffic.store.read(rows)
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600


def test_a_prompt_counts_once(tmp_path):
    traffic = opened(tmp_path / "s").traffic
    stage = traffic.stage()
    assert traffic.admit(stage, [1, 2], 2, "", FIRST) == 0
    assert traffic.admit(stage, [1, 2], 2, "", FIRST) is None


def test_old_runs_are_left_out_and_a_full_store_takes_none(tmp_path):
    clock = [0.0]
    traffic = Traffic(open_store(tmp_path / "s"), fit=4, now=lambda: clock[0])
    stage = traffic.stage()
    traffic.end(1, traffic.admit(stage, [1], 1, "", FIRST), [1], [2])
    clock[0] = 100.0
    traffic.forget_old(101)
    assert traffic.to_label(stage) is not None and not traffic.full
    traffic.forget_old(99)
    assert traffic.to_label(stage) is None and traffic.records(stage, 0, 1) == [None]
    small = Traffic(open_store(tmp_path / "t", most_bytes=1 << 16), fit=4)
    while not small.full:
        small.end(1, small.admit(stage, [random.getrandbits(30)], 1, "", FIRST), [1] * 500, [2] * 500)
    assert os.stat(tmp_path / "t").st_size < 1 << 17


@pytest.mark.parametrize(("risk", "changes", "name"), [(0.2, {}, "risk"), (0.1, {"fit": 50}, "fit")])
def test_what_was_asked_for_is_fixed(tmp_path, risk, changes, name):
    opened(tmp_path / "s").traffic.store.close()
    with pytest.raises(ControllerError, match=f"was begun with {name}"):
        learn(tmp_path / "s", risk=risk, settings=replace(SETTINGS, **changes))
    with pytest.raises(ControllerError, match="fit is 2"):
        learn(tmp_path / "t", settings=replace(SETTINGS, fit=2))
    assert not (tmp_path / "t").exists()
    assert opened(tmp_path / "s").in_use("greedy", 61) == ["max_new_tokens is 61, the store's runs have 60"]


def test_status_of_a_store_and_its_page(tmp_path, capfd):
    path, page = tmp_path / "my<b>.store", tmp_path / "s.html"
    rule = promised(path)
    code, out, err = ctl(capfd, "status", str(path), "--json", "--out", str(page))
    said = json.loads(out.splitlines()[-1])
    assert code == 0 and said["promised"]["risk"] == 0.1 and said["learned"][0]["promised"] == FIRST
    assert said["net_saved"] == -7 * (40 + FIRST) and "promised: disagree in at most 0.1" in err
    text = page.read_text()
    assert "my&lt;b&gt;.store" in text and "<script" not in text
    code, _, err = ctl(capfd, "status", str(path), "--out", str(page))
    assert code == 2 and "exists already" in err
    rule.traffic.store.close()


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from support.own_traffic import add, opened
rule = opened(__import__("pathlib").Path(sys.argv[1]))
base = int(sys.argv[3])
print("ready", flush=True)
for i in range(10_000):
    add(rule, 1, seed=1_000 * base + i)
    print(rule.traffic.stage().admitted, flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_count_nothing_twice(tmp_path):
    """Whatever was said to be labelled is there after the kill, once; what was open is left."""
    path, rng, tests = tmp_path / "s", random.Random(4), os.path.dirname(os.path.dirname(__file__))
    for kill in range(20):
        job = [sys.executable, "-c", KILLED, str(path), tests, str(kill)]
        process = subprocess.Popen(job, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.02, 0.6))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.stdout.read().split("\n") if line.isdecimal()]
        process.wait()
        store = open_store(path)
        rows = store.read("SELECT number, state, record IS NULL FROM own_run ORDER BY number")
        admitted, trials = store.read("SELECT admitted, trial_tokens FROM learned")[0]
        assert [number for number, _, _ in rows] == list(range(admitted)) and admitted >= max(said, default=0)
        done = [number for number, state, empty in rows if state == "labelled" and not empty]
        assert trials == 7 * len(done)
        assert len(done) >= max(said, default=0) - kill  # at most one run a kill was under way
        store.close()
    print(f"{admitted} runs, {len(done)} labelled after 20 kills")


def test_limits_are_values():
    assert StoreLimits().keep is False
