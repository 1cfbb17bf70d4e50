"""Which prompts came before, as keyed hashes: a prompt, or a conversation, counts once."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Sequence

import numpy as np

from .store import Store

MOST_PROMPTS = 1_000_000
"""Prompts that are known; beyond them the oldest are forgotten."""
LEAST_STEM = 8
"""A prompt that begins like an earlier one goes on with its conversation if they share so many tokens."""

PROMPTS = (
    "CREATE TABLE prompt (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, length INTEGER NOT NULL)",
    "CREATE TABLE secret (id INTEGER PRIMARY KEY CHECK (id = 1), key BLOB NOT NULL)",
)
"""The tables of the prompts."""


class Prompts:
    """The prompts of a store. Without its key nobody can say which they are."""

    def __init__(self, store: Store) -> None:
        """store: holds the tables of `PROMPTS`; it gets a key, once."""
        with store.transaction() as connection:
            key = connection.execute("SELECT key FROM secret").fetchone() or (secrets.token_bytes(32),)
            connection.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", key)
        self._key: bytes = key[0]
        self._lengths = {int(str(n)) for (n,) in store.read("SELECT DISTINCT length FROM prompt")}

    def keyed(self, name: str) -> str:
        """A keyed hash of a name, which is the same as long as the store lives."""
        return hashlib.blake2b(name.encode(), key=self._key, digest_size=8).hexdigest()

    def add(self, connection: sqlite3.Connection, prompt: Sequence[int], stem: int) -> bool:
        """Note a prompt, within a transaction; False, and nothing is noted, for one that came before.

        Args:
            connection: The transaction's.
            prompt: Its tokens.
            stem: How many of them the next turn of its conversation would begin with.
        """
        digests = self._digests(prompt, stem)
        known = "SELECT 1 FROM prompt WHERE digest = ?"
        if any(connection.execute(known, [one]).fetchone() for one in digests.values()):
            return False
        connection.execute("INSERT INTO prompt (digest, length) VALUES (?, ?)", [digests[stem], stem])
        connection.execute("DELETE FROM prompt WHERE id <= (SELECT MAX(id) FROM prompt) - ?", [MOST_PROMPTS])
        self._lengths.add(stem)
        return True

    def _digests(self, prompt: Sequence[int], stem: int) -> dict[int, bytes]:
        """Keyed hashes of what a known prompt may share with this one, by length; of its own stem too."""
        digest, last, found = hashlib.blake2b(key=self._key, digest_size=16), 0, dict[int, bytes]()
        tokens = np.asarray(prompt, dtype="<u4")
        for end in sorted({n for n in self._lengths if LEAST_STEM <= n <= len(prompt)} | {stem}):
            digest.update(tokens[last:end].tobytes())
            found[end], last = digest.digest(), end
        return found
