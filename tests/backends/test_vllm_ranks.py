"""Tensor parallel: processes whose scores differ by rounding decide alike, as only the first one's count."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

THRESHOLD = 0.5
PLANTED = [THRESHOLD, np.nextafter(THRESHOLD, 1), np.nextafter(THRESHOLD, 0), THRESHOLD + 1e-12, 0.1, 0.9]
"""Scores of the first process; the other one has rounded each of them to the threshold's other side."""


def decide(rank, file, queue):
    """One process: its own scores, and what it decides by those that it is given."""
    import torch

    from reasonctl.backends.vllm.captured import shared_scores

    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    scores = np.array(PLANTED)
    own = scores if rank == 0 else 2 * THRESHOLD - scores + 1e-15
    group = SimpleNamespace(world_size=2, ranks=[0, 1], cpu_group=None)
    queue.put((rank, (own > THRESHOLD).tolist(), (shared_scores(own, group) > THRESHOLD).tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_scores_planted_at_the_threshold_decide_alike(tmp_path):
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=decide, args=(rank, tmp_path / "meet", queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    (_, first, one), (_, second, two) = found
    assert one == two == first and first != second


def test_one_process_asks_nobody():
    captured = pytest.importorskip("reasonctl.backends.vllm.captured")
    scores = np.array(PLANTED)
    assert captured.shared_scores(scores, SimpleNamespace(world_size=1)) is scores
