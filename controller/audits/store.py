"""One SQLite file of ours: private, written whole or not at all, owned by one process at a time.

A transaction is on disk when it ends (`synchronous = FULL`), so a killed process leaves what it had finished. The
owner holds a lock on a file next to it; others may read meanwhile. Its tables must be exactly those that are expected:
a file from elsewhere, with views or triggers of its own, is refused.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from ..core.errors import ControllerError

if sys.platform != "win32":
    import fcntl

APPLICATION = 0x7263746C
"""SQLite's application_id of our files."""
_SECONDS = 10.0
"""Longest wait for a reader or a writer."""


class Store:
    """The file, or a database in memory, which ends with the process."""

    def __init__(
        self,
        path: str | Path | None,
        schema: Sequence[str],
        *,
        version: int,
        read_only: bool = False,
        most_bytes: int = 1 << 30,
    ) -> None:
        """Open the file; it is made, readable for its owner alone, where there is none.

        Args:
            path: The file. None: a database in memory.
            schema: The CREATE statements of its tables and indexes.
            version: What kind of file it is.
            read_only: Change nothing, and don't ask for the lock; the file must be there.
            most_bytes: Largest size that it may have.

        Raises:
            ControllerError: It is of another kind or too large, another process owns it, or it can't be opened.
        """
        self.path = None if path is None else Path(path)
        self.mutex = threading.RLock()
        """Held by the thread that uses it."""
        self._lock: int | None = None
        self._read_only = read_only
        with self._named():
            if self.path is not None:
                self._prepare(self.path, most_bytes)
            try:
                self._open(schema, version, most_bytes)
            except BaseException:
                self._unlock()
                raise

    def _prepare(self, path: Path, most_bytes: int) -> None:
        """Make the file where there is none, and take the lock."""
        if path.is_dir() or (self._read_only and not path.exists()):
            raise ControllerError(f"{path} is {'a folder' if path.is_dir() else 'no file'}; give the file of a store")
        if path.exists() and path.stat().st_size > most_bytes:
            raise ControllerError(f"{path} is larger than {most_bytes:,} bytes; move it away, and begin a new one")
        if self._read_only:
            return
        self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if sys.platform != "win32":
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                self._lock = None
                raise ControllerError(f"another process uses {path}; end it, or give another file") from None
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    def _open(self, schema: Sequence[str], version: int, most_bytes: int) -> None:
        mode = "ro" if self._read_only else "rw"
        name = ":memory:" if self.path is None else f"file:{quote(str(self.path.resolve()))}?mode={mode}"
        self.connection = sqlite3.connect(
            name, uri=self.path is not None, isolation_level=None, check_same_thread=False, timeout=_SECONDS
        )
        try:
            run = self.connection.execute
            run("PRAGMA trusted_schema = OFF")
            tables = {sql for (sql,) in run("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
            if not tables and not self._read_only:
                run("PRAGMA journal_mode = WAL")
                run("PRAGMA synchronous = FULL")
                self._create(schema, version)
                tables = set(schema)
            kind = (run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0])
            if tables != set(schema) or kind != (APPLICATION, version):
                raise ControllerError(f"{self.path} is no store of this kind and version; give another file")
            run("PRAGMA synchronous = FULL")
            size = run("PRAGMA page_size").fetchone()[0]
            run(f"PRAGMA max_page_count = {most_bytes // size}")
        except BaseException:
            self.connection.close()
            raise

    def _create(self, schema: Sequence[str], version: int) -> None:
        with self.transaction() as connection:
            for statement in schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {version}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, on disk at its end. Raises ControllerError where the file can't be written."""
        with self.mutex, self._named():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """The rows of a query. Raises ControllerError where the file can't be read."""
        with self.mutex, self._named():
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of SQLite, and of the file, as one line with the file's name."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ControllerError(
                f"{self.path or 'a store'} can't be used ({reason!s:.200}); give another file"
            ) from None

    def close(self) -> None:
        """Let another process have it. More than once is harmless."""
        with self.mutex:
            self.connection.close()
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def version_of(path: str | Path) -> int | None:
    """The kind of a store's file; None where it is none of ours.

    Raises:
        ControllerError: There is no such file.
    """
    place = Path(path)
    if not place.is_file():
        raise ControllerError(f"{str(path)!r} is no file; give a store, such as one of ctl serve --audits FILE")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(place.resolve()))}?mode=ro", uri=True)) as connection:
            application, version = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")
            )
    except sqlite3.Error:
        return None
    return version if application == APPLICATION else None
