"""Where a probe file is: a path, a folder that was packed, or a repository of the hub that holds such a folder.

A repository holds one probe under a fixed name. What comes from it is checked as any file is (`sealed.py`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from reasonctl.controller import ControllerError

PROBE_NAME = "probe.safetensors"
"""The probe's name in a packed folder."""
CARD_NAME = "README.md"
"""The card's name there, which the hub shows."""
MOST_BYTES = 1 << 30
"""Largest probe file that is taken from the hub."""
_SECONDS = 10
"""Longest wait for the hub's first answer."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?")


def find_probe(name: str | os.PathLike[str]) -> Path:
    """The file that a name stands for; a file or a folder comes before a repository of the same name.

    Args:
        name: A file, a packed folder, or `OWNER/NAME` on the hub, with `@REVISION` for a fixed state of it.

    Raises:
        ControllerError: The folder or the repository holds no probe, or the hub can't be asked.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / PROBE_NAME).is_file():
            raise ControllerError(
                f"the folder {path} holds no {PROBE_NAME}; give one that ctl probe pack wrote, or a file"
            )
        return path / PROBE_NAME
    text = os.fspath(name)
    if path.exists() or text.endswith(".safetensors") or not _HUB_ID.fullmatch(text):
        return path
    repository, _, revision = text.partition("@")
    return _download(repository, revision or None)


def _download(repository: str, revision: str | None) -> Path:
    """The probe of a repository, from the hub or from what was kept of it."""
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:
        raise ControllerError(
            f"there is no file {repository!r}, and a repository of the hub needs huggingface_hub: "
            "pip install huggingface_hub"
        )
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.hf_hub_download(repository, PROBE_NAME, revision=revision, etag_timeout=_SECONDS)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        reason = (
            f"there is no file {repository!r}, the hub can't be reached, and nothing is kept of a repository of that "
            "name; give a file, or ask once with a network (HF_HUB_OFFLINE=1 asks no network)"
        )
    except errors.GatedRepoError:
        reason = f"the repository {repository!r} is gated; log in with: hf auth login"
    except errors.RepositoryNotFoundError:
        reason = f"there is no file and no repository {repository!r}, or it is private; log in with: hf auth login"
    except errors.RevisionNotFoundError:
        reason = f"the repository {repository!r} has no revision {revision!r}; leave it out, or give another"
    except errors.EntryNotFoundError:
        reason = f"the repository {repository!r} holds no {PROBE_NAME}; give one that ctl probe pack made"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = f"the hub didn't give {repository!r} ({str(error).partition(chr(10))[0]:.160}); try again later"
    else:
        path = Path(found)
        if path.stat().st_size <= MOST_BYTES:
            return path
        reason = f"the probe of {repository!r} is larger than {MOST_BYTES:,} bytes; that is no probe file"
    raise ControllerError(reason)
