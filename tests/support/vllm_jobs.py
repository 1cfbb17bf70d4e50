"""Runs of `tiny` inside vLLM and in our own loop, in a process of its own: python -m support.vllm_jobs '{"n": 20}'.

vLLM holds a process's state, so that each way to set it up needs a process. The last line of stdout is the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch

from reasonctl.backends import BUNDLED_PROBE, Model, load_model, tiny_folder
from reasonctl.backends.vllm import batch
from reasonctl.backends.vllm.client_run import Client, ClientRun
from reasonctl.backends.vllm.monitoring import Monitored
from reasonctl.backends.vllm.requests import Requests
from reasonctl.controller import Call, Controller, Keys, Trace, parse_policy
from reasonctl.controller.thinking import read_template
from reasonctl.probes import ProbeExit, load_exit


@dataclass
class Job:
    """What is asked for, as JSON."""

    n: int = 20
    """Problems."""
    seed: int = 777
    """Of the problems."""
    form: str = "replace"
    """Of the exits; the bundled probe is used as if it had been calibrated in it."""
    probe: str | None = None
    """A probe file that was calibrated in that form. None: the bundled one."""
    engine: dict[str, Any] = field(default_factory=dict)
    """Arguments of vllm.LLM."""
    options: dict[str, Any] = field(default_factory=dict)
    """The engine's options besides the probe."""
    temperature: float = 0.0
    """Of sampling."""
    arms: tuple[str, ...] = ("full", "exit")
    """What is run in vLLM: full, exit or shadow."""
    ours: bool = True
    """The same runs in our own loop on transformers, for comparison; greedy."""
    at_once: int = 1 << 20
    """Runs that are asked for at the same time."""
    planted: str | None = None
    """In an engine of several processes: scores are at the threshold, "shared" or each process "alone"."""
    runner: str = "v1"
    """vLLM's model runner. "v2" on a CPU is a trick for tests: Triton interprets its kernels."""

    @property
    def processes(self) -> int:
        """Of the engine."""
        return int(self.engine.get("tensor_parallel_size", 1))


def model_folder(folder: Path, **config: Any) -> Path:
    """The bundled model with changes to its config.json."""
    shutil.copytree(tiny_folder(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.gguf", "*.py"))
    if config:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


def probe_in(form: str, folder: Path) -> Path:
    """The bundled probe as a file whose card names the form."""
    if form == "replace":
        return BUNDLED_PROBE
    from dataclasses import replace

    from reasonctl.probes import load_probe, save_probe

    content = load_probe(BUNDLED_PROBE)
    path = folder / f"{form}.probe.safetensors"
    save_probe(path, replace(content, card=replace(content.card, form=form)), force=True)
    return path


class Decided:
    """The requests of the engine with their decisions; each is taken when it ends."""

    def __init__(self) -> None:
        self.engines: list[Requests] = []
        """Of this process; vLLM makes its processors twice."""
        self.seen: list[Any] = []
        ended = Monitored.end

        def end(monitored: Any, name: str, request: Any) -> None:
            self.seen.append(request)
            ended(monitored, name, request)

        Monitored.end = end  # type: ignore[method-assign]
        made = Requests.__post_init__

        def post_init(requests: Requests) -> None:
            self.engines.append(requests)
            made(requests)

        Requests.__post_init__ = post_init  # type: ignore[method-assign]

    @property
    def decisions(self) -> list[tuple[int, float, bool]]:
        """Position, score, and whether thinking ended; sorted."""
        return sorted((d.position, d.score, d.exit) for request in self.seen for d in request.decisions)

    @property
    def counts(self) -> dict[str, int]:
        """What the processor in use has counted."""
        return vars(max(self.engines, key=lambda one: one.counts.requests).counts) if self.engines else {}


def problems_of(job: Job) -> list[Any]:
    from reasonctl.calibration.tasks.tiny import fresh_problems

    return list(fresh_problems(job.n, seed=job.seed))


def our_runs(model: Model, rule: ProbeExit | None, prompts: list[list[int]], most: int) -> list[Trace]:
    """The runs in our own loop, greedy."""
    made = []
    for prompt in prompts:
        trace, session = Trace(), model.engine.session()
        call = Call(prompt, most, model.eos, Keys(seed=0), parse_policy("greedy"))
        controller = Controller(exit=rule)
        if rule is not None:
            controller = controller.knowing(read_template(model.template).thinking)
        for _ in controller.stream(session, model.tokenizer, call, trace):
            pass
        session.close()
        made.append(trace)
    return made


class InterpretedDriver:
    """What Triton is given for a CPU, where it interprets its kernels."""

    @staticmethod
    def is_active() -> bool:
        """Always."""
        return True

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> int:
        return 0


def use_runner_v2() -> None:
    """Let vLLM take its second model runner on a CPU; TRITON_INTERPRET=1 must be in the environment."""
    from triton import backends

    assert os.environ.get("TRITON_INTERPRET") == "1"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    backends.backends["cpu"] = backends.Backend(compiler=None, driver=InterpretedDriver())  # type: ignore[arg-type]


def engine_of(job: Job, folder: Path, probe: Path) -> Any:
    if job.runner == "v2":
        use_runner_v2()
    if job.processes > 1:  # one core for each; by itself vLLM wants a memory node for each
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, range(job.processes))))
    from vllm import LLM

    own = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_seqs": 128,
        "block_size": 32,
        **job.engine,
    }
    return LLM(
        str(folder),
        worker_cls="reasonctl.backends.vllm.Worker",
        logits_processors=[RANKED if job.processes > 1 else "reasonctl.backends.vllm:ExitProcessor"],
        additional_config={"reasonctl": {"probe": str(probe), **job.options}},
        **own,
    )


RANKED = "support.vllm_ranks:RankedProcessor"
"""The processor that writes down what each process decides."""


def ranks_of(job: Job, work: Path) -> Path:
    """Where the processes of an engine write their decisions."""
    folder = work / "ranks"
    folder.mkdir()
    os.environ["REASONCTL_TEST_RANKS"] = str(folder)
    if job.planted is not None:
        os.environ["REASONCTL_TEST_PLANTED"] = job.planted
    return folder


MOST = 768
"""Most tokens of a run."""


def client_of(model: Model, rule: ProbeExit) -> Client:
    from dataclasses import replace

    thinking = replace(read_template(model.template).thinking, suffix=rule.suffix)
    pad = model.tokenizer.library.pad_token_id
    return Client(rule, model.tokenizer, thinking, pad, model.eos)


def arm(job: Job, llm: Any, client: Client, prompts: list[list[int]], name: str) -> tuple[list[ClientRun], float]:
    arguments = {"reasonctl_shadow": 1} if name == "shadow" else {}
    runs = [ClientRun(client, prompt, MOST, arguments, controlled=name != "full") for prompt in prompts]
    params = [{"temperature": job.temperature, "seed": 1000 * job.seed + i} for i in range(len(runs))]
    begin = time.perf_counter()
    for i in range(0, len(runs), job.at_once):
        batch.run_all(llm, runs[i : i + job.at_once], params[i : i + job.at_once])
    return runs, time.perf_counter() - begin


def right(model: Model, tokens: list[int], answer: str) -> bool:
    import re

    text = model.tokenizer.decode(tokens).partition("</think>")[2]
    found = re.findall(r"-?[0-9]+", text)
    return bool(found) and found[-1] == answer


def run(job: Job) -> dict[str, Any]:
    """Run a job; counts and differences as plain values."""
    work = Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    probe = probe_in(job.form, work) if job.probe is None else Path(job.probe)
    rule = load_exit(probe, risk=job.options.get("risk", 0.05))
    decided, ranks = Decided(), ranks_of(job, work)
    llm = engine_of(job, model_folder(work / "model"), probe)
    model = load_model(str(tiny_folder()), backend="transformers")
    rule.check(model)
    from support.vllm_ranks import decided_by_rank, plant  # imports vLLM, which the job has set up by now

    if job.planted is not None:
        plant(rule)
    problems = problems_of(job)
    prompts = [model.prompt(problem.question) for problem in problems]
    client, result = client_of(model, rule), dict[str, Any]()
    arms = {}
    for name in job.arms:
        decided.seen.clear()
        arms[name], seconds = arm(job, llm, client, prompts, name)
        settle(llm, prompts[0])
        decisions = [decided.decisions] if job.processes == 1 else decided_by_rank(ranks)
        result[name] = {
            "tokens": sum(len(run.written) for run in arms[name]),
            "cost": sum(run.cost for run in arms[name]),
            "right": sum(right(model, run.written, p.answer) for run, p in zip(arms[name], problems, strict=True)),
            "exits": sum(run.exit is not None for run in arms[name]),
            "repaired": sum(run.repaired for run in arms[name]),
            "decisions": len(decisions[0]),
            "ranks_alike": all(one == decisions[0] for one in decisions),
            "unread": sum(request.unread for request in decided.seen),
            "seconds": seconds,
            "lengths": [len(run.written) for run in arms[name]],
            "digest": hashlib.sha256(json.dumps([run.written for run in arms[name]]).encode()).hexdigest(),
            "scores": digest_of(decisions[0]),
            "texts": [model.tokenizer.decode(run.written) for run in arms[name][:3]],
            "answers": [right(model, run.written, p.answer) for run, p in zip(arms[name], problems, strict=True)],
        }
        if job.ours and name in ("full", "exit"):
            ours = our_runs(model, rule if name == "exit" else None, prompts, MOST)
            result[name] |= compared(ours, arms[name], decisions[0])
    if {"full", "exit"} <= set(job.arms):
        result["harm"] = sum(
            f and not e for f, e in zip(result["full"]["answers"], result["exit"]["answers"], strict=True)
        )
    result["refused"] = refusal_of(llm, prompts[0])
    result["left_over"] = aborted(llm, prompts, decided)
    result["counts"] = decided.counts
    return result


def digest_of(decisions: list[tuple[int, float, bool]]) -> str:
    """Of all decisions, without the last digits of their scores."""
    found = sorted((position, round(score, 3), leave) for position, score, leave in decisions)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def refusal_of(llm: Any, prompt: list[int]) -> str:
    """What the engine says of an impossible risk; its server answers so with HTTP 400."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    try:
        llm.generate([{"prompt_token_ids": prompt}], SamplingParams(extra_args={"reasonctl_risk": 7}), use_tqdm=False)
    except VLLMValidationError as error:
        return str(error)
    return "it was taken"


def aborted(llm: Any, prompts: list[list[int]], decided: Decided) -> int:
    """Requests that the processor still knows after all of them were aborted amid their thoughts."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    for i, prompt in enumerate(prompts[:20]):
        engine.add_request(f"gone-{i}", {"prompt_token_ids": prompt}, SamplingParams(max_tokens=500))
    for _ in range(12):
        engine.step()
    engine.abort_request([f"gone-{i}" for i in range(20)])
    settle(llm, prompts[0])
    settle(llm, prompts[0])
    return sum(len([name for name in one.names if name.startswith("gone")]) for one in decided.engines)


def settle(llm: Any, prompt: list[int]) -> None:
    """The engine learns of ended requests with its next forward."""
    from vllm import SamplingParams

    llm.generate([{"prompt_token_ids": prompt}], SamplingParams(max_tokens=1, extra_args={"reasonctl_off": 1}))


def compared(ours: list[Trace], theirs: list[ClientRun], vllms: list[tuple[int, float, bool]]) -> dict[str, Any]:
    """How many runs differ, and how far scores are apart at the same cues."""
    same = [trace.tokens == run.written for trace, run in zip(ours, theirs, strict=True)]
    mine = sorted((d.position, d.score, d.exit) for trace in ours for d in trace.decisions)
    apart = [abs(one[1] - two[1]) for one, two in zip(mine, vllms, strict=False)]
    return {
        "same": sum(same),
        "first_difference": next(
            ([trace.tokens, run.written] for trace, run, one in zip(ours, theirs, same, strict=True) if not one), None
        ),
        "our_decisions": len(mine),
        "same_decisions": [(a, c) for a, _, c in mine] == [(a, c) for a, _, c in vllms],
        "apart": max(apart, default=0.0),
        "our_cost": sum(trace.cost for trace in ours),
    }


if __name__ == "__main__":
    found = run(Job(**json.loads(sys.argv[1])))
    sys.stdout.flush()
    print(json.dumps(found))
