"""Batches in evaluation, timing and advice: the runs are those of single runs, in windows of fixed composition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from reasonctl.backends.load import BUNDLED_PROBE, load_model, tiny_folder
from reasonctl.backends.model import Model
from reasonctl.calibration.advice.truncation import SamplePlan, sample
from reasonctl.calibration.evaluation.pairs import Pair, evaluate_pairs
from reasonctl.calibration.evaluation.speed import interleaved
from reasonctl.calibration.runs.making import PreparedRun, check_batch, run_all, run_once
from reasonctl.calibration.runs.worker import check_recipe
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Call, Controller, ControllerError, Greedy, Keys, Sampling, Trace
from reasonctl.probes import load_exit
from support.ctl import ctl
from support.recipes import RECIPE
from support.scheduled import KINDS, call, reasoner
from support.scripted import Scripted
from support.toy_models import writing
from support.toy_thinking import TOKENIZER

TASK = load_task("tiny")
BATCH, N = 2, 9
PROBLEMS = TASK.problems(N, stream=8)
BACKENDS = ["llama.cpp", "transformers"]


def toy(**limits: int) -> Model:
    """The toy reasoner as a loaded model."""
    return replace(writing([b"x"]), engine=reasoner(**limits), tokenizer=TOKENIZER)


def of(backend: str) -> int:
    """Problems: more than a window where runs cost little."""
    return N if backend == "llama.cpp" else 4


def evaluated(backend: str, batch: int, seen: list[tuple[int, int]] | None = None) -> list[Pair]:
    seen = [] if seen is None else seen
    return evaluate_pairs(
        replace(RECIPE, backend=backend, batch=batch, max_new_tokens=70, answer_tokens=8),
        PROBLEMS[: of(backend)],
        TASK.grader,
        load_exit(BUNDLED_PROBE, risk=0.3),
        workers=1,
        with_baselines=backend == "llama.cpp",
        progress=lambda done, of: seen.append((done, of)),
    )


def said(pair: Pair) -> object:
    """A pair without what rounding or a clock changes."""
    arms = [replace(arm, seconds=0.0, scores=(), why="", trace=None) for arm in (pair.baseline, pair.controlled)]
    if pair.record is None:
        return arms, pair.same
    cues = [(cue.name, cue.position, cue.answer, cue.right, cue.same) for cue in pair.record.cues]
    return arms, pair.same, pair.record.run, pair.record.text, pair.record.right, cues


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_evaluation_in_batches_has_the_pairs_of_single_runs(backend):
    """Token for token where no two logits nearly tie, as in these runs."""
    seen: list[tuple[int, int]] = []
    single, many = evaluated(backend, 1), evaluated(backend, BATCH, seen)
    different = [i for i, (a, b) in enumerate(zip(single, many, strict=True)) if said(a) != said(b)]
    assert different == []
    assert sum(pair.controlled.exit is not None for pair in many) >= 2
    for a, b in zip(single, many, strict=True):
        assert a.controlled.scores == pytest.approx(b.controlled.scores, abs=1e-3)
    window = 4 * BATCH
    assert seen == [(min(end, of(backend)), of(backend)) for end in range(0, of(backend) + window, window)]
    assert len({pair.baseline.seconds for pair in many[:window]}) == 1  # a window's time, shared


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"breaks", "model"}))
def test_every_kind_of_run_is_the_same_in_a_batch_on_the_toy(kind):
    controllers = [KINDS[kind](reasoner()) for _ in range(9)]
    runs = [PreparedRun(controller, call(i, 20 + 5 * (i % 4))) for i, controller in enumerate(controllers)]
    alone = [run_once(toy(), *run).trace.tokens for run in runs]
    model = toy(batch=4)
    assert [made.trace.tokens for made in run_all(model, runs, 4)] == alone
    assert model.engine.forwards < sum(map(len, alone))


def test_no_more_runs_than_a_batch_are_under_way_and_they_begin_in_order():
    model, begun, under_way = toy(batch=64), [], [0]

    class Counting(Scripted):
        def begin(self, trace: Trace) -> None:
            begun.append(trace.run)
            under_way.append(under_way[-1] + 1)

        def finish(self, trace: Trace) -> None:
            under_way.append(under_way[-1] - 1)

    runs = [PreparedRun(Controller(exit=Counting(lambda at: False)), call(i, 10 + 7 * (i % 3))) for i in range(11)]
    run_all(model, runs, 4)
    assert begun == list(range(11)) and max(under_way) == 4 and under_way[-1] == 0


def test_a_failing_run_ends_its_window_and_leaves_no_session():
    model = toy(batch=4, most_sessions=4)
    runs = [PreparedRun(KINDS["breaks" if i == 2 else "plain"](reasoner()), call(i, 40)) for i in range(6)]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_all(model, runs, 4)


def test_what_does_not_fit_is_one_error_before_any_forward(monkeypatch):
    model = toy(batch=4, most_sessions=1, room=1000)
    run = PreparedRun(Controller(exit=Scripted(lambda at: False, answer_tokens=3)), call(0, 40))
    with pytest.raises(ControllerError, match="run 'with the longest prompt' may need 2 sessions at once"):
        check_batch(model, [run], 4)
    check_batch(model, [PreparedRun(Controller(), call(0, 40))], 4)
    with pytest.raises(ControllerError, match="tokens of cache and there is room for 30"):
        check_batch(toy(batch=4, room=30), [PreparedRun(Controller(), call(0, 40))], 4)
    assert model.engine.forwards == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_without_memory_is_refused(backend, monkeypatch):
    """Of `tiny` 1000 bytes are enough for no batch; a single run isn't asked about."""
    recipe = replace(RECIPE, backend=backend, batch=5)
    model = load_model("tiny", backend=backend, threads=1, batch=5)
    check_recipe(recipe, model, PROBLEMS, workers=1)
    for place in ("llama.load", "hf.engine"):
        monkeypatch.setattr(f"reasonctl.backends.{place}.free_memory", lambda: 1000)
    load_model("tiny", backend=backend, threads=1)
    with pytest.raises(
        ControllerError, match=r"a batch of \d+ .* GB of cache, and 0.0 GB of memory are free; run fewer at once"
    ):
        check_recipe(recipe, load_model("tiny", backend=backend, threads=1, batch=5), PROBLEMS, workers=1)


def counted(model: Model, batch: int) -> list[int]:
    calls = [Call([1], 6, frozenset(), Keys(seed=1, run=i), Greedy()) for i in range(2 * batch)]
    arms = interleaved(model, {"plain": Controller()}, calls, batch)
    return [len(trace.tokens) for trace, _ in arms["plain"].runs]


def test_a_timed_round_is_a_batch():
    model = toy(batch=8)
    assert counted(model, 8) == [6] * 16
    assert model.engine.forwards == 6 + 2 * 6  # the warm-up, and two rounds of eight runs


def texts(model: Model, prompts: Sequence[Sequence[int]], batch: int) -> list[list[Any]]:
    plan = SamplePlan(16, 7, batch)
    return [[trace.tokens for trace in traces] for traces in sample(model, prompts, Sampling(), plan, samples=4)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_of_an_advice_are_those_of_single_runs(backend):
    prompts = [load_model("tiny", threads=1).prompt(problem.question) for problem in PROBLEMS[:2]]
    single = texts(load_model("tiny", backend=backend, threads=1), prompts, 1)
    assert texts(load_model("tiny", backend=backend, threads=1, batch=3), prompts, 3) == single
    assert [len(traces) for traces in single] == [4, 4] and len({tuple(one) for one in single[0]}) > 1


def test_the_command_says_its_batch_and_draft_advice_takes_none(capfd):
    arguments = ["eval", "tiny", "-n", "5", "--max-new-tokens", "80", "--workers", "1", "--no-baselines", "--json"]
    results = []
    for more in ([], ["--batch", "4"]):
        code, out, err = ctl(capfd, *arguments, *more)
        assert code == 0, err
        result = json.loads(out.splitlines()[-1])
        for arm in ("baseline", "controlled"):
            del result[arm]["seconds"]
        results.append(result)
    assert results[0].pop("batch") == 1 and results[1].pop("batch") == 4 and results[0] == results[1]
    code, _, err = ctl(capfd, "advise", "draft", "tiny", "--drafts", "tiny", "--batch", "4")
    assert (
        code == 2 and "--batch means nothing to ctl advise draft: its speed-ups are those of one run at a time" in err
    )


def test_an_evaluation_on_transformers_holds_its_weights_once():
    """Hidden states come with the same model there; a second one would take its memory again."""
    recipe = replace(RECIPE, model=str(tiny_folder()), backend=None)
    assert recipe.load(hidden=False) is recipe.load(hidden=True)


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_samples_without_memory_are_refused_before_any(backend, tmp_path, capfd, monkeypatch):
    place = {"llama": "llama.load", "hf": "hf.engine"}[backend]
    job = ["frontier", "tiny", "--tasks", "tiny", "-n", "1", "--max-new-tokens", "4", "--workers", "1"]
    job += ["--backend", backend, "--batch", "6", "--probe", "none", "--out", str(tmp_path / "f.html")]
    monkeypatch.setattr(f"reasonctl.backends.{place}.free_memory", lambda: 1000)
    code, _, err = ctl(capfd, *job)
    assert code == 2 and "memory" in err and not list(tmp_path.iterdir())
