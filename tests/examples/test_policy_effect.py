"""The example that compares policies by their answers: which rows it runs, and how its votes are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reasonctl.controller import ControllerError, Weighed, parse_policy
from support.example_scripts import load

EXAMPLE = Path(__file__).parents[2] / "examples/studies/policy_effect.py"


@pytest.fixture(scope="module")
def example():
    return load("studies/policy_effect.py")


def test_every_row_is_a_chain_that_can_be_weighed(example):
    rows = dict(example.policies(0.7, 120, None))
    assert list(rows) == [*example.AFTER_TEMPERATURE, *example.OWN] and rows["plain"] == "temperature(0.7)"
    more = dict(example.policies(0.7, 120, [*example.MORE, "top_k(20)"]))
    assert list(more) == ["plain", *example.MORE, "top_k(20)"]  # the reference is always there
    for text in (rows | more).values():
        assert str(Weighed(parse_policy(text))) == str(parse_policy(text))


def test_votes_by_number_and_by_weight(example):
    """Two of "7" and one of "9", which is right: the vote says 7, and 9 where its run weighs e^2 times as much."""
    stated = [["7", "9", "7", ""], ["", "", "", ""]]
    right = np.array([[False, True, False, False], [False] * 4])
    log_z = np.array([[-3.0, -1.0, -3.0, 50.0], [0.0] * 4])
    found = example.Answers(right, stated, log_z, 10.0, 1.0)
    assert found.voted(np.ones((2, 4))) == 0.0
    assert found.voted(found.weights()) == 0.5  # runs without an answer have no vote, whatever they weigh
    assert found.weights().sum(axis=1) == pytest.approx([1, 1])
    assert example.Answers(right, stated, np.zeros((2, 4)), 10.0, 1.0).ess() == pytest.approx(1.0)
    assert found.ess() == pytest.approx((0.25 + 1.0) / 2)
    with pytest.raises(ControllerError, match="all finite"):
        example.Answers(right, stated, np.full((2, 4), np.nan), 10.0, 1.0).weights()


@pytest.mark.slow
def test_the_table_on_tiny(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(EXAMPLE), "tiny", "tiny", "-n", "2", "--samples", "2", "--temperatures", "1"]
    command += ["--max-new-tokens", "60", "--median", "50", "--only", "top_k(20)", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("| 1 |") == 2
    plain, truncated = map(json.loads, out.read_text().splitlines())
    assert plain["ess"] == 1.0 and 0 < truncated["ess"] <= 1.0
