"""Adapt tiny to a masked model on tiny's written steps, by a fixed schedule of steps, as DiffuCoder was from Qwen2.5.

Owns the objective (LLaDA, equation 3: each document masked at a rate t of its own, cross-entropy over the masks times
1/t), checkpoints that a killed run goes on from, and the files. What a document looks like is traces.py.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from export import EOS, SPECIALS, vocabulary
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from traces import Law, write_trace
from train import PEAK_RATE, learning_rate, piece_ids

from reasonctl.backends.hf.masked.module import MaskedConfig, MaskedModel
from reasonctl.backends.hf.masked.shapes import DREAM, names_in
from reasonctl.calibration.tasks.tiny import training_problem

CANVAS = 32
"""Positions of an answer: one line of steps and its answer are at most 30 tokens; the rest is `<eos>`."""
SLIPS = Law(slip=0.1)
"""One '-' in ten is misread, as in the first stage of tiny's own curriculum."""
LEAST_RATE = 0.02
"""Of masking: below it 1/t makes one document weigh more than a batch."""
MASK = "<mask>"
PEAK_SHARE = 0.5
"""Of tiny's own peak rate: the weights are no random ones."""


def build_config() -> MaskedConfig:
    """Dream's shape at tiny's size: four blocks, width 128, 0.9 M parameters; shifted, as tiny's rows are."""
    return MaskedConfig(
        vocabulary=len(vocabulary()[0]) + 1,
        width=128,
        depth=4,
        heads=4,
        key_heads=4,
        feed_forward=384,
        mask=len(vocabulary()[0]),
        eos=(SPECIALS.index(EOS),),
        context=1024,
        bias=True,
        tied=True,
        shifted=True,
    )


def from_tiny(folder: Path) -> MaskedModel:
    """A masked model with tiny's weights: the mask's embedding is the mean of all, the biases are zero."""
    model = MaskedModel(build_config())
    theirs, state = load_file(folder / "model.safetensors"), model.state_dict()
    for ours, name in names_in(DREAM, model.config):
        if name in theirs and ours != "embedding.weight":
            state[ours].copy_(theirs[name])
        elif ours.endswith(".bias"):
            state[ours].zero_()
    table = theirs["model.embed_tokens.weight"]
    state["embedding.weight"].copy_(torch.cat([table, table.mean(0, keepdim=True)]))
    return model


def document(rng: random.Random, ids: dict[str, int]) -> tuple[list[int], list[float], int]:
    """One document: ids and loss weights of prompt and canvas, and the prompt's length."""
    trace = write_trace(training_problem(rng), rng, law=SLIPS, max_checks=0)
    pad = trace.prompt + CANVAS - len(trace.pieces)
    tokens = [ids[piece] for piece, _ in trace.pieces] + [ids[EOS]] * pad
    weights = [max(weight, 1.0) for _, weight in trace.pieces[trace.prompt :]]
    return tokens, [0.0] * trace.prompt + weights + [0.5] * pad, trace.prompt


def batch(seed: int, step: int, rows: int, ids: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, loss weights, masking rates) of one step: rows of equal length, so that nothing is padded.

    A function of seed and step alone, so that a run that was killed goes on as if it had not been.
    """
    rng = random.Random(f"masked {seed} {step}")
    wanted, group = None, []
    while len(group) < rows:
        tokens, weights, prompt = document(rng, ids)
        wanted = wanted or prompt
        if prompt == wanted:
            group.append((tokens, weights))
    first = rng.random()
    rates = torch.tensor([(first + row / rows) % 1 for row in range(rows)])  # evenly spread: less variance of 1/t
    return torch.tensor([one for one, _ in group]), torch.tensor([two for _, two in group]), rates


def masked_loss(model: MaskedModel, tokens: Tensor, weights: Tensor, rates: Tensor) -> Tensor:
    """The weighted cross-entropy over masked positions times 1/t, divided by the canvas' weight."""
    rates = LEAST_RATE + (1 - LEAST_RATE) * rates[:, None]
    hidden = (torch.rand(tokens.shape) < rates) & (weights > 0)
    shown = torch.where(hidden, model.config.mask, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(shown).logits
    losses = functional.cross_entropy(logits[hidden].float(), tokens[hidden], reduction="none")
    return (losses * (weights / rates)[hidden]).sum() / weights.sum()


@torch.no_grad()
def diagnose(model: MaskedModel, ids: dict[str, int]) -> str:
    """Mean probability of the right token on fixed documents: all masked, half masked, and the answer's value alone."""
    tokens, weights, _ = batch(1 << 20, 0, 64, ids)
    canvas = weights > 0
    torch_rng = torch.Generator().manual_seed(0)
    half = canvas & (torch.rand(tokens.shape, generator=torch_rng) < 0.5)
    answer = torch.zeros_like(canvas)
    for row, line in enumerate(tokens.tolist()):
        answer[row, line.index(ids["."]) - 1] = True
    found = []
    for name, hidden in (("all", canvas), ("half", half), ("answer", answer)):
        chances = model(torch.where(hidden, model.config.mask, tokens)).logits.softmax(-1)
        known = chances.gather(-1, tokens[..., None])[..., 0]
        found.append(f"{name} {float(known[hidden].mean()):.3f}")
    return " ".join(found)


def train(arguments: argparse.Namespace) -> None:
    """Run the schedule; every report leaves a checkpoint, and a checkpoint that is there is gone on from."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    model, ids = from_tiny(arguments.start), piece_ids()
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
    first, spent = 0, 0.0
    if arguments.out.exists():
        saved = torch.load(arguments.out, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, spent = saved["step"], saved["seconds"]
    started, average = time.monotonic() - spent, 0.0
    for step in range(first, arguments.steps):
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 0, arguments.steps) * PEAK_SHARE
        loss = masked_loss(model, *batch(arguments.seed, step, arguments.rows, ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = 0.98 * average + 0.02 * loss.item() if average else loss.item()
        done = step + 1
        if done % arguments.report_every == 0 or done == arguments.steps:
            seconds = time.monotonic() - started
            print(f"step {done} {seconds:.0f} s loss {average:.4f} {diagnose(model, ids)}", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done, "seconds": seconds}
            scratch = arguments.out.with_suffix(".part")
            torch.save(state, scratch)
            scratch.replace(arguments.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400, help="length of the schedule")
    parser.add_argument("--start", type=Path, default=Path("backends/tiny"), help="folder of the weights to start from")
    parser.add_argument("--rows", type=int, default=32, help="documents of a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/tiny-masked.pt"))
    parser.add_argument("--report-every", type=int, default=100)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    train(arguments)


if __name__ == "__main__":
    main()
