"""The runs of one promise in the order of their admission: which are audited, which failed, and what that says.

A run gets its place, and its coin, before its first forward. The coin is a keyed uniform of the place: it depends on
nothing that the run does. Audits are taken in in the order of their places. One that ends first waits for those before
it, or short runs would come first.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..core.errors import ControllerError
from ..core.randomness import Keys
from ..thinking.exit_rule import Promised
from .evidence import LEVEL, Evidence
from .prompts import PROMPTS, Prompts
from .store import Store
from .verdicts import exits_fare_worse

LOG = logging.getLogger("reasonctl.audits")
SHARE = 0.1
"""The share of runs that are audited."""
VERSION = 1
"""The kind of a store that holds audits and nothing else."""
MOST_WAITING = 64
"""So many later audits may end before one that still runs counts as a failure, as if it had been left."""
_COIN = 65
"""Purpose of the coin's uniforms."""
_VERDICTS = ("exited_right", "exited_wrong", "full_right", "full_wrong")
_COUNTS = f"admitted, exits, saved, tokens, {', '.join(_VERDICTS)}, users_warn"

SCHEMA = (
    *PROMPTS,
    "CREATE TABLE audit_promise (id INTEGER PRIMARY KEY, name TEXT NOT NULL, mode TEXT NOT NULL, risk REAL NOT NULL, "
    "level REAL NOT NULL, share REAL NOT NULL, seed TEXT NOT NULL, admitted INTEGER NOT NULL DEFAULT 0, "
    "exits INTEGER NOT NULL DEFAULT 0, saved REAL NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0, "
    "exited_right INTEGER NOT NULL DEFAULT 0, exited_wrong INTEGER NOT NULL DEFAULT 0, "
    "full_right INTEGER NOT NULL DEFAULT 0, full_wrong INTEGER NOT NULL DEFAULT 0, "
    "users_warn INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE audit (promise INTEGER NOT NULL, run INTEGER NOT NULL, failed INTEGER, "
    "PRIMARY KEY (promise, run)) WITHOUT ROWID",
)
"""The tables of the audits, which a store of learned promises has too."""


class Place(NamedTuple):
    """A run's place among the runs of its promise."""

    run: int
    """Its number, from 0."""
    audited: bool
    """Its coin: it isn't exited, and what its exit would have said is compared."""


@dataclass(frozen=True)
class AuditSummary:
    """What is known of one promise now."""

    promise: int
    """Its number in the store, from 1."""
    mode: str
    """Which failure is watched."""
    risk: float
    """The share of failing runs that was promised."""
    level: float
    """Largest probability of a false alarm, ever."""
    share: float
    """The share of runs that are audited."""
    admitted: int
    """Runs in the stream: under the promise, each prompt and each conversation once."""
    audits: int
    """Audited runs that are taken in."""
    failures: int
    """How many of them failed."""
    waiting: int
    """Audited runs that aren't taken in: they run, or wait for one that does."""
    evidence: float
    """The e-value now."""
    highest: float
    """The largest e-value so far; the alarm is at 1 / level."""
    alarm: bool
    """The alarm has been raised: the rule decides and doesn't act."""
    exits: int
    """Exits that were made, in the stream or not."""
    saved: float
    """Tokens that these exits saved, as the calibration runs say."""
    tokens: int
    """Tokens that audits cost: their trials, and forced texts in them. What they thought on isn't in `saved`."""
    exited_right: int
    """Runs with an exit that users called right. Verdicts are self-selected, and enter neither promise nor evidence."""
    exited_wrong: int
    """Runs with an exit that users called wrong."""
    full_right: int
    """Other runs that users called right."""
    full_wrong: int
    """Other runs that users called wrong."""
    users_warn: bool
    """Users called exited runs wrong more often than others (`verdicts.py`). Nothing depends on it."""

    @property
    def net_saved(self) -> float:
        """Tokens saved less those that audits cost."""
        return self.saved - self.tokens

    @property
    def why(self) -> str:
        """One line for people."""
        said = "ALARM, the rule is in shadow" if self.alarm else "no alarm"
        return (
            f"audits: {said}; {self.failures} of {self.audits} audited runs fail, {self.mode} <= {self.risk} was "
            f"promised; highest e-value {self.highest:.3g}, alarm at {1 / self.level:g}"
        )

    @property
    def said(self) -> str:
        """What users say, as one line for people; "" where nobody has said anything."""
        exited, full = self.exited_right + self.exited_wrong, self.full_right + self.full_wrong
        if not exited + full:
            return ""
        warns = "WARNING, users call runs with an exit wrong more often than others; " if self.users_warn else ""
        return (
            f"verdicts: {warns}{self.exited_wrong} of {exited} runs with an exit and {self.full_wrong} of {full} "
            "others were called wrong; users choose of which runs they speak, so nothing depends on it"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {**asdict(self), "net_saved": self.net_saved}


class AuditLedger:
    """The runs of one promise, in memory or in a store.

    >>> promised = Promised("disagree", 0.05, 48, "my rule")
    >>> ledger = AuditLedger.of(Store(None, SCHEMA, version=VERSION), "my rule", promised, share=0.5)
    >>> first, second = [ledger.admit([7, 7, number]) for number in range(2)]
    >>> ledger.admit([7, 7, 1]) is None
    True
    """

    def __init__(self, store: Store, promise: int) -> None:
        """Go on with a promise of the store. Audits that an ended process left open count as failures.

        Args:
            store: Holds the tables of `SCHEMA`.
            promise: The promise's number.
        """
        self.store = store
        self.promise = promise
        query = "SELECT name, mode, risk, level, share, seed FROM audit_promise WHERE id = ?"
        ((name, mode, risk, level, share, seed),) = store.read(query, [promise])
        self.name = str(name)
        """Tells the promise from others."""
        self.mode, self.share = str(mode), float(str(share))
        self.evidence = Evidence(float(str(risk)), float(str(level)))
        self._keys = Keys(seed=int(str(seed)), run=promise)
        self.users_warn = bool(store.read("SELECT users_warn FROM audit_promise WHERE id = ?", [promise])[0][0])
        """Users called exited runs wrong more often than others."""
        self._open: deque[int] = deque()
        """Audits that aren't taken in, from the first on."""
        self._ended: dict[int, bool] = {}
        """Whether each of them failed that has ended."""
        with store.transaction() as connection:
            connection.execute("UPDATE audit SET failed = 1 WHERE promise = ? AND failed IS NULL", [promise])
        self._prompts = Prompts(store)
        for (failed,) in store.read("SELECT failed FROM audit WHERE promise = ? ORDER BY run", [promise]):
            self.evidence.update(bool(failed))

    @classmethod
    def of(
        cls,
        store: Store,
        name: str,
        promised: Promised,
        *,
        share: float = SHARE,
        level: float = LEVEL,
        seed: int | None = None,
    ) -> AuditLedger:
        """The ledger of a promise; one that the store has goes on with what is known of it.

        Args:
            store: Holds the tables of `SCHEMA`.
            name: Tells the promise from others.
            promised: What was promised.
            share: The share of runs that are audited; in (0, 1]. It is fixed for a promise's life.
            level: Largest probability of a false alarm, ever.
            seed: Of the coins, so that a test can repeat them. None: nobody can know them.

        Raises:
            ControllerError: The share is out of range, or the store's promise of this name has another one.
        """
        if isinstance(share, bool) or not isinstance(share, float | int) or not 0 < share <= 1:
            raise ControllerError(f"the share of audits is {share!r:.40}; it must be above 0 and at most 1, say 0.1")
        Evidence(promised.risk, level)  # refuses what is out of its range
        kept = store.read("SELECT id, mode, risk, level, share FROM audit_promise WHERE name = ?", [name])
        if not kept:
            drawn = secrets.randbits(63) if seed is None else seed
            return cls(store, _insert(store, [name, promised.mode, promised.risk, level, share, str(drawn)]))
        ((number, *rest),) = kept
        if rest != [promised.mode, promised.risk, level, share]:
            raise ControllerError(
                f"{store.path} has audits of this rule at a share of {rest[3]} and a level of {rest[2]}, which are "
                "fixed for a promise's life; give these, or another file"
            )
        return cls(store, int(str(number)))

    def admit(self, prompt: Sequence[int], stem: int | None = None) -> Place | None:
        """Give a run its place, and toss its coin.

        Args:
            prompt: The tokens of its prompt.
            stem: How many of them the next turn of the conversation would begin with. None: all.

        Returns:
            The place; None for a prompt, or a conversation, that has one already.
        """
        length = len(prompt) if stem is None else stem
        with self.store.mutex, self.store.transaction() as connection:
            if not self._prompts.add(connection, prompt, length):
                return None
            query = "UPDATE audit_promise SET admitted = admitted + 1 WHERE id = ? RETURNING admitted"
            run = connection.execute(query, [self.promise]).fetchone()[0] - 1
            audited = self._keys.uniform(run, _COIN) < self.share
            if audited:
                connection.execute("INSERT INTO audit VALUES (?, ?, NULL)", [self.promise, run])
                self._open.append(run)
            return Place(run, audited)

    def end(self, place: Place, *, failed: bool) -> None:
        """An audited run is over. It is taken in once all audits before it are."""
        with self.store.mutex:
            was = self.evidence.alarm
            if place.run not in self._open:
                return  # it counts as a failure already
            with self.store.transaction() as connection:
                query = "UPDATE audit SET failed = ? WHERE promise = ? AND run = ?"
                connection.execute(query, [int(failed), self.promise, place.run])
            self._ended[place.run] = failed
            while len(self._ended) > MOST_WAITING and self._open[0] not in self._ended:
                self._left(self._open[0])
            while self._open and self._open[0] in self._ended:
                self.evidence.update(self._ended.pop(self._open.popleft()))
            if self.evidence.alarm and not was:
                LOG.warning("%s; exits are decided and not made from now on", self.summary().why)

    def _left(self, run: int) -> None:
        """An audit that runs for so long counts as a failure."""
        with self.store.transaction() as connection:
            query = "UPDATE audit SET failed = 1 WHERE promise = ? AND run = ?"
            connection.execute(query, [self.promise, run])
        self._ended[run] = True

    def count(self, **more: float) -> None:
        """Add to the counts of a run, by the names of `AuditSummary`; no statistic reads them."""
        sets = ", ".join(f"{name} = {name} + ?" for name in more)
        with self.store.transaction() as connection:
            connection.execute(f"UPDATE audit_promise SET {sets} WHERE id = ?", [*more.values(), self.promise])

    def verdict(self, *, right: bool, exited: bool) -> None:
        """Count what a user says of a run; it may raise the users' warning, and nothing else."""
        kind = f"{'exited' if exited else 'full'}_{'right' if right else 'wrong'}"
        with self.store.mutex, self.store.transaction() as connection:
            query = f"UPDATE audit_promise SET {kind} = {kind} + 1 WHERE id = ? RETURNING {', '.join(_VERDICTS)}"
            (counts,) = connection.execute(query, [self.promise]).fetchall()
            if self.users_warn or not exits_fare_worse(*counts):
                return
            connection.execute("UPDATE audit_promise SET users_warn = 1 WHERE id = ?", [self.promise])
            self.users_warn = True
        LOG.warning("%s", self.summary().said)

    @property
    def alarm(self) -> bool:
        """Whether the alarm has been raised; it stays."""
        return self.evidence.alarm

    def summary(self) -> AuditSummary:
        """What is known now."""
        with self.store.mutex:
            query = f"SELECT {_COUNTS} FROM audit_promise WHERE id = ?"
            (counts,) = self.store.read(query, [self.promise])
            return _summary(self.promise, self.mode, self.share, self.evidence, len(self._open), counts)


def _insert(store: Store, values: Sequence[Any]) -> int:
    """The number of a new promise. values: its name, mode, risk, level, share and seed."""
    columns = "name, mode, risk, level, share, seed"
    with store.transaction() as connection:
        made = connection.execute(f"INSERT INTO audit_promise ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)
        return int(made.lastrowid or 0)


def summaries(store: Store) -> list[AuditSummary]:
    """What is known of each promise of a store, in their order; it may be read while another process owns it."""
    found = []
    for number, mode, risk, level, share, *counts in store.read(
        f"SELECT id, mode, risk, level, share, {_COUNTS} FROM audit_promise ORDER BY id"
    ):
        evidence, waiting = Evidence(float(str(risk)), float(str(level))), 0
        for (failed,) in store.read("SELECT failed FROM audit WHERE promise = ? ORDER BY run", [number]):
            waiting += failed is None or waiting > 0
            if not waiting:
                evidence.update(bool(failed))
        found.append(_summary(int(str(number)), str(mode), float(str(share)), evidence, waiting, counts))
    return found


def _summary(promise: int, mode: str, share: float, now: Evidence, waiting: int, counts: Sequence[Any]) -> AuditSummary:
    """What is known, from the evidence and the row of counts."""
    said = (now.audits, now.failures, waiting, now.wealth, now.highest, now.alarm)
    row = (*counts[1:-1], bool(counts[-1]))
    return AuditSummary(promise, mode, now.risk, now.level, share, counts[0], *said, *row)
