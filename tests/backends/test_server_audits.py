"""A server whose rule is audited: what its clients and its metrics read, who may judge, and what a cancelled run is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from reasonctl.backends import BUNDLED_PROBE
from reasonctl.backends.server.metrics import Metrics
from reasonctl.calibration.learning import audited
from reasonctl.probes import load_exit
from support.serving import KEYS, Running, running


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    rule = load_exit(BUNDLED_PROBE, risk=0.05, mode="disagree")
    with running(rule=audited(rule, share=1.0, seed=1)) as made:
        yield made


def summary(served: Running):
    return served.service.served.controller.exit.ledger.summary()


def post(served: Running, request: str, body: object, key: int = 0) -> httpx2.Response:
    headers = {"authorization": f"Bearer {KEYS[key]}"}
    return httpx2.post(f"{served.url}/v1/requests/{request}/verdict", json=body, headers=headers)


def test_an_audited_answer_is_the_full_runs_and_its_cost_is_taken_off_savings(served: Running) -> None:
    before = summary(served)
    answer = served.ask(messages=[{"role": "user", "content": "7 a+1 b-2 c+5"}])
    did = answer.reasonctl["choices"][0]
    assert did["audited"] and did["closed_by"] == "model" and did["saved"] < 0
    after = summary(served)
    assert after.admitted == before.admitted + 1 and after.audits == before.audits + 1 and after.tokens > 0
    page = httpx2.get(f"{served.url}/metrics", headers={"authorization": f"Bearer {KEYS[0]}"}).text
    found = dict(re.findall(r"^reasonctl_(\S+) (\S+)$", page, re.MULTILINE))
    assert float(found["audits"]) == after.audits and found["audit_alarm"] == found["verdict_warning"] == "0"
    assert float(found["thinking_tokens_saved_total"]) < 0


@pytest.mark.parametrize("fields", [{"temperature": 0.2}, {"stop": ["9"]}, {"reasonctl": {"budget": 20}}])
def test_other_requests_are_not_in_the_stream(served: Running, fields: dict) -> None:
    before = summary(served).admitted
    extra = {"extra_body": {"reasonctl": fields.pop("reasonctl")}} if "reasonctl" in fields else {}
    answer = served.ask(messages=[{"role": "user", "content": "9 a+4 b-2"}], **fields, **extra)
    assert not answer.reasonctl["choices"][0]["audited"] and summary(served).admitted == before


def test_a_client_that_leaves_is_a_failure(served: Running) -> None:
    before = summary(served)
    stream = served.ask(stream=True, messages=[{"role": "user", "content": "31 a+8 b-9 c+6 d-4"}])
    next(chunk for chunk in stream if chunk.choices and not chunk.choices[0].delta.role)  # the run has begun
    stream.close()
    assert served.idle()
    until = time.monotonic() + 10
    while summary(served).waiting and time.monotonic() < until:
        time.sleep(0.01)
    after = summary(served)
    assert (after.audits - before.audits, after.failures - before.failures) == (1, 1)


def test_metrics_show_the_newest_promise_and_the_users_warning() -> None:
    """After an alarm a rule that learns makes a new promise, whose audits begin at 0."""
    metrics, first = Metrics(), {"promise": 1, "audits": 39, "failures": 11, "evidence": 300.0, "alarm": True}
    for audit in (
        {**first, "users_warn": False},
        {**first, "promise": 2, "audits": 0, "failures": 0, "evidence": 1.0, "alarm": False, "users_warn": True},
        {**first, "audits": 40, "users_warn": False},  # a run of the old promise ends late
    ):
        metrics.audited(audit)
    found = dict(re.findall(r"^reasonctl_(\S+) (\S+)$", metrics.page(0, 0), re.MULTILINE))
    assert (found["audits"], found["audit_alarm"], found["verdict_warning"]) == ("0", "0", "1")


def test_a_verdict_is_taken_once_from_who_asked(served: Running) -> None:
    answer, before = served.ask(), summary(served)
    assert post(served, answer.id, {"right": False}, key=1).status_code == 404
    assert post(served, answer.id, {"right": "no"}).status_code == 400
    assert post(served, answer.id, {"right": False, "choice": 1}).status_code == 404
    assert post(served, answer.id, {"right": False}).json() == {"id": answer.id, "right": False}
    assert post(served, answer.id, {"right": False}).status_code == 404
    after = summary(served)
    counted = [(s.full_wrong + s.exited_wrong, s.audits, s.failures) for s in (before, after)]
    assert counted[1] == (counted[0][0] + 1, *counted[0][1:])
    with pytest.raises(openai.NotFoundError):
        served.client().post("/requests/none/verdict", body={"right": True}, cast_to=object)
