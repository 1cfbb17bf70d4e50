"""Whatever a file or a text holds: it is read, or refused in one line; nothing crashes, hangs or prints pages."""

from __future__ import annotations

import pytest

from support.file_kinds import KINDS
from support.fuzz import refused

FEW, MANY = 300, 20_000
SECONDS = 20.0
"""Longest that one input may take: comparing answers starts a process of its own, once."""


def counted(kind, folder, n, seed):
    """(refused, read) inputs of a kind."""
    found = [refused(read, seconds=SECONDS) for read in kind(folder, n, seed)]
    return sum(found), len(found) - sum(found)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_broken_one_is_read_or_refused_in_one_line(kind, tmp_path):
    no, yes = counted(kind, tmp_path, FEW, 1)
    assert no + yes == FEW and no > FEW // 4 and yes > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_many_broken_ones(kind, tmp_path):
    assert sum(counted(kind, tmp_path, MANY, 2)) == MANY
