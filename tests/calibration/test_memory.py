"""Jobs for which there is no memory: one error before any work, for batches, samples and worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from reasonctl.backends.load import load_model
from reasonctl.backends.model import Model
from reasonctl.calibration.parallel.run_jobs import processes_of
from reasonctl.calibration.runs import recipe as recipes
from reasonctl.calibration.runs.making import PreparedRun, run_all
from reasonctl.calibration.runs.recipe import loaded
from reasonctl.calibration.runs.worker import check_arms, check_recipe
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import Call, Controller, ControllerError, Greedy, Keys
from support.ctl import ctl
from support.recipes import RECIPE

PROBLEMS = load_task("tiny").problems(9, stream=8)
LOADED = 1000
"""Bytes that loading a model takes here."""
PLACES = {"llama.cpp": "llama.engine", "transformers": "hf.engine"}
JOBS = {
    "calibrate": ["--tasks", "tiny", "-n", "20", "--fit", "10", "--batch", "1"],
    "calibrate --heads": ["--tasks", "tiny", "-n", "20", "--batch", "1"],
    "eval": ["-n", "4", "--batch", "1"],
    "frontier": ["--tasks", "tiny", "-n", "2", "--probe", "none", "--batch", "1"],
    "stability": ["--tasks", "tiny", "--perturb", "whitespace", "-n", "2", "--batch", "1"],
    "pairs": ["--tasks", "tiny", "-n", "2", "--strategies", "policy", "--batch", "1"],
    "diagnose fractal": ["-n", "4", "--max-new-tokens", "512"],
}
"""Commands that take --workers, with little to do."""
OUT = {"calibrate": "o.safetensors", "calibrate --heads": "o.safetensors", "eval": "o.jsonl", "pairs": "o.jsonl"}


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Loads every model anew, each for so many bytes; gives what says how many are free once models are loaded."""
    taken = count(0, LOADED)
    monkeypatch.setattr("reasonctl.backends.load.own_memory", lambda: next(taken))

    def forget() -> None:
        recipes._load.cache_clear()
        recipes._suiting.cache_clear()

    def limited(free: int) -> None:
        for place in PLACES.values():
            monkeypatch.setattr(f"reasonctl.backends.{place}.free_memory", lambda: free)

    forget()
    yield limited
    forget()


def fits(check: Callable[[], None]) -> bool:
    try:
        check()
    except ControllerError as error:
        assert "memory are free" in str(error)
        return False
    return True


def cache(model: Model, batch: int) -> int:
    """What runs with trials take on transformers; on llama.cpp the context has it already."""
    longest = max(len(model.prompt(one.question)) for one in PROBLEMS) + RECIPE.max_new_tokens
    longest += 64  # a cue that is fed again
    return model.engine.memory(2 * batch, longest).caches


@pytest.mark.parametrize("backend", PLACES)
@pytest.mark.parametrize("batch", [1, 3])
def test_workers_need_a_model_and_a_cache_each(backend: str, batch: int, limit) -> None:
    """Nine problems are nine windows without batches, and one window of up to twelve runs in batches of three."""
    recipe = replace(RECIPE, backend=backend, batch=batch)
    model, problems = recipe.load(), PROBLEMS * (1 if batch == 1 else 4)
    each = LOADED + cache(model, batch)
    for workers in (2, 3):
        limit(workers * each)
        assert fits(lambda: check_recipe(recipe, model, problems, workers))  # noqa: B023
        limit(workers * each - 1)
        assert not fits(lambda: check_recipe(recipe, model, problems, workers))  # noqa: B023
    limit(cache(model, batch))
    assert fits(lambda: check_recipe(recipe, model, problems, 1)), "the model is there already"
    assert fits(lambda: check_recipe(recipe, model, problems, "tcp://elsewhere:8786")), "it has memory of its own"
    limit(2 * each - 1)
    assert not fits(lambda: check_recipe(recipe, model, problems, "local:2"))
    assert fits(lambda: check_recipe(recipe, model, problems[:1], 2)), "one window is made in this process"


@pytest.mark.parametrize(("backend", "models"), [("llama.cpp", 2), ("transformers", 1)])
def test_an_evaluation_counts_the_context_of_its_plain_arm(backend: str, models: int, limit) -> None:
    recipe = replace(RECIPE, backend=backend)
    model = recipe.load()
    each = models * LOADED + cache(model, 1)
    limit(2 * each)
    assert fits(lambda: check_arms(recipe, model, PROBLEMS, 2))
    limit(2 * each - 1)
    assert not fits(lambda: check_arms(recipe, model, PROBLEMS, 2))


@pytest.mark.parametrize("command", JOBS)
def test_every_job_counts_its_workers(command: str, limit, tmp_path: Path, capfd) -> None:
    """A single worker, which is this process, may take what two may not."""
    (tmp_path / "texts").mkdir()
    texts = tmp_path / "texts" / "t.txt"
    texts.write_text(" ".join(one.question for one in fresh_problems(600, 3)))
    (out := tmp_path / "out").mkdir()
    given = ["--texts", str(texts)] if command == "diagnose fractal" else []
    word, *flags = command.split(" ")
    job = [*flags[:1], "tiny", *JOBS[command], *given, "--threads", "1", "--workers", "2"]
    limit(2 * LOADED - 1)
    code, _, err = ctl(capfd, word, *job, "--out", str(out / OUT.get(command, "o.html")))
    assert code == 2 and "2 worker processes, each with its own model" in err and "give fewer --workers" in err
    assert not list(out.iterdir())


@pytest.mark.parametrize("backend", ["llama", "hf"])
@pytest.mark.parametrize(
    "job",
    [
        ["sample", "tiny", "1 a+1", "-n", "6", "--batch", "6", "--probe", "none"],
        ["pairs", "tiny", "--tasks", "tiny", "-n", "1", "--strategies", "policy,prefix", "--batch", "4", "--workers=1"],
        ["serve", "tiny", "--batch", "4"],
    ],
    ids=lambda job: job[0],
)
def test_runs_that_share_forwards_are_refused_before_any(job, backend, limit, tmp_path, capfd, monkeypatch) -> None:
    limit(1000)
    monkeypatch.setattr("reasonctl.backends.llama.load.free_memory", lambda: 1000)
    monkeypatch.setattr("reasonctl.backends.server.serving.serve", lambda *_: pytest.fail("it serves"))
    served = ["--out", str(tmp_path / "p.jsonl")] if job[0] == "pairs" else []
    code, _, err = ctl(capfd, *job, "--backend", backend, *served)
    assert code == 2 and "a batch of " in err and "memory are free; run fewer at once" in err
    assert not list(tmp_path.iterdir())


def test_a_batch_larger_than_what_is_asked_of_a_problem_needs_no_more(limit, tmp_path: Path, capfd) -> None:
    """One question asks two runs, however many might share a forward."""
    job = ["pairs", "tiny", "--tasks", "tiny", "-n", "1", "--strategies", "policy", "--batch", "32", "--workers", "1"]
    job += ["--backend", "hf", "--max-new-tokens", "4", "--out", str(tmp_path / "p.jsonl")]
    model = load_model("tiny", backend="transformers", threads=1)
    limit(model.engine.memory(4, 64).caches)
    assert ctl(capfd, *job)[0] == 0


def test_all_runs_of_a_list_are_checked_before_the_first(limit) -> None:
    model = load_model("tiny", backend="transformers", threads=1, batch=2)
    calls = [Call([1] * 5, most, frozenset(), Keys(seed=1), Greedy()) for most in (4, 4, 4, 4, 4, 4, 4, 4, 400)]
    runs = [PreparedRun(Controller(), call) for call in calls]
    limit(model.engine.memory(2, 100).caches)
    assert not fits(lambda: run_all(model, runs, 2, lambda done: pytest.fail("a window was made")))
    assert len(run_all(model, runs[:8], 2)) == 8


def test_a_model_on_transformers_is_loaded_once_with_drafts_and_without() -> None:
    plain, drafted = (loaded("tiny", "transformers", 1, draft=text) for text in ("none", "hierarchy"))
    assert plain is drafted


def test_processes_are_those_that_have_work() -> None:
    assert [processes_of(4, jobs) for jobs in (0, 1, 2, 9)] == [0, 0, 2, 4]
    assert [processes_of("local:2", jobs) for jobs in (1, 9)] == [1, 2] and processes_of("tcp://h:1", 9) == 0
