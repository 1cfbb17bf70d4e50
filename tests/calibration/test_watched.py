"""`audited`: what a probe promises is what is watched, by the calibration's equality; its file; `ctl status`."""

from __future__ import annotations

import json

import pytest

from reasonctl import audited as public
from reasonctl.backends import BUNDLED_PROBE, attach, load_model
from reasonctl.calibration.learning import audited
from reasonctl.calibration.learning.watched import grader_of
from reasonctl.calibration.tasks.graders import MATH, NUMBER
from reasonctl.controller import Controller, ControllerError
from reasonctl.probes import load_exit
from support.ctl import ctl
from support.scripted import Scripted

QUESTION = "48 a-9 b+6 c-3"


def rule(**more):
    return load_exit(BUNDLED_PROBE, **{"risk": 0.05, "mode": "disagree", **more})


def test_what_is_watched_is_what_was_promised():
    made = audited(rule(risk=0.1), seed=1)
    assert public is audited and (made.ledger.evidence.risk, made.ledger.mode) == (0.1, "disagree")
    assert "0.1 of its runs are audited" in made.why
    own, other = rule().promised, rule(risk=0.1).promised
    assert own.name != other.name and own.name == rule().at(risk=0.1).at(risk=0.05).promised.name
    assert grader_of(rule()) is NUMBER and grader_of(Scripted(lambda at: False)) is MATH


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "harm"}, "'harm' can't be watched"),
        ({"mode": "selective"}, "makes none"),
        ({"confidence": None}, "makes none"),
    ],
)
def test_what_nobody_can_see_is_refused(asked, message):
    with pytest.raises(ControllerError, match=message):
        audited(rule(**asked))


def test_harm_is_watched_where_answers_are_known():
    made = audited(rule(mode="harm", give_up=0.02), right=lambda prompt, answer: True)
    assert made.ledger.evidence.risk == pytest.approx(0.07) and made.ledger.mode == "harm"


def test_an_attached_model_is_audited_and_its_file_is_shown(tmp_path, capfd):
    path, llm = tmp_path / "my.audits", load_model("tiny", threads=1).library
    made = audited(rule(), share=1.0, file=path)
    with attach(llm, Controller(exit=made)) as handle:
        ask = {"max_tokens": made.inner.card.max_new_tokens, "temperature": 0.6, "top_p": 1, "min_p": 0, "top_k": 0}
        ask |= {"repeat_penalty": 1.0, "seed": 3}
        llm.create_chat_completion(messages=[{"role": "user", "content": QUESTION}], **ask)
        first = handle.trace
        assert first.audit["drawn"] and first.finish_reason == "stop" and first.exit is None, first.why_not
        handle.verdict(right=False)
        llm.create_chat_completion(messages=[{"role": "user", "content": QUESTION}], **ask)
        assert not handle.trace.audit["drawn"]
        other = [{"role": "user", "content": "9 a+4 b-2"}]
        llm.create_chat_completion(messages=other, stop=["9"], **ask)
        assert not handle.trace.audit["drawn"]  # what a stop string cuts isn't what was calibrated
        with pytest.raises(ControllerError, match="no run 1 under an exit rule"):
            handle.verdict(right=True, row=1)
    code, out, err = ctl(capfd, "status", str(path), "--json")
    assert code == 0, err
    (said,) = json.loads(out.splitlines()[-1])["promises"]
    assert code == 0 and (said["admitted"], said["audits"], said["full_wrong"]) == (1, 1, 1)
    assert (
        "no alarm; 0 of 1 audited runs fail" in err
        and "0 of 0 runs with an exit and 1 of 1 others were called wrong" in err
    )
    made.ledger.store.close()


def test_status_of_something_else_is_one_line(tmp_path, capfd):
    for make in (
        lambda p: p.write_text("x"),
        lambda p: p.write_bytes(b"SQLite format 3\x00" + bytes(100)),
        lambda p: 0,
    ):
        path = tmp_path / "s"
        make(path)
        code, out, err = ctl(capfd, "status", str(path))
        assert code == 2 and not out and len(err.splitlines()) == 1
        path.unlink(missing_ok=True)


def test_serve_refuses_what_can_not_be_audited(capfd):
    for extra, words in (
        (["--audit", "0.1"], "--mode disagree"),
        (["--audit", "0"], "--audit"),
        (["--audits", "f"], "--audits means nothing to ctl serve without --audit"),
        (["--probe", "none", "--audit", "0.1"], "--audit means nothing to ctl serve without a probe"),
    ):
        code, _, err = ctl(capfd, "serve", "tiny", *extra)
        assert code == 2 and len(err.splitlines()) == 1 and words in err, err
