"""A calibrated stop: its file, what it refuses, and samples that stop by it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, ControllerError, Keys, parse_policy
from reasonctl.controller.selection import CalibratedStop, LosslessStop, load_stop, stop_text

STOP = CalibratedStop(
    threshold=0.7,
    least=2,
    n=8,
    risk=0.1,
    confidence=0.9,
    problems=200,
    failures=3,
    samples=2.5,
    model="f",
    tasks="t",
    grader="number",
    policy="temperature(0.5)",
    codes="independent",
    max_new_tokens=12,
    probe="",
)
TOKENIZER = ToyTokenizer(["a", "b", "c", "d"])
CALL = Call([0, 1], 12, frozenset({3}), Keys(seed=4), parse_policy("temperature(0.5)"))


def test_the_file_is_the_stop(tmp_path) -> None:
    path = tmp_path / "v.json"
    path.write_text(stop_text(STOP))
    assert load_stop(path) == STOP
    assert json.loads(path.read_text())["note"] == "no per-run promise covers a vote; the unit is the problem"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "isn't a stop of format 1"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"codes": "even"}, "one of independent, arithmetic"),
        ({"n": 0}, "'n'"),
        ({"more": 1}, "more"),
    ],
)
def test_other_files_are_refused(tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps(STOP.to_json() | change))
    with pytest.raises(ControllerError, match=message):
        load_stop(path)


def first_letter(text: str) -> str:
    return text[:1]


def drawn(stop, n: int = 8, codes="independent"):
    samples = Controller(codes=codes).samples(
        ToyEngine(vocabulary=4, seed=2), TOKENIZER, CALL, n, stop=stop, answer=first_letter, at_once=1
    )
    return samples, list(samples)


def test_samples_stop_by_it() -> None:
    whole, every = drawn(None)
    early, some = drawn(STOP)
    assert (
        2 <= len(some) < 8 == len(every) and [one.tokens for one in some] == [one.tokens for one in every][: len(some)]
    )
    assert early.vote is not None and early.vote.share > 0.7 and early.answers == whole.answers[: len(some)]
    assert not some[0].warnings
    lossless, _ = drawn(LosslessStop())
    assert lossless.vote is not None and whole.vote is not None
    assert lossless.answers[lossless.vote.index] == whole.answers[whole.vote.index]


def test_what_it_wasnt_calibrated_for_is_said() -> None:
    with pytest.raises(ControllerError, match="calibrated for votes of 8 samples, and this vote has 4"):
        drawn(STOP, 4)
    _, traces = drawn(STOP, codes="arithmetic")
    assert any("codes is arithmetic" in warning for warning in traces[0].warnings)
    _, traces = drawn(replace(STOP, policy="greedy"))
    assert any("policy is temperature(0.5), and was greedy" in warning for warning in traces[0].warnings)
    with pytest.raises(ControllerError, match="independent, arithmetic"):
        Controller(codes="even")  # type: ignore[arg-type]
