"""ctl diagnose fractal: estimators against nolds, noise of a known exponent, refusals, and a job that goes on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends import load_model
from reasonctl.calibration.cli.diagnostics.fractal import cells, in_words
from reasonctl.calibration.diagnostics.fractal import (
    LEAST_POOLED,
    SIZES,
    Array,
    exponents,
)
from reasonctl.calibration.diagnostics.fractal_sources import sources_of
from reasonctl.calibration.diagnostics.fractal_tests import LEVEL, label_test, shuffle_test
from reasonctl.calibration.diagnostics.fractional_noise import fractional_noise, recovery
from reasonctl.calibration.diagnostics.surprisal import Document, ModelName, Scored, scored, surprisals
from reasonctl.calibration.runs.teacher_forced import forced_rows
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import ControllerError
from reasonctl.controller.core import log_prob
from support.ctl import ctl, goes_on
from support.hf_models import byte_level, small
from support.reference_values import congruential

NOLDS = {
    "rescaled_range": (
        1.0621761198459945,
        (4.113545019770751, 6.414729954703023, 12.59754603074788, 32.34746308321348, 72.71427773545953),
    ),
    "dfa": (
        1.188095899519022,
        (0.8496922817922504, 1.2630245051636269, 2.865653151451957, 8.941122323345823, 19.61254986988641),
    ),
}
"""nolds 0.6.3: hurst_rs(z, nvals=SIZES, fit="poly", corrected=False, unbiased=False), and dfa(z, nvals=SIZES,
overlap=False, order=1, fit_exp="poly"), z the standardised `congruential(2048)`."""
FBM = {0.5: (0.559, 0.024, 0.498, 0.032), 0.7: (0.705, 0.038, 0.697, 0.047), 0.9: (0.834, 0.040, 0.896, 0.053)}
"""The same estimators of nolds on fbm 0.3.0's noise, 20 series of 2048: mean and sd by R/S, mean and sd by DFA.

All of them are computed anew by `python -m support.reference_values`.
"""


@pytest.mark.parametrize("name", NOLDS)
def test_estimates_are_those_of_nolds(name: str) -> None:
    value, points = NOLDS[name]
    found = getattr(exponents([congruential(2048)]), name)
    assert found.value == pytest.approx(value, abs=1e-12) and found.points == pytest.approx(points, rel=1e-12)
    assert found.low < value < found.high


def test_the_noise_has_its_covariance() -> None:
    """400 series, fixed seed: every sample covariance is within 4.5 standard errors (false alarm below 1e-4)."""
    rng, h = np.random.default_rng(5), 0.8
    series = np.array([fractional_noise(300, h, rng) for _ in range(400)])
    for lag in (0, 1, 2, 7, 150):
        products = (series[:, : 300 - lag] * series[:, lag:]).mean(axis=1)
        exact = (abs(lag + 1) ** (2 * h) - 2 * lag ** (2 * h) + abs(lag - 1) ** (2 * h)) / 2
        assert abs(products.mean() - exact) < 4.5 * products.std(ddof=1) / 20, lag


def test_known_exponents_are_recovered() -> None:
    """20 draws of 2048 values: means within 4 standard errors of those that nolds finds on fbm's noise."""
    for one in recovery([2048], repeats=20):
        ranges, range_sd, dfa, dfa_sd = FBM[one.hurst]
        assert abs(one.rescaled_range[0] - ranges) < 4 * range_sd * math.sqrt(2 / 20)
        assert abs(one.dfa[0] - dfa) < 4 * dfa_sd * math.sqrt(2 / 20)
        assert abs(one.dfa[0] - one.hurst) < 0.04


def test_memory_is_lost_by_shuffling() -> None:
    """The negative control: the same values in another order have the exponents of white noise."""
    rng = np.random.default_rng(2)
    series = [fractional_noise(1024, 0.9, rng) for _ in range(8)]
    kept, lost = exponents(series), exponents([rng.permutation(one) for one in series])
    assert kept.dfa.low > 0.8 > 0.56 > lost.dfa.high and kept.rescaled_range.low > lost.rescaled_range.high
    assert kept.joseph.value > lost.joseph.value


def _noise(documents: int, hurst: float, seed: int, tokens: int = 512) -> list[Array]:
    rng = np.random.default_rng([seed, round(100 * hurst)])
    return [fractional_noise(tokens, hurst, rng) for _ in range(documents)]


def test_memory_is_told_by_shuffles() -> None:
    """H 0.7 is detected, and the same values shuffled aren't; p is the rank among the shuffles."""
    series = _noise(5, 0.7, 1)
    found = shuffle_test(series, seed=3)
    assert (found.p, found.shuffles) == (0.01, 99) and found == shuffle_test(series, seed=3)
    assert found.reference.tokens == 2560 and 0.5 < found.reference.rescaled_range.value < 0.6
    rng = np.random.default_rng(4)
    assert shuffle_test([rng.permutation(one) for one in series], seed=3).p > LEVEL


def test_sources_are_told_apart_by_their_documents() -> None:
    """H 0.5 and 0.8 are, two halves of one source aren't; with four documents of each p is at least about 2 / 70."""
    assert label_test(_noise(8, 0.5, 2), _noise(8, 0.8, 2)) == 1 / 2000
    assert label_test(_noise(8, 0.8, 3), _noise(8, 0.5, 3)) == 1 / 2000
    assert label_test(_noise(8, 0.7, 4), _noise(8, 0.7, 5)) > LEVEL
    assert 0.02 < label_test(_noise(4, 0.5, 2), _noise(4, 0.9, 2)) < 0.04


def test_temperatures_are_compared_with_holm() -> None:
    """Of three temperatures the apart one is called so, after three times its p; short documents are left out."""
    kinds = (_noise(8, 0.5, 6), _noise(8, 0.5, 11), _noise(8, 0.8, 8), _noise(8, 0.5, 12))
    scores = [Scored("", tuple(one)) for kind in kinds for one in kind]
    scores[8] = Scored("", ())
    texts, shuffled, *written = sources_of(scores, 8, [0, 1, 2], tokens=512, seed=0)
    assert texts.memory_p is not None and texts.memory_p > LEVEL and shuffled.left_out == 0
    assert (written[0].left_out, written[1].left_out) == (1, 0) and written[0].found is not None
    assert written[0].found.documents == 7 and cells(written[0])[1] == "7 (1 left out)"
    p = [one.apart_p for one in written]
    assert p[1] == 1 / 2000 and written[1].apart_adjusted == pytest.approx(3 / 2000)
    said = in_words([texts, shuffled, *written], [])
    assert "apart from the texts (Holm-adjusted p = 0.0015" in said[2] and "not seen apart" in said[1]
    assert "Left out, as they ended before they were full: written at T 0 1." in said
    few = scores[:8] + [Scored("", ())] * 5 + scores[13:]
    with pytest.raises(ControllerError, match="written at T 0: 3 of 8 documents have 512 tokens.*4 or more.*--writer"):
        sources_of(few, 8, [0, 1, 2], tokens=512, seed=0)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    """200 seeded draws of white noise: more than 20 alarms at level 0.05 have probability 0.0007 by chance."""
    memory = sum(shuffle_test(_noise(5, 0.5, i), seed=i).p <= LEVEL for i in range(200))
    apart = sum(label_test(_noise(8, 0.5, i), _noise(8, 0.5, i + 1000), seed=i) <= LEVEL for i in range(200))
    print(f"false alarms of 200: memory {memory}, apart {apart}")
    assert 1 <= memory <= 20 and 1 <= apart <= 20


@pytest.mark.slow
def test_memory_is_told_at_short_lengths() -> None:
    """H 0.6 in 5 documents of 512: 100 draws. Two intervals that don't overlap detected 41 of 100 (docs/log)."""
    detected = sum(shuffle_test(_noise(5, 0.6, i), seed=i).p <= LEVEL for i in range(100))
    print(f"detected of 100: {detected}")
    assert detected >= 60


def test_documents_are_never_joined() -> None:
    """A step between two documents isn't a fluctuation: each is standardised, and no window spans both."""
    rng = np.random.default_rng(3)
    series = [rng.standard_normal(1024) for _ in range(4)]
    moved = [one * scale + shift for one, scale, shift in zip(series, (1, 5, 9, 2), (0, 50, -80, 7), strict=True)]
    assert exponents(moved).dfa.value == pytest.approx(exponents(series).dfa.value)
    assert exponents(moved).joseph.value == pytest.approx(exponents(series).joseph.value)


def test_what_would_be_noise_is_refused() -> None:
    rng = np.random.default_rng(4)
    with pytest.raises(ControllerError, match="511 tokens; exponents need 512"):
        exponents([rng.standard_normal(511)] * 9)
    with pytest.raises(ControllerError, match="1792 tokens .* give 2048"):
        exponents([rng.standard_normal(1792)])
    with pytest.raises(ControllerError, match="constant"):
        exponents([np.ones(4096)])
    assert exponents([rng.standard_normal(LEAST_POOLED - 100)]).self_similarity is None
    found = exponents([rng.standard_normal(LEAST_POOLED + 300)]).self_similarity
    assert found is not None and abs(found.value - 0.5) < 0.15


@pytest.mark.slow
def test_intervals_cover() -> None:
    """200 pools of 32 blocks: a 95 % interval of the mean estimate covers it 90 % of the time at least.

    Not so the Joseph exponent: blocks of a series with memory depend on each other, and its intervals are too narrow.
    """
    rng = np.random.default_rng(6)
    pools = [exponents([fractional_noise(1024, 0.7, rng) for _ in range(8)], seed=i) for i in range(200)]
    for name in ("rescaled_range", "dfa"):
        found = [getattr(one, name) for one in pools]
        mean = float(np.mean([one.value for one in found]))
        assert sum(one.low <= mean <= one.high for one in found) >= 180, name


def test_long_texts_are_read_in_windows() -> None:
    """With a context of 40 every token is given 20 or more; where the context holds all of it, all of it."""
    model = load_model("tiny", threads=1)
    ids = model.tokenizer.encode(" ".join(one.question for one in fresh_problems(8, 0)))[:90]
    opening, text = [*model.start, *ids[:10]], ids[10:]
    whole = surprisals(model, opening, text)
    rows = list(forced_rows(model, opening, text))
    exact = [-log_prob(row.logits, token) / math.log(2) for row, token in zip(rows, text, strict=True)]
    assert whole == pytest.approx(exact, abs=1e-4)
    small = surprisals(replace(model, context=40), opening, text)
    first = 40 - len(opening) - 1
    assert len(small) == len(text) and small[:first] == pytest.approx(whole[:first], abs=1e-4)
    before = [*opening, *text][len(opening) + first - 20 : len(opening) + first]
    (row,) = forced_rows(model, before, text[first : first + 1])
    assert small[first] == pytest.approx(-log_prob(row.logits, text[first]) / math.log(2), abs=1e-4)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "t.txt"
    path.write_text(" ".join(one.question for one in fresh_problems(600, 3)))
    return path


def test_a_job_goes_on_where_it_was_stopped(capfd, tmp_path: Path, texts: Path) -> None:
    out = tmp_path / "f.html"
    job = ["diagnose", "fractal", "tiny", "--texts", str(texts), "-n", "4", "--max-new-tokens", "512"]
    job += ["--workers", "1", "--out", str(out), "--json"]
    first, page = goes_on(capfd, job, out, Path(f"{out}.surprisals.jsonl"), "3 documents are there already")
    given, shuffled = json.loads(first)["sources"]
    values = [given["bits"], *(given["found"][name]["value"] for name in ("rescaled_range", "dfa", "joseph"))]
    assert values == pytest.approx([18.7105, 0.5361, 0.4655, 0.5178], abs=2e-3)  # tiny's, when this was written
    assert given["found"]["tokens"] == 2048 and given["found"]["self_similarity"] is None
    assert len(given["found"]["dfa"]["points"]) == len(SIZES) and shuffled["bits"] == pytest.approx(given["bits"])
    assert page.count(b"<svg") == 2


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A random model whose tokens are single digits and spaces; tiny reads two digits as one token."""
    path, tokenizer = tmp_path / "digits", byte_level("0123456789 ", ())
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    small(vocab_size=11, num_hidden_layers=1, max_position_embeddings=2048, pad_token_id=None, **shape).save_pretrained(
        path
    )
    tokenizer.save_pretrained(path)
    return path


def test_a_writer_with_another_tokenizer_fills_the_scorers_documents(digits: Path) -> None:
    """It writes on until the scorer counts enough, as one long run would; what can't be filled isn't scored."""
    tiny, writer = ModelName("tiny", None, 1), ModelName(str(digits), None, 1)
    encode = tiny.load().tokenizer.encode
    one = scored(tiny, writer, Document("69 5", None, 1.0, 2), 100, 0)
    assert len(one.surprisals) == 100 and len(encode(one.text)) > 100
    assert len(encode(one.text[:100])) < 90, "100 tokens of the writer's own are too few"
    longer = scored(tiny, writer, Document("69 5", None, 1.0, 2), 150, 0)
    assert longer.text.startswith(one.text) and longer.surprisals[:99] == pytest.approx(one.surprisals[:99], abs=1e-3)
    assert scored(tiny, writer, Document("69 5", "1 2 3"), 100, 0) == Scored("1 2 3", ())
    short = scored(tiny, writer, Document("69 " * 650, None, 1.0, 2), 100, 0)
    assert short.surprisals == () and 0 < len(encode(short.text)) < 100, "the writer's context had no more room"


@pytest.mark.slow
def test_texts_of_another_tokenizer_are_estimated(capfd, tmp_path: Path, texts: Path, digits: Path) -> None:
    job = ["diagnose", "fractal", "tiny", "--texts", str(texts), "-n", "4", "--max-new-tokens", "512", "--json"]
    job += ["--writer", str(digits), "--temperatures", "1", "--out", str(tmp_path / "f.html"), "--workers", "1"]
    code, out, said = ctl(capfd, *job)
    assert code == 0, said
    given, shuffled, written = json.loads(out)["sources"]
    assert [one["found"]["tokens"] for one in (given, shuffled, written)] == [2048] * 3 and not written["left_out"]
    assert 0.3 < written["found"]["rescaled_range"]["value"] < 0.9
    assert 0 < given["memory_p"] <= 1 and 0 < written["apart_p"] == written["apart_adjusted"] <= 1


@pytest.mark.slow
def test_written_texts_stand_next_to_the_given_ones(capfd, tmp_path: Path, texts: Path) -> None:
    job = ["diagnose", "fractal", "tiny", "--texts", str(texts), "-n", "4", "--max-new-tokens", "512", "--json"]
    code, out, said = ctl(capfd, *job, "--temperatures", "0,1", "--out", str(tmp_path / "f.html"), "--backend", "hf")
    assert code == 0 and "mixes model and sampler" in said
    names = [one["name"] for one in json.loads(out)["sources"]]
    assert names == ["the texts", "the texts, shuffled", "written at T 0", "written at T 1"]


def test_too_few_texts_are_refused_before_any_work(capfd, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text(" ".join(one.question for one in fresh_problems(100, 3)))
    job = ["diagnose", "fractal", "tiny", "--texts", str(path), "--out", str(tmp_path / "f.html")]
    code, _, err = ctl(capfd, *job, "--max-new-tokens", "512")
    assert code == 2 and "documents of 576 tokens, and the exponents need 4; give more texts" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-new-tokens", "500"], "512 tokens or more"),
        (["-n", "1", "--max-new-tokens", "512"], "give 4 or more"),
        (["--writer", "tiny"], "give them, such as"),
        (["--temperatures", "1,1"], "each once"),
        (["--max-new-tokens", "100000"], "no text has 100064 tokens"),
    ],
)
def test_jobs_that_mean_nothing_are_refused(arguments, words: str, capfd, tmp_path: Path, texts: Path) -> None:
    job = ["diagnose", "fractal", "tiny", "--texts", str(texts), "--out", str(tmp_path / "f.html")]
    code, out, err = ctl(capfd, *job, *arguments)
    assert code == 2 and not out.startswith("{") and words in err
