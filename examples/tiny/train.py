"""Train the bundled reasoner from scratch on generated traces, by a fixed schedule of steps.

Owns the curriculum, the optimiser and checkpoints; what a document looks like is traces.py, the files are export.py.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from export import ARCHITECTURES, build_model, build_tokenizer
from torch.nn import functional
from traces import CONFIRMATIONS, Law, Trace, write_trace
from transformers import AttentionInterface, PreTrainedModel

from reasonctl.calibration.tasks.tiny import training_problem

POOL_BATCHES = 16  # documents are sorted by length within a pool, so that little is padded
PEAK_RATE, FINAL_SHARE, WARMUP = 3e-3, 0.02, 100
ATTENTION_BLOCK = 256
MAX_LINES = 18  # a rare endless trace costs more to train on than it teaches


@dataclass(frozen=True)
class Stage:
    """A part of the schedule: until `end` (share of all steps), `full` of the documents run to their own end.

    The others are closed after a number of re-checks between `checks[0]` and `checks[1]`.
    """

    end: float
    full: float
    checks: tuple[int, int]
    law: Law


CAREFUL = replace(Law(), slip=0.25, care=(0.8, 0.75, 0.7), digit_care=0.01, false_alarm=0.06, new_slip=0.05)
CURRICULUM = (
    Stage(end=0.13, full=0.0, checks=(0, 0), law=replace(Law(), slip=0.1)),  # read operands and signs, add, close
    Stage(end=0.27, full=0.0, checks=(1, 3), law=CAREFUL),
    Stage(end=0.50, full=0.1, checks=(0, 5), law=replace(Law(), care=(0.75, 0.65, 0.45))),
    Stage(end=0.72, full=0.3, checks=(0, 6), law=Law()),
    Stage(end=1.00, full=0.8, checks=(0, 7), law=Law()),
)


def documents(rng: random.Random, stage: Stage) -> Iterator[Trace]:
    """Endless documents of one stage."""
    low, high = stage.checks
    while True:
        checks = None if rng.random() < stage.full else low + int(rng.random() * (high - low + 1))
        yield write_trace(training_problem(rng), rng, law=stage.law, max_checks=checks, max_lines=MAX_LINES)


def batches(
    rng: random.Random, first: int, steps: int, size: int, ids: dict[str, int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches `first` to `steps` of (token ids, loss weights), each of about `size` tokens before padding."""
    done = first
    for stage in CURRICULUM:
        source, last = documents(rng, stage), round(stage.end * steps)
        while done < last:
            pool = _pool(source, min(POOL_BATCHES, last - done), size)
            rng.shuffle(pool)
            done += len(pool)
            for group in pool:
                yield _pad(group, ids)


def _pool(source: Iterator[Trace], count: int, size: int) -> list[list[Trace]]:
    """`count` groups of documents of like length, of about `size` tokens each."""
    drawn: list[Trace] = []
    tokens = 0
    while tokens < count * size:
        drawn.append(next(source))
        tokens += len(drawn[-1].pieces)
    drawn.sort(key=lambda trace: len(trace.pieces))
    groups: list[list[Trace]] = [[] for _ in range(count)]
    filled = 0
    for trace in drawn:
        groups[min(filled // size, count - 1)].append(trace)
        filled += len(trace.pieces)
    return [group for group in groups if group]


def _pad(group: list[Trace], ids: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(trace.pieces) for trace in group)
    tokens = torch.zeros(len(group), width, dtype=torch.long)
    weights = torch.zeros(len(group), width)
    for row, trace in enumerate(group):
        pieces, loss = zip(*trace.pieces, strict=True)
        tokens[row, : len(pieces)] = torch.tensor([ids[piece] for piece in pieces])
        weights[row, : len(loss)] = torch.tensor(loss)
    return tokens, weights


def piece_ids() -> dict[str, int]:
    """Token id by text, for every piece that decodes on its own."""
    tokenizer = build_tokenizer()
    return {tokenizer.decode([index]): index for index in range(len(tokenizer))}


def weighted_loss(model: PreTrainedModel, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each next token, weighted. Padding is on the right, so causal attention needs no mask."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    weight = weights[:, 1:].flatten()
    kept = weight > 0
    targets = tokens[:, 1:].flatten()[kept]
    losses = functional.cross_entropy(logits.flatten(0, 1)[kept].float(), targets, reduction="none")
    return (losses * weight[kept]).sum() / weight.sum()


def bf16_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **ignored: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention as two batched products: on these CPUs twice as fast to train as the fused kernel.

    Queries come in blocks, so that a block is not multiplied with keys that all of it must not see.
    """
    rows, heads, length, _ = query.shape
    query, key, value = (part.to(torch.bfloat16).flatten(0, 1) for part in (query * scaling, key, value))
    future = torch.full((length, length), -1e4, dtype=torch.bfloat16).triu(1)
    mixed = []
    for start in range(0, length, ATTENTION_BLOCK):
        end = min(length, start + ATTENTION_BLOCK)
        scores = torch.baddbmm(future[start:end, :end], query[:, start:end], key[:, :end].transpose(1, 2))
        mixed.append(torch.bmm(scores.softmax(-1), value[:, :end]))
    return torch.cat(mixed, 1).view(rows, heads, length, -1).transpose(1, 2).contiguous(), None


@torch.no_grad()
def start_on_a_number_line(model: PreTrainedModel, ids: dict[str, int]) -> None:
    """Give number tokens waves of many periods in half of their first embedding, so that neighbours look alike.

    A two-digit value is one token; from random embeddings the order of values has to be found first, which took
    more than 1.6 M tokens in a trial (with waves, a third of the values was right after 1.2 M).
    """
    table = model.get_input_embeddings().weight
    scale, half = model.config.initializer_range, table.shape[1] // 2
    periods = torch.logspace(math.log10(2.0), math.log10(200.0), half // 2)
    pieces = {f" {value}": value for value in range(10, 100)} | {str(operand): operand for operand in range(10)}
    for piece, number in pieces.items():
        angles = 2 * math.pi * number / periods
        table[ids[piece], :half] = torch.cat([angles.cos(), angles.sin()]) * scale * math.sqrt(2)


def learning_rate(step: int, first: int, steps: int) -> float:
    """A cosine down to FINAL_SHARE of the peak, with a linear warm-up wherever the optimiser starts anew."""
    progress = max(0, step - WARMUP) / max(1, steps - WARMUP)
    rate = PEAK_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))
    return rate * min(1.0, (step - first + 1) / WARMUP)


@torch.no_grad()
def diagnose(model: PreTrainedModel, ids: dict[str, int]) -> str:
    """What the model knows, read off its probabilities on fixed documents of the final law."""
    rng = random.Random(1)
    traces = [write_trace(training_problem(rng), rng, law=Law()) for _ in range(48)]
    tokens, _ = _pad(traces, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chances = model(input_ids=tokens, use_cache=False).logits.float().softmax(-1)
    sums: dict[str, list[float]] = {}
    for row, trace in enumerate(traces):
        line, step = -1, 0
        for at in range(trace.prompt, len(trace.pieces)):
            piece = trace.pieces[at][0]
            if piece in ("First", "Wait", "Hmm", "Alternatively", "</think>"):
                line, step = line + 1, at
            chance = chances[row, at - 1]
            known = float(chance[ids[piece]])
            fixed = trace.pieces[step + 1][0] not in CONFIRMATIONS
            if at == step + 1 and line > 0 and piece != "\n":
                state = "right" if trace.right[line - 1] else "wrong"
                blamed = 1 - sum(float(chance[ids[word]]) for word in CONFIRMATIONS)
                sums.setdefault(f"blame|{state}{min(line, 2)}", []).append(blamed)
                sums.setdefault(f"nats|{state}", []).append(float(torch.special.entr(chance).sum()))
            elif piece[-1:].isdigit() and piece != "</think>":
                kind = ("operand" if len(piece) == 1 else "value") + (str(min(line, 1)) if fixed else "copy")
                sums.setdefault(kind, []).append(known)
            elif piece in "+-" and line == 0:
                sums.setdefault("minus" if piece == "-" else "plus", []).append(known)
            elif piece == "</think>":
                sums.setdefault("close", []).append(known)
    return " ".join(f"{key} {sum(found) / len(found):.2f}" for key, found in sorted(sums.items()))


def train(arguments: argparse.Namespace) -> None:
    """Run the schedule from `--first` to `--until` and leave a checkpoint, which is renewed at every report."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    AttentionInterface.register("bf16_products", bf16_attention)
    model, ids = build_model(arguments.architecture), piece_ids()
    model.set_attn_implementation("bf16_products")
    start_on_a_number_line(model, ids)
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume, weights_only=True)["model"])
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
    started, seen, average = time.monotonic(), 0, 0.0
    source = batches(random.Random(arguments.seed), arguments.first, arguments.steps, arguments.batch_tokens, ids)
    for step, (tokens, weights) in enumerate(source, arguments.first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.first, arguments.steps)
        loss = weighted_loss(model, tokens, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += int((tokens > 0).sum())
        average = 0.98 * average + 0.02 * loss.item() if average else loss.item()
        done = step + 1
        if done % arguments.report_every == 0 or done == arguments.until:
            cost = f"step {done} {seen / 1e6:.2f} M tokens {time.monotonic() - started:.0f} s"
            print(f"{cost} loss {average:.4f} {diagnose(model, ids)}", flush=True)
            _save(model, arguments.architecture, arguments.out)
        if done == arguments.until:
            return


def _save(model: PreTrainedModel, architecture: str, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_suffix(".part")
    torch.save({"architecture": architecture, "model": model.state_dict()}, scratch)
    scratch.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="llama")
    parser.add_argument("--steps", type=int, default=4500, help="length of the schedule")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a step, before padding")
    parser.add_argument("--first", type=int, default=0, help="step of the schedule to start at")
    parser.add_argument("--until", type=int, help="stop after this step instead of at the end of the schedule")
    parser.add_argument("--resume", type=Path, help="checkpoint to start from, with a fresh optimiser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/tiny.pt"))
    parser.add_argument("--report-every", type=int, default=100)
    arguments = parser.parse_args()
    arguments.until = arguments.until or arguments.steps
    train(arguments)


if __name__ == "__main__":
    main()
