"""`ctl run`, `eval` and `bench` of the bundled masked model."""

from __future__ import annotations

import json

import pytest

from reasonctl.backends import load_masked, tiny_folder
from reasonctl.calibration.cli.masked import with_commit
from reasonctl.calibration.evaluation.early_commit import calibrate_commit, commit_table, split
from reasonctl.controller import ControllerError, Greedy, Keys
from reasonctl.controller.diffusion import Commit, Confidence, Unmask, Unmasking, run_all
from support.ctl import ctl
from support.masked_toys import JointEngine

QUESTION = "48 a-9 b+6 c-3"


def test_run_says_how_the_answer_was_written(capfd):
    code, out, err = ctl(
        capfd, "run", "tiny-masked", QUESTION, "--order", "entropy(steps=8)", "--json", "--threads", "1"
    )
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and result["text"].startswith("First") and result["forwards"] <= 8 and "AR-ness" in err
    assert sorted({place for step in result["order"] for place in step}) == list(range(32))


def test_a_commit_stands_in_the_order(capfd):
    found = []
    for threshold in (0.8, 2):
        order = with_commit("confidence(block=8)", threshold)
        code, out, _ = ctl(capfd, "run", "tiny-masked", QUESTION, "--order", order, "--json", "--threads", "1")
        assert code == 0
        found.append(json.loads(out.splitlines()[-1]))
    early, full = found
    assert early["text"] == full["text"] and early["forwards"] + 5 < full["forwards"]
    assert "was committed" in early["why"] and "no commit" in full["why"]


def test_bench_compares_an_order_with_left_to_right(capfd):
    flags = ("--order", "random(steps=2)", "-n", "1", "--batch", "2", "--json", "--threads", "1")
    code, out, _ = ctl(capfd, "bench", "tiny-masked", *flags)
    found = json.loads(out.splitlines()[-1])["orders"]
    assert code == 0 and found["random(steps=2)"]["tokens_per_forward"] > found["left"]["tokens_per_forward"]


def test_eval_calibrates_a_commit(capfd):
    flags = ("-n", "9", "--batch", "9", "--order", "entropy(steps=4)", "--json", "--threads", "1")
    code, out, _ = ctl(capfd, "eval", "tiny-masked", *flags)
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and result["threshold"] is None and result["more_runs"] > 0 and result["saved"] == 0


@pytest.mark.parametrize(
    "wrong, said",
    [
        (("run", "tiny-masked", QUESTION, "--order", "best"), "unknown order"),
        (("run", "tiny-masked", QUESTION, "--budget", "5"), "--budget means nothing"),
        (("run", "tiny-masked", QUESTION, "--draft", "ngram(4)"), "--draft means nothing"),
        (("run", "tiny-masked", QUESTION, "--policy", "think: greedy ; answer: greedy"), "any order"),
        (("eval", "tiny-masked", "--report", "x.html"), "--report means nothing"),
        (("eval", "tiny-masked", "-n", "9", "--order", "left(commit=0.9)"), "which is calibrated here; leave it out"),
        (("run", "tiny", QUESTION, "--order", "left"), "writes from left to right"),
        (("run", "tiny-masked", QUESTION, "--max-new-tokens", "2000"), "the model has 1024"),
    ],
)
def test_mistakes_are_one_line(capfd, wrong, said):
    code, _, err = ctl(capfd, *wrong)
    assert code == 2 and said in err and "Traceback" not in err


def toy_traces(runs, threshold=float("inf")):
    engine = JointEngine(3, 4, seed=2)
    settings = Unmasking(4, commit=Commit(Confidence(), threshold))
    return run_all(engine, [Unmask([0], settings, Greedy(), Keys(seed=0, run=run)) for run in range(runs)])


def test_labels_are_those_of_the_deployed_commit():
    traces = toy_traces(4)
    table = commit_table(traces, lambda run, tokens: tokens == traces[0].tokens)
    assert table.runs == 4 and table.full_right.all() and list(table.positions[: traces[0].forwards]) == [0, 1, 2, 3]
    threshold = float(table.scores[0]) - 1e-9
    deployed = toy_traces(4, threshold)
    exits = table.first_exit(threshold)
    for run, trace in enumerate(deployed):
        assert trace.committed == exits[run] and trace.tokens == traces[run].answers[exits[run]]


def test_too_few_runs_never_commit_and_committed_runs_are_no_record():
    table = commit_table(toy_traces(30), lambda run, tokens: True)
    found = calibrate_commit(*split(table, 5), "harm", 0.05, 0.9)
    assert found.commits == 0 and found.threshold.more_runs > 0 and found.saved == 0
    with pytest.raises(ControllerError, match="recorded"):
        commit_table(toy_traces(2, -1.0), lambda run, tokens: True)


def test_the_bundled_model_fits_its_limit_and_runs_alone_as_in_a_batch():
    model = load_masked("tiny-masked", threads=1)
    assert model.parameters < 1_000_000
    prompts = [model.prompt(QUESTION), model.prompt("80 a-3 b-6 c-5 d+8")]
    runs = [Unmask(one, Unmasking(32, steps=8), Greedy(), Keys(seed=0), model.eos) for one in prompts]
    together = run_all(model.engine, runs)
    assert [trace.tokens for trace in together] == [run_all(model.engine, [one])[0].tokens for one in runs]


def test_a_batch_without_memory_is_refused(capfd, monkeypatch) -> None:
    monkeypatch.setattr("reasonctl.backends.hf.masked.engine.free_memory", lambda: 1000)
    code, _, err = ctl(capfd, "bench", "tiny-masked", "--batch", "4", "-n", "1", "--threads", "1")
    assert code == 2 and "the logits of 4 answers" in err


@pytest.mark.parametrize("name", ["tiny-masked", str(tiny_folder("tiny-masked"))])
def test_commands_that_take_no_masked_model_say_which_do(name, tmp_path, capfd):
    code, _, err = ctl(capfd, "calibrate", name, "--tasks", "tiny", "--out", str(tmp_path / "p.safetensors"))
    assert code == 2 and f"{name!r} is a masked model, and only ctl run, eval and bench take those" in err


def test_a_mistyped_model_is_met_with_the_nearest_one(capfd, monkeypatch):
    monkeypatch.setattr("reasonctl.backends.hf.load.hub_answers", lambda: False)
    code, _, err = ctl(capfd, "run", "tinny", QUESTION)
    assert code == 2 and "ctl models lists" in err and err.rstrip().endswith("did you mean tiny?")
