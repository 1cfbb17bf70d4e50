"""What `--probe` names: a file, a packed folder, or a repository; the hub is played by functions."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from reasonctl.backends import BUNDLED_PROBE
from reasonctl.controller import ControllerError
from reasonctl.probes import load_exit
from reasonctl.probes.files import PROBE_NAME, find_probe, hub

REPOSITORY = "someone/a-probe"


def raising(kind: type[Exception]):
    def download(*_: object, **__: object) -> str:
        raise kind.__new__(kind)

    return download


def test_a_file_and_a_folder_need_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(AssertionError))
    assert find_probe(BUNDLED_PROBE) == Path(BUNDLED_PROBE)
    shutil.copy(BUNDLED_PROBE, tmp_path / PROBE_NAME)
    assert load_exit(tmp_path).card == load_exit(BUNDLED_PROBE).card
    with pytest.raises(ControllerError, match=r"the folder .* holds no probe\.safetensors"):
        find_probe(tmp_path.parent)
    for name in ("none/my.probe.safetensors", "a/b/c", "plain", "../up/x", "a//b"):
        with pytest.raises(ControllerError, match="no such file"):
            load_exit(name)


def test_a_repository_is_downloaded_at_its_revision_and_checked(tmp_path, monkeypatch):
    asked = []

    def download(repository: str, name: str, **how: object) -> str:
        asked.append((repository, name, how["revision"]))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    shutil.copy(BUNDLED_PROBE, tmp_path / PROBE_NAME)
    assert load_exit(REPOSITORY, risk=0.1).why == load_exit(BUNDLED_PROBE, risk=0.1).why
    load_exit(f"{REPOSITORY}@v1")
    assert asked == [(REPOSITORY, PROBE_NAME, None), (REPOSITORY, PROBE_NAME, "v1")]
    data = bytearray((tmp_path / PROBE_NAME).read_bytes())
    data[-5] ^= 1
    (tmp_path / PROBE_NAME).write_bytes(data)
    with pytest.raises(ControllerError, match="hash mismatch"):
        load_exit(REPOSITORY)
    monkeypatch.setattr(hub, "MOST_BYTES", 10)
    with pytest.raises(ControllerError, match="larger than 10 bytes"):
        load_exit(REPOSITORY)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.LocalEntryNotFoundError, "the hub can't be reached, and nothing is kept"),
        (errors.OfflineModeIsEnabled, "the hub can't be reached, and nothing is kept"),
        (errors.RepositoryNotFoundError, "no repository 'someone/a-probe'"),
        (errors.GatedRepoError, "is gated; log in"),
        (errors.RevisionNotFoundError, "has no revision"),
        (errors.RemoteEntryNotFoundError, "holds no probe.safetensors"),
        (ConnectionError, "try again later"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_one_line_with_the_remedy(kind, words, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(kind))
    with pytest.raises(ControllerError, match=words) as error:
        find_probe(REPOSITORY)
    assert "\n" not in str(error.value)
