"""Streams of audits: order, coins, what is left out; each wrong way of keeping them is planted and seen."""

from __future__ import annotations

import os
import sqlite3
import stat

import numpy as np
import pytest
from scipy.stats import binomtest

from reasonctl.calibration.evaluation.audit_streams import AuditStream, RunPool
from reasonctl.calibration.evaluation.audit_streams import ledger_in_memory as ledger
from reasonctl.controller import AuditLedger, ControllerError, Promised
from reasonctl.controller.audits import SCHEMA, VERSION, Place, Store, summaries, version_of
from reasonctl.controller.audits.ledger import MOST_WAITING
from support.simulated_runs import simulate

PROMISED = Promised("disagree", 0.05, 64, "p")


class ByEnds(AuditLedger):
    """Planted: takes an audit in when it ends."""

    def end(self, place: Place, *, failed: bool) -> None:
        self.evidence.update(failed)


class Skipping(AuditLedger):
    """Planted: an audit that was left doesn't count."""

    def end(self, place: Place, *, failed: bool) -> None:
        if failed:
            self._open.remove(place.run)
        else:
            super().end(place, failed=failed)


def test_a_later_audit_that_ends_first_waits():
    kept = ledger(0.05, 1, share=1.0)
    first, second, third = (kept.admit([i]) for i in range(3))
    kept.end(third, failed=True)
    kept.end(second, failed=True)
    assert (kept.evidence.audits, kept.summary().waiting) == (0, 3)
    kept.end(first, failed=False)
    assert (kept.evidence.audits, kept.evidence.failures, kept.summary().waiting) == (3, 2, 0)
    kept.end(first, failed=True)  # once is enough
    assert kept.evidence.audits == 3


def ordered(rng: np.random.Generator, runs: int):
    """Runs that keep a promise of 0.05: every failing one is short, so that in order of ends failures come first."""
    for _ in range(runs):
        failed = bool(rng.random() < 0.05)
        yield failed, int(rng.integers(1, 4) if failed else rng.integers(50, 3000))


@pytest.mark.parametrize(("kind", "few"), [(AuditLedger, True), (ByEnds, False)])
def test_false_alarms_keep_their_rate_in_order_and_not_by_ends(kind, few):
    """Fixed seeds; 40 streams of 60 runs that run together, all audited, at a level of 0.05."""
    found = 0
    for number in range(40):
        stream = AuditStream(ledger(0.05, number, share=1.0, level=0.05, kind=kind), together=60)
        found += stream.follow(ordered(np.random.default_rng(number), 60)) or stream.finish()
    assert (binomtest(found, 40, 0.05, "greater").pvalue > 0.01) == few


def long_ones(rng: np.random.Generator, runs: int):
    """Runs that break a promise of 0.05: long ones fail."""
    for _ in range(runs):
        failed = bool(rng.random() < 0.25)
        yield failed, int(rng.integers(900, 1000) if failed else rng.integers(50, 300))


@pytest.mark.parametrize(("kind", "seen"), [(AuditLedger, True), (Skipping, False)])
def test_long_audits_that_clients_leave_count(kind, seen):
    """Clients leave every run of more than 600 tokens, and these fail. Without them the promise would seem to hold."""
    found = 0
    for number in range(10):
        stream = AuditStream(ledger(0.05, number, share=0.5, kind=kind), patience=600)
        found += stream.follow(long_ones(np.random.default_rng(number), 250)) or stream.finish()
    assert found >= 9 if seen else found == 0


def test_a_coin_that_sees_the_score_is_blind_and_ours_is_not():
    """A pool that fails at six times the promise. Planted: a coin that prefers runs whose scores stay low."""
    source = RunPool.of(simulate(4000, 5), 0.95)
    promise, low = source.rate / 6, ~source.exits
    assert source.failed[low].mean() < promise < source.rate
    rng, honest, peeking = np.random.default_rng(3), 0, 0
    preferred = RunPool(source.failed[low], source.length[low], source.exits[low])
    for number in range(10):
        honest += AuditStream(ledger(promise, number, share=0.5)).follow(source.draw(800, rng))
        peeking += AuditStream(ledger(promise, number, share=1.0)).follow(preferred.draw(150, rng))
    assert honest >= 9 and peeking <= 1


def test_the_coin_is_its_places_own():
    """The same coins whatever the runs are and however they end; another seed has others; the share is kept."""

    def coins(seed: int, ends: bool, share: float = 0.3) -> list[bool]:
        kept, found = ledger(0.05, seed, share=share), []
        for number in range(400):
            place = kept.admit([number + 1000 * ends])
            found.append(place.audited)
            if place.audited and ends:
                kept.end(place, failed=number % 2 == 0)
        return found

    first = coins(1, ends=False)
    assert first == coins(1, ends=True) != coins(2, ends=True)
    assert binomtest(sum(first), 400, 0.3).pvalue > 0.001
    assert all(coins(1, ends=False, share=1.0))


def test_a_prompt_and_a_conversation_count_once():
    kept = ledger(0.05, 1)
    prompt = list(range(20))
    assert kept.admit(prompt, 18) is not None
    assert kept.admit(prompt, 18) is None  # the same prompt
    assert kept.admit([*prompt[:18], 99, 98, 97]) is None  # its next turn, without the marker that opened thinking
    assert kept.admit(prompt[:17]) is not None and kept.admit([1, *prompt]) is not None
    assert kept.admit([5, 5]) is not None and kept.admit([5, 5, 5]) is not None  # too short to tell a conversation
    assert kept.summary().admitted == 5


def test_an_audit_that_never_ends_holds_up_so_many_and_then_counts_as_left():
    kept = ledger(0.05, 1, share=1.0)
    stuck = kept.admit([0])
    for number in range(1, MOST_WAITING + 2):
        kept.end(kept.admit([number]), failed=False)
    assert kept.evidence.failures == 1 and kept.evidence.audits == MOST_WAITING + 2
    kept.end(stuck, failed=False)
    assert kept.evidence.failures == 1 and kept.evidence.audits == MOST_WAITING + 2


def of(store: Store, **more) -> AuditLedger:
    return AuditLedger.of(store, "p", PROMISED, share=1.0, seed=4, **more)


def test_a_file_goes_on_where_it_was_and_what_was_open_counts_as_failed(tmp_path):
    path = tmp_path / "my.audits"
    kept = of(Store(path, SCHEMA, version=VERSION))
    places = [kept.admit([i]) for i in range(4)]
    for place, failed in zip(places, (True, False, True, False), strict=True):
        if place.run != 1:
            kept.end(place, failed=failed)
    kept.count(exits=3, saved=10.5, tokens=4, exited_wrong=1)
    assert kept.evidence.audits == 1
    kept.store.close()
    again = of(Store(path, SCHEMA, version=VERSION))
    assert (again.evidence.audits, again.evidence.failures) == (4, 3) and again.admit([0]) is None
    assert again.admit([9]).run == 4
    (seen,) = summaries(Store(path, SCHEMA, version=VERSION, read_only=True))
    assert seen == again.summary() and (seen.waiting, seen.net_saved, seen.exited_wrong) == (1, 6.5, 1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and version_of(path) == VERSION
    with pytest.raises(ControllerError, match="another process uses"):
        Store(path, SCHEMA, version=VERSION)
    again.store.close()


def test_what_is_fixed_for_a_promise_is_refused_otherwise(tmp_path):
    store = Store(tmp_path / "a", SCHEMA, version=VERSION)
    AuditLedger.of(store, "p", PROMISED, share=0.1)
    with pytest.raises(ControllerError, match=r"at a share of 0\.1 .* are fixed"):
        AuditLedger.of(store, "p", PROMISED, share=0.2)
    for share in (0, -1, 1.5, True, "x"):
        with pytest.raises(ControllerError, match="the share of audits is"):
            AuditLedger.of(store, "q", PROMISED, share=share)


def planted_trigger(path):
    of(Store(path, SCHEMA, version=VERSION)).store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON audit BEGIN DELETE FROM audit; END")


def other_version(path):
    Store(path, SCHEMA, version=VERSION + 1).close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (planted_trigger, "no store of this kind"),
        (other_version, "no store of this kind"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + b"x" * 200), "can't be used"),
        (lambda path: path.write_text("hello"), "can't be used"),
        (lambda path: path.mkdir(), "a folder"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, make, message):
    path = tmp_path / "s"
    make(path)
    with pytest.raises(ControllerError, match=message) as error:
        of(Store(path, SCHEMA, version=VERSION))
    assert "\n" not in str(error.value)


def test_a_store_that_is_only_read_must_be_there(tmp_path):
    with pytest.raises(ControllerError, match="no file"):
        Store(tmp_path / "none", SCHEMA, version=VERSION, read_only=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_five_hundred_streams_of_a_pool_that_keeps_its_promise():
    """Runs of a pool at exactly the promised rate, 16 together; 500 streams of 3,000 runs at a level of 1 %."""
    source, found = RunPool.of(simulate(20_000, 5), 0.98), 0
    for number in range(500):
        stream = AuditStream(ledger(source.rate, number))
        found += stream.follow(source.draw(3000, np.random.default_rng(number))) or stream.finish()
    print(f"{found} of 500 streams at a rate of {source.rate:.4f} raise an alarm")
    assert binomtest(found, 500, 0.01, "greater").pvalue > 0.01
