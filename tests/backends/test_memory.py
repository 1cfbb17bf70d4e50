"""What the system says of memory: what is free, by machine and control group, and what this process holds."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends import memory


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group's folder, on a machine with 8,000 KiB."""
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\n")
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    return tmp_path


def limited(group: Path, most: str, used: int, stat: str = "") -> int | None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(stat)
    return memory.free_memory()


def test_the_smaller_of_machine_and_group_is_free(group: Path) -> None:
    assert memory.free_memory() == 8000 * 1024, "no group says anything"
    assert limited(group, "max", 100) == 8000 * 1024
    assert limited(group, "5000", 2000) == 3000 and limited(group, "5000", 6000) == 0
    assert limited(group, str(1 << 40), 0) == 8000 * 1024


def test_pages_of_files_give_way(group: Path) -> None:
    assert limited(group, "5000", 4900, "anon 100\nfile 4800\ninactive_file 1500\nactive_file 3000\n") == 4600


def test_what_nobody_says_is_unknown(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (group / "meminfo").unlink()
    assert memory.free_memory() is None
    monkeypatch.setattr(memory, "_PROCESS", group / "nowhere")
    assert memory.own_memory() == 0


def test_what_this_process_takes_is_its_own_and_a_mapped_file_is_not(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system doesn't say")
    size = 64 << 20
    np.ones(size, np.uint8).tofile(tmp_path / "weights")
    before = memory.own_memory()
    mapped = np.memmap(tmp_path / "weights", np.uint8, "r")
    assert mapped.sum(dtype=int) == size and memory.own_memory() - before < size // 8
    # Pages of its own: an array may get memory that the process holds already.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)
        taken = memory.own_memory() - before
    assert 7 * size // 8 < taken < 9 * size // 8
