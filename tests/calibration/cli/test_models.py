"""`ctl models` lists what is there, and a probe under each model that it fits: by vocabulary and shape, not by name."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import huggingface_hub.constants
import pytest

from reasonctl.backends import BUNDLED_PROBE, load_model, tiny_folder
from reasonctl.backends.listing import local_models
from support.ctl import ctl


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a cache of ours, a cache of the hub and a folder with probes; the current folder is empty."""
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    own = tmp_path / "cache" / "models"
    own.mkdir(parents=True)
    shutil.copy(tiny_folder() / "tiny.gguf", own / "renamed.gguf")
    (own / "cut.gguf").write_bytes((tiny_folder() / "tiny.gguf").read_bytes()[:100_000])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def repository(hub: Path, name: str, files: list[Path], *, ref: str | None = "main") -> Path:
    """A repository as the hub's own library leaves it."""
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for i, file in enumerate(files):
        blob = folder / "blobs" / f"{i:064x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    if ref:
        (folder / "refs").mkdir()
        (folder / "refs" / ref).write_text("0" * 40, encoding="utf-8")
    return snapshot


def listed(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    code, out, err = ctl(capfd, "models", "--json", *arguments)
    assert code == 0, err
    return {row["model"]: row for row in json.loads(out.splitlines()[-1])["models"]}


def test_every_place_is_listed(machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub, tiny, hybrid = machine / "hub", tiny_folder(), tiny_folder("tiny-hybrid")
    parts = [hybrid / name for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")]
    repository(hub, "someone/hybrid", parts)
    files = repository(hub, "someone/tiny-GGUF", [tiny / "tiny.gguf"], ref=None)
    repository(hub, "someone/no-model", [tiny / "tokenizer.json"])
    found = listed(capfd)
    cache, gguf = machine / "cache" / "models", str(files / "tiny.gguf")
    assert list(found) == [
        *("tiny", "tiny-hybrid", "tiny-masked", str(cache / "cut.gguf"), str(cache / "renamed.gguf")),
        *("someone/hybrid", gguf),
    ]
    assert [found[name]["where"] for name in ("tiny", str(cache / "cut.gguf"), gguf)] == ["bundled", "cache", "hub"]
    assert found["someone/hybrid"]["format"] == "transformers" and found["tiny-masked"]["format"] == "masked"
    for name in ("tiny", str(cache / "renamed.gguf"), gguf):
        assert found[name]["probes"] == ["the bundled one"] and found[name]["depth"] == 4, found[name]
    for name in ("tiny-hybrid", "tiny-masked", "someone/hybrid", str(cache / "cut.gguf")):
        assert found[name]["probes"] == [], found[name]
    assert "cut off" in str(found[str(cache / "cut.gguf")]["problem"])
    assert found[gguf]["bytes"] == (tiny / "tiny.gguf").stat().st_size


@pytest.mark.slow
def test_a_probe_fits_a_repository_of_transformers(machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Slow: its vocabulary is read by transformers."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    repository(machine / "hub", "someone/tiny", [tiny_folder() / name for name in names])
    assert listed(capfd)["someone/tiny"]["probes"] == ["the bundled one"]


def test_probes_of_a_folder(machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    probes = machine / "probes"
    probes.mkdir()
    shutil.copy(BUNDLED_PROBE, probes / "mine.probe.safetensors")
    shutil.copy(tiny_folder() / "model.safetensors", probes / "weights.safetensors")
    data = bytearray(BUNDLED_PROBE.read_bytes())
    data[-3] ^= 1
    (probes / "changed.probe.safetensors").write_bytes(data)
    code, out, _ = ctl(capfd, "models", "--probes", str(probes))
    assert code == 0 and "probe: the bundled one, mine.probe.safetensors" in out and "weights" not in out
    assert "passed over: " in out and "changed.probe.safetensors: hash mismatch" in out
    code, _, err = ctl(capfd, "models", "--probes", "nowhere")
    assert code == 2 and "--probes is 'nowhere', which is no folder" in err


def test_a_vocabulary_alone_gives_the_models_own_fingerprint(machine: Path) -> None:
    for model in local_models():
        if model.format == "gguf" and not model.problem:
            assert model.fingerprint() == load_model(str(model.path)).fingerprint()


def test_an_empty_machine_has_the_bundled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    started = time.process_time()
    assert [model.where for model in local_models()] == ["bundled"] * 3
    assert time.process_time() - started < 2
