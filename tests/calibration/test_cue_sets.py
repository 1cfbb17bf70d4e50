"""The choice of cues: by what the fitting runs would save, never by the runs that calibrate."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reasonctl.backends.load import load_model
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.calibration.fitting.all_signals import fit_signals
from reasonctl.calibration.fitting.choose_cues import EVERYTHING, choose_cues
from reasonctl.calibration.fitting.collecting import freeze
from reasonctl.calibration.fitting.job import CalibrationJob, calibrate_and_save
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.cue_sets import check_collected, with_cues
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.runs.worker import Collect
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Call, Controller, ControllerError, Cues, Keys, Markers, Sampling, Span, Thinking, Trace
from reasonctl.probes.promise import Promise
from reasonctl.probes.signals.probe import Probe
from support.run_records import cue, run, scored
from support.scripted import Scripted


def record(number: int, rng: np.random.Generator, telling: str) -> RunRecord:
    """12 cues, words and paragraphs in turn; right from a random cue on; only `telling` cues' states show it."""
    settles = int(rng.integers(0, 10))
    cues = []
    for i in range(12):
        name = "paragraph" if i % 2 else "wait"
        state = rng.normal(size=4)
        if (name == "paragraph") == (telling == "paragraph"):
            state[0] = 4.0 if i >= settles else -4.0
        right = i >= settles
        cues.append(
            cue(name=name, position=20 * i + 20, tokens=20 * i + 30, trial=9, right=right, same=right, state=state)
        )
    return run(run=number, question=str(number), cues=tuple(cues))


def records(telling: str, n: int = 160, seed: int = 0) -> list[RunRecord]:
    rng = np.random.default_rng(seed)
    return [record(i, rng, telling) for i in range(n)]


@pytest.mark.parametrize(
    ("telling", "wanted"),
    [
        ("word", ("wait", "hmm", "alternatively")),
        pytest.param("paragraph", ("paragraph",), marks=pytest.mark.slow),
    ],
)
def test_the_cues_whose_states_tell_are_chosen(telling, wanted):
    chosen, tried = choose_cues(records(telling), Promise(risk=0.1), seed=0, max_cues=50)
    assert chosen == wanted
    assert len(tried) == 5 and max(one.saved or 0 for one in tried) > 0.3


def test_calibration_runs_have_no_say(tmp_path: Path):
    """The calibrating half is swapped for one where only the other cues tell: the choice stays, the promise pays."""
    runs = records("word")
    other = records("paragraph", seed=1)
    swapped = [*runs[:80], *other[80:]]
    recipe = Recipe(
        model="tiny",
        backend=None,
        threads=1,
        markers=None,
        cues=EVERYTHING,
        suffix="</think>\n",
        max_cues=50,
        layers=(1.0,),
        policy="greedy",
        draft="none",
        seed=0,
        max_new_tokens=400,
        answer_tokens=24,
    )
    model = replace(load_model("tiny", threads=1), width=4)
    plan = CalibrationJob(
        recipe,
        load_task("tiny"),
        Promise(risk=0.1),
        len(runs),
        tmp_path / "a.safetensors",
        fit=80,
        labels="all",
        choose_cues=True,
    )
    frozen = freeze(plan, runs[:80])
    runs, swapped = scored(runs, frozen.probe), scored(swapped, frozen.probe)
    honest = calibrate_and_save(plan, model, runs, frozen, force=False)
    fooled = calibrate_and_save(replace(plan, out=tmp_path / "b.safetensors"), model, swapped, frozen, force=False)
    assert honest.card.cues == fooled.card.cues == ("wait", "hmm", "alternatively")
    assert honest.table.cues == 80 * 6


def test_another_split_scores_with_its_own_probe():
    """Scores that another job's probe left in the records mean nothing to it."""
    cues = ("wait", "hmm", "alternatively")
    runs = with_cues(records("word", n=60), cues, 50)
    strange = scored(runs[40:], Probe((np.ones((4, 1)),), (np.zeros(1),)))
    plain, other = (
        fit_signals(to_arrays(runs[:30]), to_arrays([*runs[30:40], *rest]), cues, [""], "harm", seed=0)
        for rest in (runs[40:], strange)
    )
    for name, calibrated in plain.tables.items():
        assert calibrated.table.scores.tolist() == other.tables[name].table.scores.tolist()


def test_only_collected_cues_can_be_looked_at():
    runs = records("word", n=3)
    assert all(seen.name == "wait" for one in with_cues(runs, ["Wait"], 50) for seen in one.cues)
    assert all(len(one.cues) == 4 for one in with_cues(runs, ["wait"], 4))
    check_collected(["Wait"], ["wait", "hmm"])
    with pytest.raises(
        ControllerError, match="collected at the cues wait, every\\(8\\); nothing is known of hmm, every"
    ):
        check_collected(["wait", "hmm", "every(16)"], ["wait", "every(8)"])


def test_nothing_to_fit_is_one_line():
    runs = [replace(one, cues=()) for one in records("word", n=8)]
    with pytest.raises(ControllerError):
        choose_cues(runs, Promise(risk=0.1), seed=0, max_cues=50)


TEXTS = [
    "<eos>",
    "a",
    ".",
    " ",
    "\n",
    "\n\n",
    " Wait",
    "Wait",
    ". Wait",
    "\n\nHmm",
    ".\n\n",
    "Hm",
    "m",
    "ing",
    "</think>",
    "<think>",
    "5",
    "! hmm, Wait",
    "<",
    "/",
    "t",
    "h",
    "i",
    "n",
    "k",
    ">",
    "H",
    "W",
    "!",
    ",",
    "5, Wait",
]
MARKERS = Markers("<think>", "</think>")
KINDS = ("wait", "hmm", "sentence", "paragraph", "every(3)")


def toy_run(rule, seed: int, most: int) -> None:
    """A run on random text in which cues meet in one token, hide each other and lie across tokens."""
    engine = ToyEngine(vocabulary=len(TEXTS), order=1, seed=5)
    weights = np.array([0.2, 2, 3, 2, 2, 2, 3, 2, 3, 3, 3, 2, 2, 0.3, 0.3, 0.1, 1, 2, *[0.01] * 12, 4])
    engine.table = engine.table * weights
    engine.table /= engine.table.sum(1, keepdims=True)
    call = Call([1, TEXTS.index("<think>")], most, frozenset([0]), Keys(seed=seed), Sampling())
    thinking = Thinking(MARKERS, rule.suffix)
    list(Controller(exit=rule, thinking=thinking).stream(engine.session(), ToyTokenizer(TEXTS), call, Trace()))


def toy_collect(cues: tuple[str, ...], max_cues: int, seed: int, most: int) -> RunRecord:
    recipe = Recipe(
        model="toy",
        backend=None,
        threads=1,
        markers=("<think>", "</think>"),
        cues=cues,
        suffix="</think>",
        max_cues=max_cues,
        layers=(1.0,),
        policy="",
        draft="none",
        seed=0,
        max_new_tokens=most,
        answer_tokens=4,
    )
    rule = Collect(recipe, SimpleNamespace(tokenizer=ToyTokenizer(TEXTS), depth=3))
    toy_run(rule, seed, most)
    return run(cues=tuple(rule.seen), others=tuple(rule.others))


@pytest.mark.parametrize("max_cues", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_fewer_cues_on_record_are_fewer_cues_live(max_cues):
    """For every subset of the cues: the record of a run under all of them, cut down, is the run under the subset."""
    subsets = [names for n in range(1, 6) for names in itertools.combinations(KINDS, n)]
    asked = differing = 0
    for seed, most in [(1, 40), (2, 40), (3, 24), (4, 17), (5, 60), *((6, n) for n in range(9, 13))]:
        whole = toy_collect(KINDS, max_cues, seed, most)
        for names in subsets:
            kept = with_cues([whole], names, max_cues)[0]
            live = Scripted(lambda at: False, "</think>", cues=Cues(names), max_cues=max_cues, answer_tokens=4)
            toy_run(live, seed, most)
            assert [(cue.name, cue.position, cue.row) for cue in kept.cues] == [
                (at.cue.name, at.cue.first - at.prompt, at.cue.last - at.prompt) for at in live.seen
            ]
            alone = toy_collect(names, max_cues, seed, most)
            strip = [replace(cue, names=()) for cue in kept.cues]
            assert strip == [replace(cue, names=()) for cue in alone.cues]  # answers, states, costs, numbers
            # And a subset of the subset may be cut from either.
            less = names[1:] or names
            again = [with_cues([one], less, max_cues)[0].cues for one in (kept, whole)]
            assert again[0] == again[1]
            asked += len(live.seen)
            named = [cue for cue in whole.cues if cue.name in names]
            differing += [cue.position for cue in named] != [cue.position for cue in kept.cues]
    assert asked > 400 and differing > 20  # names alone, one per row, tell another run


@pytest.mark.parametrize(
    ("pieces", "wanted", "expected"),
    [
        (["x", ".", " Wait", ",", "y"], "wait", ("wait", 2, " ")),
        (["x", ".", " Wait", ",", "y"], "sentence", ("sentence", 2, "")),
        (["x", "\n\nHmm", ",", "y"], "hmm", ("hmm", 1, "\n\n")),
        (["x", "\n\nHmm", ",", "y"], "paragraph", ("paragraph", 1, "")),
        (["x.", "\n", "\n", "y"], "paragraph", ("paragraph", 1, "")),
        (["x", "! hmm, Wait", ",", "y"], "wait", ("wait", 1, "! hmm, ")),
    ],
)
def test_a_cue_behind_another_is_found(pieces, wanted, expected):
    texts = list(dict.fromkeys(pieces))
    for names in ([wanted], list(KINDS[:-1]), list(KINDS[-2::-1])):
        span = Span(ToyTokenizer(texts), None, Cues(names))
        span.begin([])
        met = [cue for piece in pieces if (cue := span.push(texts.index(piece)))]
        row = [one for cue in met for one in (cue, *cue.also) if wanted in one.names]
        assert [(wanted, one.first, one.before) for one in row] == [expected]
