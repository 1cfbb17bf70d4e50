"""No client can steer a promise: its share of the runs that it stands on, while one floods the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from reasonctl.calibration.learning import learn, share_of_keys
from reasonctl.calibration.learning.clients import CLIENT_SHARE, most_of, runs_with
from reasonctl.calibration.learning.learned import Learned
from reasonctl.calibration.learning.status import status_of
from reasonctl.controller import ControllerError
from reasonctl.probes.risk import Stopping, first_analysis, following, planned
from support.ctl import ctl
from support.own_traffic import add, opened

FIRST = 36
"""Calibration runs at the first analysis, for a risk of 0.1 at the first promise's confidence of 0.95."""
OTHERS = ("anne", "bob", "eve")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A store whose 40 fitting runs came from four clients, one of which floods it."""
    path = tmp_path_factory.mktemp("clients") / "s"
    rule = opened(path)
    assert add(rule, 100, seed=1, client="flood") == 10  # a quarter
    assert rule.idle() is None and rule.traffic.stage().plan is None
    for number, client in enumerate(OTHERS):
        assert add(rule, 10, seed=2 + number, client=client) == 10
    assert rule.idle() is None and rule.traffic.stage().plan is not None
    rule.traffic.store.close()
    return path


def fitted(store: Path, folder: Path, **more) -> Learned:
    """A rule that goes on with a copy of it."""
    shutil.copy(store, folder / "s")
    return opened(folder / "s", **more)


def test_a_client_that_floods_has_its_share_and_waits_for_the_others(store, tmp_path):
    rule = fitted(store, tmp_path)
    assert add(rule, 100, seed=7, client="flood") == 9
    assert rule.idle() is None and rule.live is None  # its runs alone never promise anything
    said = status_of(rule.traffic.store, learns=True)
    assert said.by_client == (19, 10, 10, 10) and "by client: 19, 10, 10, 10; one that has" in "\n".join(said.lines())
    for number, client in enumerate(OTHERS):
        assert rule.live is None
        assert add(rule, 9, seed=8 + number, client=client) == 9
        assert rule.idle() is None
    assert rule.live is not None
    counts = rule.traffic.by_client(rule.traffic.stage(), 40, 40 + FIRST)
    assert sorted(counts.values()) == [9] * 4 and not {"flood", *OTHERS} & set(counts)  # names are keyed hashes


@pytest.mark.parametrize(("share", "steered"), [(CLIENT_SHARE, False), (1.0, True)])
def test_one_that_never_fails_cant_hide_the_failures_of_the_others(store, tmp_path, share, steered):
    """Every third run of the others fails, under a promise of a tenth. A flood of easy runs hides it if it may."""
    rule = fitted(store, tmp_path, client_share=share)
    for step in range(4):
        add(rule, 40, seed=100 + step, client="flood")
        for number, client in enumerate(OTHERS):
            add(rule, 3, seed=200 + 10 * step + number, client=client, wrong=(step % 3,))
    rule.idle()
    stage = rule.traffic.stage()
    assert (rule.live is not None) == steered and (steered or stage.admitted >= 40 + FIRST)


def test_no_analysis_looks_at_runs_of_which_one_client_has_too_many(store, tmp_path):
    """The share is asked for again at the analysis: here it came down when the runs were admitted already."""
    rule = fitted(store, tmp_path, client_share=1.0)
    assert add(rule, FIRST - 1, seed=7, client="flood") == FIRST - 1
    rule.traffic.client_share = CLIENT_SHARE
    assert add(rule, 1, seed=8, client="anne") == 1 and rule.idle() is None
    assert rule.live is None and rule.traffic.stage().promised is None
    runs, total = FIRST, FIRST
    while most_of(CLIENT_SHARE, runs) < FIRST - 1:
        runs = following(runs)
    for number in range(runs - FIRST - 1):
        total += add(rule, 1, seed=300 + number, client=("anne", "bob", "eve", "dan")[number % 4])
    assert rule.idle() is None and rule.live is None
    add(rule, 1, seed=299, client="dan")
    assert rule.idle() is None and rule.traffic.stage().promised == runs == total + 1


def test_without_names_there_is_one_client_and_beside_a_named_one_it_is_another(tmp_path):
    rule = opened(tmp_path / "s")
    assert add(rule, 15, seed=1) == 15
    assert add(rule, 20, seed=2, client="anne") == 10
    stage = rule.traffic.stage()
    assert rule.traffic.admit(stage, [9, 9], 2, "", FIRST) is None  # it has more than a quarter
    assert rule.traffic.one_steers(stage, 0, 40) and rule.traffic.admit(stage, [9, 8], 2, "bob", FIRST) == 25


@pytest.mark.parametrize("number", [0, 39, 40, 75, 76, 84, 85, 5000])
def test_a_run_is_counted_with_those_that_are_looked_at_with_it(number):
    start, end = runs_with(number, 40, FIRST)
    assert start <= number < end
    assert (start, end) == (0, 40) if number < 40 else end - 40 in planned(FIRST, 8000)
    assert number < 40 + FIRST or runs_with(end, 40, FIRST)[1] - 40 == following(end - 40)


def accepted(stopping: Stopping, risk: float, confidence: float, share: float, rate: float) -> float:
    """P(a promise comes) where one client has its share of every analysis and never fails, and the others fail."""
    going_on, runs, found = np.ones(1), 0, 0.0
    for n, most in zip(stopping.analyses, stopping.boundaries(risk, confidence), strict=True):
        new = n - most_of(share, n) - runs
        going_on, runs = np.convolve(going_on, binom.pmf(np.arange(new + 1), new, rate)), runs + new
        found += float(going_on[: most + 1].sum())
        going_on[: most + 1] = 0.0
    return found


@pytest.mark.parametrize("risk", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.975])
def test_what_one_client_can_hide_is_bounded(risk, confidence):
    """The docs' claim, exactly: others that fail at risk / (1 - share) are promised `risk` as seldom as allowed."""
    first = first_analysis(risk, confidence)
    stopping = Stopping("sequential", planned(first, 12 * first))
    for share in (0.0, 0.25, 0.5):
        found = accepted(stopping, risk, confidence, share, risk / (1 - share))
        assert 0.3 * (1 - confidence) < found <= 1 - confidence
    assert accepted(stopping, risk, confidence, 0.25, risk) > 1 - confidence  # less than that isn't promised


def test_so_few_keys_never_come_to_a_promise(tmp_path, capfd):
    assert share_of_keys(4, CLIENT_SHARE) == CLIENT_SHARE
    assert share_of_keys(2, 1.0) == 1.0 and share_of_keys(3, 0.34) == 0.34
    with pytest.raises(ControllerError, match=r"3 keys.* --client-share 0.34 or more, or 1 if all keys are one"):
        share_of_keys(3, CLIENT_SHARE)
    with pytest.raises(ControllerError, match="share of one client is 0"):
        learn(tmp_path / "t", client_share=0.0)
    (tmp_path / "keys").write_text("first-key-of-a-test\nsecond-key-of-a-test\n")
    learning = ("--learn", str(tmp_path / "s"))
    for extra, words in (
        ((*learning, "--key-file", str(tmp_path / "keys")), "there are 2 keys"),
        ((*learning, "--client-share", "0.5"), "without several keys"),
        (("--client-share", "0.5"), "without --learn"),
        (("--engine", "vllm", *learning), "it is of reasonctl's own server"),
        (("--engine", "vllm", "--audit", "0.1"), "it is of reasonctl's own server"),
    ):
        code, _, err = ctl(capfd, "serve", "tiny", *extra)
        assert code == 2 and words in err, err
    assert not (tmp_path / "s").exists()
