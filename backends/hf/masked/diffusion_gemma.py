"""DiffusionGemma through its own `generate`, with a budget of forwards and a trace.

Its canvas starts as random tokens instead of masks, and its sampler renoises what it doesn't accept; that loop stays
transformers'. Nothing of the model is replaced: a streamer sees each step's draft, a stopping criterion each canvas.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from reasonctl.controller import ControllerError
from reasonctl.controller.diffusion import UnmaskingTrace


def generate_with_budget(
    model: Any, input_ids: torch.Tensor, *, budget: int, **arguments: Any
) -> tuple[torch.Tensor, list[UnmaskingTrace]]:
    """`model.generate`, never with more than `budget` forwards of the decoder.

    A canvas takes at most `max_denoising_steps`, or the budget if that is less; another canvas begins only if it can
    be finished within the budget.

    Args:
        model: a transformers DiffusionGemma model.
        input_ids: rows x positions: the prompts.
        budget: most denoising steps of the call, at least 1.
        arguments: of `generate`; `streamer` and `stopping_criteria` of your own are called too.

    Returns:
        The sequences that `generate` gave, and a trace for each row. A trace's `order` has for each forward the places
        of the canvas whose token was from then on what it became.

    Raises:
        ControllerError: The budget is less than 1, or the model has no such `generate`.
    """
    if budget < 1:
        raise ControllerError(f"budget is {budget} forwards; it must be at least 1")
    if "DiffusionGemma" not in type(model).__name__ or not hasattr(model, "generate"):
        raise ControllerError(
            f"{type(model).__name__} isn't transformers' DiffusionGemma; load a masked model's folder"
        )
    config = arguments.get("generation_config") or model.generation_config
    steps = arguments.pop("max_denoising_steps", None) or config.max_denoising_steps or budget
    steps = min(steps, budget)
    record = _Record(len(input_ids), arguments.pop("streamer", None))
    criteria = StoppingCriteriaList([*(arguments.pop("stopping_criteria", None) or ()), _Budget(record, budget, steps)])
    out = model.generate(
        input_ids=input_ids, streamer=record, stopping_criteria=criteria, max_denoising_steps=steps, **arguments
    )
    sequences = out if isinstance(out, torch.Tensor) else out.sequences
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return sequences, record.traces(sequences, input_ids.shape[1], set(eos))


class _Record(BaseStreamer):  # type: ignore[misc]  # transformers has no types here
    """Keeps every step's draft, canvas by canvas."""

    def __init__(self, rows: int, inner: Any) -> None:
        self.rows, self.inner = rows, inner
        self.canvases: list[list[torch.Tensor]] = [[]]
        self.prompt_seen = False

    @property
    def forwards(self) -> int:
        """Steps so far."""
        return sum(len(drafts) for drafts in self.canvases)

    def put_draft(self, value: torch.Tensor) -> None:
        """One step's most probable tokens, rows x canvas."""
        self.canvases[-1].append(value.clone())
        if hasattr(self.inner, "put_draft"):
            self.inner.put_draft(value)

    def put(self, value: torch.Tensor) -> None:
        """The prompt, then each finished canvas."""
        if self.prompt_seen:
            self.canvases.append([])
        self.prompt_seen = True
        if self.inner is not None:
            self.inner.put(value)

    def end(self) -> None:
        """The call is over."""
        if self.inner is not None:
            self.inner.end()

    def traces(self, sequences: torch.Tensor, prompt: int, eos: set[int]) -> list[UnmaskingTrace]:
        """What happened in each row."""
        found = []
        for row in range(self.rows):
            trace = UnmaskingTrace(prompt_tokens=prompt, forwards=self.forwards)
            tokens = [int(token) for token in sequences[row, prompt:]]
            end = next((at + 1 for at, token in enumerate(tokens) if token in eos), len(tokens))
            trace.tokens, trace.cost = tokens[:end], end
            trace.finish_reason = "stop" if trace.tokens and trace.tokens[-1] in eos else "length"
            start = 0
            for drafts in filter(None, self.canvases):
                trace.order += _last_changes([draft[row] for draft in drafts], start)
                start += drafts[0].shape[1]
            found.append(trace)
        return found


class _Budget(StoppingCriteria):  # type: ignore[misc]  # transformers has no types here
    """Ends the call where another canvas might pass the budget."""

    def __init__(self, record: _Record, budget: int, steps: int) -> None:
        self.record, self.budget, self.steps = record, budget, steps

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        over = self.record.forwards + self.steps > self.budget
        return torch.full((len(input_ids),), over, dtype=torch.bool, device=input_ids.device)


def _last_changes(drafts: list[torch.Tensor], start: int) -> list[list[int]]:
    """For each step the places whose token was from then on the last one."""
    steps: list[list[int]] = [[] for _ in drafts]
    last = drafts[-1]
    for place in range(len(last)):
        step = len(drafts) - 1
        while step and drafts[step - 1][place] == last[place]:
            step -= 1
        steps[step].append(start + place)
    return steps
