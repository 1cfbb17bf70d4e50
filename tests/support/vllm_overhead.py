"""What asking at every cue costs in vLLM: pairs of batches in one engine, one in full and one that never exits.

python -m support.vllm_overhead '{"n": 64, "seed": 5}' 10; the last line of stdout is the result. The runs of both are
the same texts, so that only the processor's work differs. Times are processor time of the one process.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from reasonctl.backends import load_model, tiny_folder
from reasonctl.probes import load_exit
from support.vllm_jobs import Job, arm, client_of, engine_of, model_folder, probe_in, problems_of

READS = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__")
"""What waits for a device that isn't the host. Of a tensor on the host `numpy` copies nothing and waits for nothing."""


class Stopwatch:
    """Processor time inside the processor's own methods, their calls, and how often one has read the device."""

    def __init__(self) -> None:
        # Imports vLLM, which looks for Triton then and only then: the second runner's must be set up by now.
        from reasonctl.backends.vllm.processor import ExitProcessor

        self.seconds, self.steps, self.transfers, self.most = 0.0, 0, 0, 0
        for name in READS:
            self._count(name)
        for name in ("apply", "update_state"):
            self._time(ExitProcessor, name)

    def _count(self, name: str) -> None:
        method = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor, *args: Any) -> Any:
            self.transfers += 1
            return method(tensor, *args)

        setattr(torch.Tensor, name, counted)

    def _time(self, kind: Any, name: str) -> None:
        method = getattr(kind, name)

        def timed(processor: Any, *args: Any) -> Any:
            begin, self.transfers = time.thread_time(), 0
            result = method(processor, *args)
            self.seconds += time.thread_time() - begin
            self.steps += name == "apply"
            self.most = max(self.most, self.transfers)
            return result

        setattr(kind, name, timed)

    def take(self) -> tuple[float, int]:
        """What was measured since this was asked last."""
        found = (self.seconds, self.steps)
        self.seconds, self.steps = 0.0, 0
        return found


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Of the median, by 2,000 resamples."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    cut = int((1 - level) / 2 * len(medians))
    return medians[cut], medians[-1 - cut]


def main(job: Job, pairs: int) -> dict[str, Any]:
    """Pairs of batches; which of a pair comes first alternates."""
    work = Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    probe = probe_in(job.form, work)
    llm, watch = engine_of(job, model_folder(work / "model"), probe), Stopwatch()
    model = load_model(str(tiny_folder()), backend="transformers")
    client = client_of(model, load_exit(probe, risk=0.05))
    prompts = [model.prompt(problem.question) for problem in problems_of(job)]
    seconds: dict[str, list[float]] = {"full": [], "shadow": []}
    inside: list[float] = []
    texts = {}
    for pair in range(-1, pairs):  # the first one warms up
        for name in ("full", "shadow") if pair % 2 else ("shadow", "full"):
            watch.take()
            begin = time.process_time()
            runs, _ = arm(job, llm, client, prompts, name)
            spent = time.process_time() - begin
            own, steps = watch.take()
            texts[name] = [run.written for run in runs]
            if pair >= 0:
                seconds[name].append(spent)
                if name == "shadow":
                    inside.append(1e3 * own / steps)
    ratios = [full / shadow for full, shadow in zip(seconds["full"], seconds["shadow"], strict=True)]
    return {
        "n": job.n,
        "same_texts": texts["full"] == texts["shadow"],
        "tokens": sum(map(len, texts["full"])),
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "speed": statistics.median(ratios),
        "interval": interval(ratios),
        "reads_per_step": watch.most,
        "own_ms_per_step": statistics.median(inside),
    }


if __name__ == "__main__":
    found = main(Job(**json.loads(sys.argv[1])), int(*sys.argv[2:] or ["1"]))
    sys.stdout.flush()
    print(json.dumps(found))
