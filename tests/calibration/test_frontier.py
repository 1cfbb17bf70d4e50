"""The frontier on recorded samples whose accuracies and costs are known, its file, and votes for advice."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest

from reasonctl.calibration.advice.samples import compare
from reasonctl.calibration.evaluation.frontier import frontier, sizes_of
from reasonctl.calibration.evaluation.intervals import mean_interval, share_interval
from reasonctl.calibration.runs.sampled import Sample, SampledProblem, SamplesFile
from reasonctl.controller import ControllerError

SETTINGS = {"sets": [{"name": "independent", "n": 4}]}


def problem(labels: list[int | None], cost: int = 10, *, rejected: int = 0, name: str = "independent"):
    """A problem whose answer is class 0."""
    samples = tuple(
        Sample(cost, rejected, f"text {label}", label, label == 0, -1.0 if label == 0 else -2.0) for label in labels
    )
    return SampledProblem("q", {name: samples, "arithmetic": samples, "drafted": samples[:1]})


def of(points, way: str, samples: int):
    return next(one for one in points if (one.way, one.samples) == (way, samples))


def test_every_way_counts_what_it_draws() -> None:
    """Two problems: in one the vote repairs the first sample, in the other nobody is right."""
    points = frontier([problem([1, 0, 0, 0], rejected=3), problem([1, 1, None, 1], cost=20)], risk=0.1)
    one, whole = of(points, "one run", 1), of(points, "vote", 4)
    assert one.accuracy.mean == pytest.approx(0.375) and one.tokens.mean == 15 and one.drawn == 1
    assert whole.accuracy.mean == 0.5 and whole.tokens.mean == 60 and whole.gain.mean == pytest.approx(0.125)
    early = of(points, "vote, lossless stop", 4)
    assert early.accuracy.mean == 0.5 and early.drawn == 3 and early.tokens.mean == (4 * 10 + 2 * 20) / 2
    assert of(points, "most probable", 4).accuracy.mean == 0.5
    drafted = of(points, "one run, drafted", 1)
    assert drafted.tokens.mean == 15 and drafted.rejected == 1.5 and drafted.accuracy.mean == 0


def test_a_lossless_stop_never_moves_the_accuracy() -> None:
    """On 1,000 problems; the calibrated stop is cross-fitted, so that no half is judged by its own threshold."""
    rng = np.random.default_rng(0)
    problems = []
    for _ in range(1000):
        drawn = rng.choice(3, size=16, p=rng.dirichlet([1.0, 0.5, 0.5]))
        problems.append(problem([int(label) for label in drawn]))
    points = frontier(problems, risk=0.1)
    whole, lossless = of(points, "vote", 16), of(points, "vote, lossless stop", 16)
    calibrated = of(points, "vote, calibrated stop", 16)
    assert lossless.accuracy == whole.accuracy and lossless.tokens.mean < whole.tokens.mean
    assert calibrated.tokens.mean < lossless.tokens.mean
    assert abs(calibrated.accuracy.mean - whole.accuracy.mean) <= 0.1


def test_intervals_cover() -> None:
    """Shares that are means of 4 votes, and single votes: the mean is covered in 93 % of 1,000 re-draws or more."""
    rng = np.random.default_rng(3)
    for votes in (1, 4):
        hits = narrow = 0
        for _ in range(1000):
            shares = rng.binomial(votes, rng.beta(6, 2, size=60)) / votes
            found = share_interval(shares.tolist(), votes)
            hits += found.low <= 0.75 <= found.high
            narrow += found.high - found.low
        assert hits >= 930, (votes, hits)
        assert narrow / 1000 < (0.24 if votes == 1 else 0.17)
    assert mean_interval([5.0]).high == float("inf")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_interval_holds_its_mean_where_every_answer_is_alike(share):
    for problems in range(1, 501):
        found = share_interval([share] * problems)
        assert 0 <= found.low <= found.mean <= found.high <= 1, problems


def test_a_votes_file_is_read_back_and_checked(tmp_path) -> None:
    path, one = (
        tmp_path / "s.jsonl",
        SampledProblem("é?", {"independent": problem([0, None, 1, 0]).sets["independent"]}),
    )
    with closing(SamplesFile(path, SETTINGS)) as file:
        assert file.open(force=False) == 0
        file.append(one)
    with path.open("ab") as torn:
        torn.write(b'{"question":"half')
    with closing(SamplesFile(path, SETTINGS)) as file:
        assert file.open(force=False) == 1 and file.read() == [one]
    with pytest.raises(ControllerError, match="samples collected with another seed"):
        SamplesFile(path, SETTINGS | {"seed": 1}).open(force=False)
    header, line = path.read_text().splitlines()
    short = json.loads(line)
    short["sets"]["independent"].pop()
    path.write_text("\n".join([header, json.dumps(short)]) + "\n")
    with pytest.raises(ControllerError, match="line 2 of .* has other samples than its header says"):
        SamplesFile(path, SETTINGS).read()


def test_samples_of_a_task_that_was_changed_are_refused(tmp_path) -> None:
    """A file holds grades, not gold answers. One from before tasks had digests can't tell, and is gone on with."""
    with closing(SamplesFile(tmp_path / "new", SETTINGS | {"tasks_digest": "a"})) as file:
        file.open(force=False)
    with pytest.raises(ControllerError, match="samples collected with another tasks_digest"):
        SamplesFile(tmp_path / "new", SETTINGS | {"tasks_digest": "b"}).open(force=False)
    with closing(SamplesFile(tmp_path / "old", SETTINGS)) as file:
        file.open(force=False)
    with closing(SamplesFile(tmp_path / "old", SETTINGS | {"tasks_digest": "b"})) as file:
        assert file.open(force=False) == 0


def test_advice_prefers_what_a_vote_wins_with() -> None:
    """A policy that is right in 3 of 4 samples, against one whose problems are all right or all wrong."""
    rng = np.random.default_rng(1)
    problems = []
    for _ in range(60):
        varied = [0 if right else 1 for right in rng.random(16) < 0.75]
        fixed = [0 if rng.random() < 0.75 else 1] * 16
        sets = {"temperature(1)": varied, "temperature(0.1)": fixed}
        problems.append(
            SampledProblem("q", {name: problem(labels).sets["independent"] for name, labels in sets.items()})
        )
    found = compare(problems, [1, 16])
    best, other = found[16]
    assert best.policy == "temperature(1)" and best.difference.mean == 0 and other.apart and other.difference.high < 0
    assert not any(one.apart for one in found[1])
    assert best.any_right.mean == 1 and other.any_right.mean == other.accuracy.mean


@pytest.mark.parametrize("n", [1, 2, 12])
def test_other_numbers_of_samples_are_refused(n: int) -> None:
    with pytest.raises(ControllerError, match="give a power of two, 4 or more"):
        sizes_of(n)
