"""What the worker hands to the logits processor of the same process in each step. vLLM makes both, by their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class Captured:
    """The hidden states of one step, and the requests that have ended before it."""

    def __init__(self) -> None:
        self.blocks: tuple[int, ...] = ()
        """The blocks whose outputs are captured, ascending."""
        self.runner: Any = None
        """vLLM's model runner of this process. None: no worker of ours was started."""
        self.states: tuple[Any, ...] = ()
        """By block: a tensor of shape (tokens of the step, width). They are valid during the step only."""
        self.batch: Any = None
        """The step's batch, as runner V2 describes it; None with runner V1."""
        self.records = ""
        """The folder into which this process writes what a recorder sees. Empty: it doesn't write."""
        self._finished: list[str] = []

    def begin(self, state: Any) -> None:
        """Take the states of a forward whose tokens are sampled next; state: the runner's `ExecuteModelState`."""
        self.states = () if state is None or not self.blocks else tuple(state.aux_hidden_states or ())
        self.batch = None if state is None else state._asdict().get("input_batch")

    def end(self) -> None:
        """The step is over."""
        self.states, self.batch = (), None

    def finish(self, names: Iterable[str]) -> None:
        """Requests have ended or were aborted."""
        self._finished.extend(names)

    def take_finished(self) -> list[str]:
        """Those that have ended since this was asked last."""
        names, self._finished = self._finished, []
        return names

    def last_rows(self, n: int) -> npt.NDArray[np.int64]:
        """Index of each request's last token among the step's tokens, in the order of the batch. Shape (n,)."""
        starts = self.runner.query_start_loc.np if self.batch is None else self.batch.query_start_loc_np
        return np.asarray(starts[1 : n + 1], dtype=np.int64) - 1

    def hidden(self, rows: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.float32]]:
        """The states of some rows by block, each of shape (rows, width): one transfer for all of them."""
        index = torch.as_tensor(rows, device=self.states[0].device)
        picked = torch.cat([state.index_select(0, index) for state in self.states], dim=-1)
        flat = picked.float().cpu().numpy()
        width = flat.shape[1] // len(self.blocks)
        return {block: flat[:, i * width : (i + 1) * width] for i, block in enumerate(self.blocks)}


def shared_scores(scores: npt.NDArray[np.float64], group: Any) -> npt.NDArray[np.float64]:
    """The scores of an engine's first process. All have asked about the same rows, and may have rounded otherwise.

    Args:
        scores: This process's. Shape (rows,).
        group: vLLM's group of the processes that share the model's tensors.
    """
    if group.world_size == 1:
        return scores
    values = torch.from_numpy(scores.copy())
    torch.distributed.broadcast(values, src=group.ranks[0], group=group.cpu_group)
    return np.asarray(values.numpy())


CAPTURED = Captured()
"""This process's."""
