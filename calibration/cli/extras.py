"""Which extra of reasonctl installs a library."""

from __future__ import annotations


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """One line that names the extra of the missing library; None if no extra of ours brings it."""
    from reasonctl.backends.extras import missing_line

    return missing_line(error)
