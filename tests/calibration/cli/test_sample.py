"""`ctl sample`: samples in shared forwards, the chosen one, and votes that stop early."""

from __future__ import annotations

import json

import pytest

from support.ctl import ctl

ASK = ("sample", "tiny", "52 a+3 b-6 c+8", "--seed", "4", "--json", "--threads", "1")


def sampled(capfd, *arguments: str) -> dict:
    code, out, err = ctl(capfd, *ASK, *arguments)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_a_vote_that_is_over_stops(capfd, backend: str) -> None:
    whole = sampled(capfd, "-n", "6", "--backend", backend, "--stop", "none")
    early = sampled(capfd, "-n", "6", "--backend", backend)
    assert whole["answer"] == early["answer"] == "57"
    assert len(whole["samples"]) == 6 > len(early["samples"]) and early["cost"] <= whole["cost"]
    assert [one["tokens"] for one in early["samples"]] == [
        one["tokens"] for one in whole["samples"][: len(early["samples"])]
    ]


def test_batches_change_no_sample(capfd) -> None:
    asked = ("-n", "4", "--stop", "none", "--probe", "none", "--temperature", "1")
    one = sampled(capfd, *asked, "--batch", "1")
    all_at_once = sampled(capfd, *asked, "--batch", "4")
    assert [each["tokens"] for each in one["samples"]] == [each["tokens"] for each in all_at_once["samples"]]
    assert one["cost"] == all_at_once["cost"]


def test_other_ways_to_choose(capfd) -> None:
    asked = ("-n", "4", "--probe", "none", "--codes", "arithmetic")
    crowd = sampled(capfd, *asked, "--choose", "mbr")
    best = sampled(capfd, *asked, "--choose", "best")
    assert [one["tokens"] for one in crowd["samples"]] == [one["tokens"] for one in best["samples"]]
    means = [one["mean_logprob"] for one in best["samples"]]
    assert means[best["chosen"]] == max(means) and all(mean < 0 for mean in means)
    assert 0 <= crowd["chosen"] < 4 and crowd["codes"] == "arithmetic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stop", "soon"), "--stop is 'soon'; give none, lossless, beta, a share"),
        (("--stop", "1.5"), "--stop is '1.5'; give none"),
        (("--stop", "nan"), "--stop is 'nan'; give none"),
        (("--stop", "0.8", "--choose", "mbr"), "leave one of them out"),
        (("--probe", "none", "--risk", "0.1"), "nothing decides about exits"),
        (("-n", "5000"), "between 1 and 4096"),
    ],
)
def test_mistakes_are_one_line(capfd, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = ctl(capfd, *ASK, *arguments)
    assert code == 2 and message in err.splitlines()[-1]


@pytest.mark.parametrize(("limit", "most"), [(("--budget", "6"), 6), (("--budget", "0.05"), 38)])
def test_every_sample_has_the_budget(capfd, limit: tuple[str, ...], most: int) -> None:
    """A share is one of the room behind the prompt: 5 % of the context's 768 positions."""
    found = sampled(capfd, "-n", "2", "--probe", "none", "--stop", "none", *limit)
    assert [one["sources"].index("f") for one in found["samples"]] == [most] * 2
    assert {one["sources"].count("f") for one in found["samples"]} == {2} and found["answer"]


def test_every_sample_has_the_seconds(capfd) -> None:
    """Over at its first tokens: a clock decides how many, so no number of tokens is asked for."""
    found = sampled(capfd, "-n", "2", "--probe", "none", "--stop", "none", "--thinking-seconds", "0")
    assert all(one["sources"].index("f") < 30 for one in found["samples"])
