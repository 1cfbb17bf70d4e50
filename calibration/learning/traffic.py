"""A store of one's own traffic: which runs count, in which role, and what is known of each.

A run gets its number when it is admitted, and its number decides its role: the first ones of a promise fit, all later
ones calibrate. What a run wrote is kept until it is labelled, and not longer. A calibration run that was left before
its end can't be labelled. It counts as one that fails at any threshold, or long runs would drop out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasonctl.controller import ControllerError
from reasonctl.controller.audits import SCHEMA as AUDITS
from reasonctl.controller.audits import Prompts, Store
from reasonctl.controller.core import Fields, parse

from .clients import CLIENT_SHARE, has_its_share, one_has_too_many, runs_with

VERSION = 2
"""The kind of a store that learns."""
SCHEMA = (
    *AUDITS,
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE learned (id INTEGER PRIMARY KEY, fit INTEGER NOT NULL, admitted INTEGER NOT NULL DEFAULT 0, "
    "plan TEXT, promised INTEGER, trial_tokens INTEGER NOT NULL DEFAULT 0, seen INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE own_run (promise INTEGER NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, "
    "client TEXT NOT NULL, born REAL NOT NULL, prompt BLOB, tokens BLOB, record TEXT, "
    "PRIMARY KEY (promise, number)) WITHOUT ROWID",
)
"""Its tables."""
MOST_BYTES = 1 << 28
"""Largest store by default."""
MOST_SECONDS = 14 * 24 * 3600.0
"""A run that isn't labelled after so long is left out by default."""


@dataclass(frozen=True)
class OwnRun:
    """A run of the traffic that has ended and isn't labelled."""

    number: int
    """Its number in its promise."""
    prompt: tuple[int, ...]
    """Its prompt's tokens."""
    tokens: tuple[int, ...]
    """What it wrote, without the end of sequence."""


@dataclass(frozen=True)
class Stage:
    """How far the newest promise is."""

    promise: int
    """Its number, from 1."""
    fit: int
    """Its first so many runs fit."""
    admitted: int
    """Its runs so far."""
    plan: str | None
    """What its fitting runs decided, as JSON; None: they don't suffice yet."""
    promised: int | None
    """Calibration runs that it stands on; None: it isn't made yet."""
    trial_tokens: int
    """Tokens that its trials took."""
    seen: int
    """Runs of the traffic since it began, those that don't count included."""


class Traffic:
    """The runs of a store."""

    def __init__(
        self, store: Store, *, fit: int, client_share: float = CLIENT_SHARE, now: Callable[[], float] = time.time
    ) -> None:
        """Go on with a store. Runs that an ended process left open are left.

        Args:
            store: Holds the tables of `SCHEMA`.
            fit: The first so many runs of a promise fit.
            client_share: Largest share of a promise's runs that one client may have; 1: no limit.
            now: Tells the time, in seconds since 1970.
        """
        self.store = store
        self.client_share = client_share
        self._now = now
        self.prompts = Prompts(store)
        with store.transaction() as connection:
            connection.execute("UPDATE own_run SET state = 'left', prompt = NULL, tokens = NULL WHERE state = 'open'")
            connection.execute("INSERT OR IGNORE INTO learned (id, fit) VALUES (1, ?)", [fit])

    # Settings

    def settings(self, name: str) -> dict[str, Any] | None:
        """What was fixed for the store: `asked` by the user, by the first `call` that counts, or by the `model`."""
        found = self.store.read("SELECT value FROM setting WHERE name = ?", [name])
        where = f"the store's settings {name!r}"
        return Fields.of(parse(str(found[0][0]), where), where).values if found else None

    def fix(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Fix settings, once; what is fixed now."""
        with self.store.transaction() as connection:
            value = json.dumps(settings, sort_keys=True)
            connection.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", [name, value])
        return self.settings(name) or settings

    # The newest promise

    def stage(self) -> Stage:
        """How far the newest promise is."""
        query = "SELECT id, fit, admitted, plan, promised, trial_tokens, seen FROM learned ORDER BY id DESC LIMIT 1"
        (row,) = self.store.read(query)
        values: list[Any] = list(row)
        return Stage(*values)

    def saw(self) -> None:
        """A run of the traffic began, whether it counts or not."""
        with self.store.transaction() as connection:
            connection.execute("UPDATE learned SET seen = seen + 1 WHERE id = (SELECT MAX(id) FROM learned)")

    def decide(self, stage: Stage, plan: str) -> None:
        """The fitting runs have decided; their states aren't needed any more."""
        with self.store.transaction() as connection:
            connection.execute("UPDATE learned SET plan = ? WHERE id = ? AND plan IS NULL", [plan, stage.promise])
            clear = "UPDATE own_run SET record = NULL WHERE promise = ? AND number < ?"
            connection.execute(clear, [stage.promise, stage.fit])

    def fit_more(self, stage: Stage) -> None:
        """The fitting runs don't suffice: as many again fit. No run has been tried as a calibration run yet."""
        with self.store.transaction() as connection:
            query = "UPDATE learned SET fit = ? WHERE id = ? AND plan IS NULL"
            connection.execute(query, [2 * stage.fit, stage.promise])

    def promise(self, stage: Stage, runs: int) -> None:
        """The promise stands on so many calibration runs; what later ones wrote is deleted."""
        with self.store.transaction() as connection:
            connection.execute("UPDATE learned SET promised = ? WHERE id = ?", [runs, stage.promise])
            query = "DELETE FROM own_run WHERE promise = ? AND number >= ?"
            connection.execute(query, [stage.promise, stage.fit + runs])

    def begin_again(self, stage: Stage, fit: int) -> None:
        """After an alarm: a new promise, from runs that are admitted from now on. Of the old one only counts stay."""
        with self.store.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO learned (id, fit) VALUES (?, ?)", [stage.promise + 1, fit])
            connection.execute("DELETE FROM own_run WHERE promise = ?", [stage.promise])
            connection.execute("UPDATE learned SET plan = NULL WHERE id = ?", [stage.promise])

    # Runs

    def admit(self, stage: Stage, prompt: Sequence[int], stem: int, client: str, first: int) -> int | None:
        """Give a run its number, and with it its role; None for one that doesn't count.

        A client that has its share of the runs that this one would be used with waits for others.

        Args:
            stage: The newest promise, which has none yet.
            prompt: The prompt's tokens.
            stem: How many of them the next turn of the conversation would begin with.
            client: Who asks; empty where clients have no names.
            first: Calibration runs at the promise's first analysis.
        """
        with self.store.mutex, self.store.transaction() as connection:
            query = "SELECT admitted, fit FROM learned WHERE id = ?"
            admitted, fit = connection.execute(query, [stage.promise]).fetchone()
            start, end = runs_with(admitted, fit, first)
            name = self.prompts.keyed(client) if client else ""
            full = has_its_share(name, self.by_client(stage, start, end), self.client_share, end - start)
            if full or not self.prompts.add(connection, prompt, stem):
                return None
            connection.execute("UPDATE learned SET admitted = admitted + 1 WHERE id = ?", [stage.promise])
            values = [stage.promise, admitted, name, self._now()]
            connection.execute("INSERT INTO own_run VALUES (?, ?, 'open', ?, ?, NULL, NULL, NULL)", values)
            return int(admitted)

    def end(self, promise: int, number: int, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """A run has ended by itself: what it wrote is kept until it is labelled."""
        values = [_packed(prompt), _packed(tokens), promise, number]
        with self.store.transaction() as connection:
            query = "UPDATE own_run SET state = 'ended', prompt = ?, tokens = ? "
            connection.execute(query + "WHERE promise = ? AND number = ? AND state = 'open'", values)

    def leave(self, promise: int, number: int) -> None:
        """A run was left, or can't be labelled."""
        with self.store.transaction() as connection:
            query = "UPDATE own_run SET state = 'left', prompt = NULL, tokens = NULL WHERE promise = ? AND number = ?"
            connection.execute(query, [promise, number])

    def label(self, promise: int, number: int, record: str, tokens: int, *, keep: bool) -> None:
        """A run is labelled. What it wrote is deleted unless it is to be kept.

        Args:
            promise: Its promise.
            number: Its number.
            record: What was found, as JSON.
            tokens: Tokens that its trials took.
            keep: Keep what it wrote.
        """
        texts = "" if keep else ", prompt = NULL, tokens = NULL"
        with self.store.transaction() as connection:
            query = f"UPDATE own_run SET state = 'labelled', record = ?{texts} WHERE promise = ? AND number = ? "
            done = connection.execute(query + "AND state = 'ended'", [record, promise, number])
            if done.rowcount:
                connection.execute("UPDATE learned SET trial_tokens = trial_tokens + ? WHERE id = ?", [tokens, promise])

    def to_label(self, stage: Stage, before: int | None = None) -> OwnRun | None:
        """The first run that has ended and isn't labelled. before: only of the numbers below."""
        query = "SELECT number, prompt, tokens FROM own_run WHERE promise = ? AND state = 'ended' AND number < ? "
        rows = self.store.read(
            query + "ORDER BY number LIMIT 1", [stage.promise, 1 << 62 if before is None else before]
        )
        if not rows:
            return None
        number, prompt, tokens = rows[0]
        return OwnRun(int(str(number)), _unpacked(prompt), _unpacked(tokens))

    def records(self, stage: Stage, first: int, last: int) -> list[str | None] | None:
        """Records of the runs from one number up to another, None for one that was left.

        None in place of the list: some of them run, wait for their labels or aren't admitted yet.
        """
        which, values = "FROM own_run WHERE promise = ? AND number >= ? AND number < ?", [stage.promise, first, last]
        done = f"SELECT COUNT(*) {which} AND state IN ('left', 'labelled')"  # records are large, so they are read once
        if int(str(self.store.read(done, values)[0][0])) < last - first:
            return None
        rows = self.store.read(f"SELECT state, record {which} ORDER BY number", values)
        return [None if state == "left" else str(record) for state, record in rows]

    def by_client(self, stage: Stage, first: int, last: int) -> dict[str, int]:
        """How many of the runs from one number up to another each client has; "" has those of nobody in particular."""
        query = "SELECT client, COUNT(*) FROM own_run WHERE promise = ? AND number >= ? AND number < ? GROUP BY client"
        return {str(name): int(str(n)) for name, n in self.store.read(query, [stage.promise, first, last])}

    def one_steers(self, stage: Stage, first: int, last: int) -> bool:
        """Whether one client has more than its share of the runs from one number up to another."""
        return one_has_too_many(self.by_client(stage, first, last), self.client_share, last - first)

    def forget_old(self, seconds: float) -> None:
        """Leave out runs that wait for their labels for so long."""
        with self.store.transaction() as connection:
            query = "UPDATE own_run SET state = 'left', prompt = NULL, tokens = NULL WHERE state = 'ended' AND born < ?"
            connection.execute(query, [self._now() - seconds])

    @property
    def full(self) -> bool:
        """Whether the store has no room for another run."""
        used = int(str(self.store.read("PRAGMA page_count")[0][0]))
        free = int(str(self.store.read("PRAGMA freelist_count")[0][0]))
        most = int(str(self.store.read("PRAGMA max_page_count")[0][0]))
        return used - free > 0.9 * most


def open_store(path: str | Path, *, read_only: bool = False, most_bytes: int = MOST_BYTES) -> Store:
    """The store of a file. Raises ControllerError as `Store` does."""
    return Store(path, SCHEMA, version=VERSION, read_only=read_only, most_bytes=most_bytes)


def _packed(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype="<u4").tobytes()


def _unpacked(value: object) -> tuple[int, ...]:
    if not isinstance(value, bytes) or len(value) % 4:
        raise ControllerError("the store holds a run whose tokens are broken; begin a new one")
    return tuple(np.frombuffer(value, dtype="<u4").tolist())
