"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured costs go to a folder of this session, and so do those of its processes: never to the user's cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REASONCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
