"""Training AutoDeco's heads: the frozen model's rows on right runs, the soft top-p, and a loop that can be killed.

After AutoDeco (arXiv 2510.26697), in the form of its released TRL trainer: see `losses`. The heads in use, in numpy,
are probes/files/heads_file.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reasonctl.backends import Model
from reasonctl.controller.core import log_prob, softmax
from reasonctl.probes.files import COOLEST, STATISTICS, Heads, Sealed, unit
from reasonctl.probes.signals import Probe

from ..runs.teacher_forced import RunRows, Written, teacher_forced

CHECKPOINT = Sealed("reasonctl-heads-training", 1, "training state", "ctl calibrate --heads")
STEEPNESS = 30.0
"""a of the soft top-p."""
EASY_DROPPED = 0.6
"""Share of the positions whose label the model finds most probable that the temperature isn't trained on."""
ENTRIES = 1 << 25
"""Most logits in one step: of longer runs, or under larger vocabularies, a random part of the rows is taken."""
_TINY = 1e-9

Measures = dict[str, float]
"""What heads do at one token, by name."""


@dataclass(frozen=True)
class Training:
    """How heads are trained.

    Epochs and rate were chosen on `tiny`: more of either costs likelihood on held-out runs (docs/log.md).
    """

    hidden: int = 256
    """Units per head."""
    epochs: int = 2
    """Passes over the runs; one run is one step of Adam."""
    rate: float = 3e-4
    """Adam's learning rate."""
    weighted: bool = True
    """Weigh tokens as the method's code does. False: every token counts the same.

    Each token's loss is multiplied by the model's own probability of it, and the temperature is trained on few of the
    easy positions (EASY_DROPPED). The first alone makes heads colder than the likelihood wants them, the second warmer.
    """
    seed: int = 0
    """Of the first weights, the order of the runs and what is dropped."""
    every: int = 20
    """Steps between two checkpoints."""


class TorchHeads(nn.Module):
    """The two heads as modules; at first they leave the distribution nearly as it is (temperature 1, top-p 0.98)."""

    def __init__(self, width: int, hidden: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.temperature = _mlp(width, hidden, 0.0)
            self.top_p = _mlp(width + 1 + STATISTICS, hidden, 4.0)

    def forward(self, states: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Temperature and top-p of every row, each of shape (n,).

        Args:
            states: Hidden states of unit length, see `unit`. Shape (n, width).
            logits: Shape (n, vocabulary).
        """
        temperature = 2.0 * torch.sigmoid(self.temperature(states)[:, 0])
        detached = temperature.detach()[:, None]
        seen = torch.cat([states, detached, _statistics(logits, detached)], dim=1)
        return temperature, torch.sigmoid(self.top_p(seen)[:, 0])

    def stored(self) -> Heads:
        """As the arrays that are evaluated in use."""
        return Heads(_probe(self.temperature), _probe(self.top_p))


def _mlp(width: int, hidden: int, start: float) -> nn.Sequential:
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), last)


def _probe(head: nn.Sequential) -> Probe:
    layers = [layer for layer in head if isinstance(layer, nn.Linear)]
    arrays = [(layer.weight.detach().double().numpy().T, layer.bias.detach().double().numpy()) for layer in layers]
    return Probe(tuple(weight for weight, _ in arrays), tuple(bias for _, bias in arrays))


def _statistics(logits: Tensor, temperature: Tensor) -> Tensor:
    """Shape (n, 4): `statistics` of every row, as probes/files/heads_file.py has it."""
    p = torch.softmax(logits / (temperature + 1e-8), dim=1)
    entropy = -(p * torch.log(p + 1e-8)).sum(1)
    top = p.topk(min(5, p.shape[1]), dim=1).values
    return torch.stack([top[:, 0], entropy, p.var(1), top.sum(1)], dim=1)


def soft_top_p(p: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities in which the tokens beyond the mass top-p are faded by exp(-a * excess), renormalised.

    The mass of a token includes itself, so that the one that crosses top_p fades too; a hard top-p keeps it whole.

    Args:
        p: Probabilities. Shape (n, vocabulary).
        top_p: Shape (n,).

    Returns:
        Shape (n, vocabulary).
    """
    ordered, order = p.sort(dim=1, descending=True, stable=True)
    fade = torch.exp(-STEEPNESS * torch.relu(ordered.cumsum(1) - top_p[:, None]))
    faded = ordered * fade
    soft = faded / (faded.sum(1, keepdim=True) + _TINY)
    return torch.empty_like(p).scatter(1, order, soft)


def losses(
    temperature: Tensor, top_p: Tensor, logits: Tensor, labels: Tensor, *, keep: Tensor, weighted: bool
) -> tuple[Tensor, Tensor]:
    """The temperature's loss and top-p's: mean cross-entropies of the labels.

    Args:
        temperature: Shape (n,).
        top_p: Shape (n,).
        logits: The model's own. Shape (n, vocabulary).
        labels: The tokens that were written. Shape (n,).
        keep: Which positions train the temperature; all of them train top-p. Shape (n,).
        weighted: Weigh each position by the model's own probability of its label.
    """
    own = torch.softmax(logits, dim=1).gather(1, labels[:, None])[:, 0].detach()
    weight = own if weighted else torch.ones_like(own)
    scaled = logits / temperature.clamp(min=COOLEST)[:, None]
    cross = nn.functional.cross_entropy(scaled, labels, reduction="none")
    soft = soft_top_p(torch.softmax(scaled, dim=1), top_p).gather(1, labels[:, None])[:, 0]
    trains = keep.to(cross.dtype)
    first = (weight * cross * trains).sum() / trains.sum().clamp(min=1.0)
    return first, (weight * -torch.log(soft + _TINY)).mean()


class Trainer:
    """Heads, optimiser and the number of steps done: what a checkpoint holds."""

    def __init__(self, width: int, training: Training) -> None:
        self.training, self.done = training, 0
        self.heads = TorchHeads(width, training.hidden, seed=training.seed)
        self.optimiser = torch.optim.Adam(self.heads.parameters(), lr=training.rate)

    def step(self, rows: RunRows) -> float:
        """One step on one run; the loss before it. What is random in it is keyed by the step."""
        random = np.random.default_rng((self.training.seed, self.done))
        rows = _part(rows, random)
        states = torch.from_numpy(unit(rows.hidden).astype(np.float32))
        logits, labels = torch.from_numpy(rows.logits), torch.from_numpy(rows.labels)
        easy = rows.logits.argmax(1) == rows.labels
        dropped = easy & (random.random(len(easy)) < EASY_DROPPED) & self.training.weighted
        temperature, top_p = self.heads(states, logits)
        pair = losses(
            temperature, top_p, logits, labels, keep=torch.from_numpy(~dropped), weighted=self.training.weighted
        )
        loss = pair[0] + pair[1]
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.done += 1
        return float(loss.detach())

    def save(self, path: Path, of: str) -> None:
        """A checkpoint; `of` names the job that it belongs to."""
        tensors = {f"heads.{name}": value.numpy() for name, value in self.heads.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value.numpy() for name, value in state.items()}
        CHECKPOINT.save(path, tensors, {"done": self.done, "of": of})

    def resume(self, path: Path, of: str) -> bool:
        """Go on from a checkpoint of the same job; False, and nothing changed, where there is none."""
        if not path.is_file():
            return False
        tensors, card = CHECKPOINT.load(path, lambda tensors, card: (tensors, card))
        if card["of"] != of:
            return False
        adam: dict[int, dict[str, Tensor]] = {}
        heads: dict[str, Tensor] = {}
        for name, array in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "heads":
                heads[rest] = torch.from_numpy(array.copy())
            else:
                number, _, key = rest.partition(".")
                value = torch.from_numpy(array.copy())
                adam.setdefault(int(number), {})[key] = value.reshape(()) if key == "step" else value
        self.heads.load_state_dict(heads)
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": adam, "param_groups": groups})
        self.done = int(card["done"])
        return True


def _part(rows: RunRows, random: np.random.Generator) -> RunRows:
    """As many of the rows, drawn without replacement, as one step takes."""
    most = max(1, ENTRIES // rows.logits.shape[1])
    if len(rows.labels) <= most:
        return rows
    chosen = np.sort(random.permutation(len(rows.labels))[:most])
    return RunRows(rows.hidden[chosen], rows.logits[chosen], rows.labels[chosen])


def order(runs: int, training: Training) -> Iterator[int]:
    """Which run every step takes: each epoch is a permutation of its own."""
    for epoch in range(training.epochs):
        yield from np.random.default_rng((training.seed, 1 << 32, epoch)).permutation(runs).tolist()


def train(
    model: Model,
    runs: Sequence[Written],
    training: Training,
    checkpoint: Path,
    *,
    identity: dict[str, str],
    progress: Callable[[int, int], None],
    deadline: float | None = None,
) -> Heads | None:
    """Train heads on right runs.

    The state is saved every `training.every` steps: a killed training goes on from there, and ends in the same bytes
    on the same machine.

    Args:
        model: The frozen model.
        runs: The right runs.
        training: The settings.
        checkpoint: The file of the state.
        identity: Of the model.
        progress: Called with the steps done and all steps.
        deadline: A time of `time.monotonic()`.

    Returns:
        The heads. None: the deadline came first.
    """
    trainer, of = Trainer(model.width, training), _job_of(identity, training, runs)
    trainer.resume(checkpoint, of)
    steps = list(order(len(runs), training))
    progress(trainer.done, len(steps))
    for run in steps[trainer.done :]:
        trainer.step(teacher_forced(model, runs[run]))
        progress(trainer.done, len(steps))
        over = deadline is not None and time.monotonic() > deadline and trainer.done < len(steps)
        if over or trainer.done % training.every == 0:
            trainer.save(checkpoint, of)
        if over:
            return None
    return trainer.heads.stored()


def _job_of(identity: dict[str, str], training: Training, runs: Sequence[Written]) -> str:
    """What tells whose checkpoint a file is."""
    described = json.dumps([identity, asdict(training), runs], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def evaluate_heads(heads: Heads, model: Model, runs: Sequence[Written]) -> Measures:
    """How likely the heads make held-out runs, and what they set.

    Returns:
        Means over the tokens: nats under the model's own distribution (`nats_own`) and under the heads' temperatures
        (`nats_tempered`), `temperature`, `top_p`, and the share of tokens outside of the kept sets (`dropped`);
        `tokens` is their number.
    """
    measured = [
        _measure(heads, hidden, logits, int(label))
        for rows in (teacher_forced(model, run) for run in runs)
        for hidden, logits, label in zip(*rows, strict=True)
    ]
    means = {name: round(float(np.mean([one[name] for one in measured])), 6) for name in measured[0]}
    return {"tokens": len(measured), **means}


def _measure(heads: Heads, hidden: npt.NDArray[np.float32], logits: npt.NDArray[np.float32], label: int) -> Measures:
    """One row and the token that was written there."""
    temperature, top_p = heads.at(hidden, logits)
    temperature = max(temperature, COOLEST)
    p = softmax(logits, temperature)
    # A token is dropped where those before it in the order of a stable sort hold the mass top-p already.
    ahead = (p > p[label]) | ((p == p[label]) & (np.arange(len(p)) < label))
    return {
        "nats_own": -log_prob(logits, label),
        "nats_tempered": float(-np.log(p[label])),
        "temperature": temperature,
        "top_p": top_p,
        "dropped": float(p[ahead].sum() >= top_p),
    }
