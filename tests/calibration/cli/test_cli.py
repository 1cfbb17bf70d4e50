"""The command line as its user meets it: results, and every mistake in one line with exit code 2."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from reasonctl.backends.load import tiny_folder
from reasonctl.calibration.cli.main import main
from reasonctl.probes import load_exit
from reasonctl.probes.files import load_probe
from support.ctl import ctl

TINY = tiny_folder()
JOB = ["calibrate", "tiny", "--tasks", "tiny", "--fit", "60", "--labels", "all"]


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    """A probe calibrated in a few seconds, and the runs it came from."""
    path = tmp_path_factory.mktemp("probe") / "p.safetensors"
    with pytest.raises(SystemExit) as ended:
        main([*JOB, "--out", str(path), "-n", "120", "--max-new-tokens", "300"])
    assert not ended.value.code
    return path


def test_calibrate_says_what_it_wrote(probe, capfd):
    code, out, _ = ctl(capfd, "inspect", str(probe), "--json")
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    assert result["card"]["runs"] == {"fit": 60, "calibrate": 60}
    assert [level["risk"] for level in result["levels"]] == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert result["levels"][0]["threshold"] is None and result["levels"][0]["more_runs"] == 170
    page = probe.with_suffix(".html").read_text()
    assert "Not measured on fresh problems yet" in page and "&lt;/think&gt;" in page


def test_inspect_says_where_a_model_thinks(capfd):
    code, out, _ = ctl(capfd, "inspect", "tiny")
    assert code == 0 and "thinking markers '<think>' ... '</think>'" in out and "prompt opens the span" in out
    code, out, _ = ctl(capfd, "inspect", str(TINY), "--json")
    found = json.loads(out.splitlines()[-1])["format"]
    assert code == 0 and (found["suffix"], found["opens"], found["source"]) == ("</think>\n", "prompt", "rendering")


def test_efforts_are_written_shown_and_used(probe, tmp_path, capfd):
    assert load_probe(probe).card.efforts == "low=risk(0.1), medium=risk(0.05), high=risk(0.025)"
    code, out, _ = ctl(capfd, "inspect", str(probe), "--json")
    low, medium, high = json.loads(out.splitlines()[-1])["efforts"]
    assert code == 0 and [low["name"], low["risk"], high["risk"]] == ["low", 0.1, 0.025]
    for one in (low, medium, high):
        limit = load_exit(probe, risk=one["risk"]).threshold
        assert (one["exits"] == "never") == (limit.value == math.inf) and one["more_runs"] == limit.more_runs
    code, out, _ = ctl(capfd, "inspect", str(probe))
    assert "effort 'low': risk 0.1" in out
    code, out, _ = ctl(capfd, "run", "tiny", "--probe", str(probe), "--effort", "low", "--json", "--seed", "3")
    found = json.loads(out.splitlines()[-1])
    assert code == 0 and found["guarantee"]["risk"] == 0.1 and found["guarantee"]["why_not"] == []
    mine = ["--efforts", "low=5", "--effort", "low"]  # the user's own come first, and a budget stands in why_not
    code, out, _ = ctl(capfd, "run", "tiny", "--probe", str(probe), *mine, "--json")
    found = json.loads(out.splitlines()[-1])
    assert found["budget"] == 5 and found["guarantee"]["why_not"] == ["budget is 5, calibrated with none"]
    out_file = ["--out", str(tmp_path / "p.safetensors")]
    for text, message in (("low=risk(2)", "risk is 2.0"), ("low=-3", "budget is -3"), ("low", "efforts hold 'low'")):
        code, _, err = ctl(capfd, "calibrate", "tiny", "--tasks", "tiny", *out_file, "--efforts", text)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1


def test_eval_prints_the_promised_json(probe, tmp_path, capfd):
    arguments = ["eval", "tiny", "--probe", str(probe), "-n", "20", "--risk", "0.2", "--json", "--workers", "1"]
    code, out, _ = ctl(capfd, *arguments)
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    wanted = {
        "n",
        "seed",
        "model",
        "backend",
        "tasks",
        "batch",
        "mode",
        "risk",
        "confidence",
        "baseline",
        "controlled",
        "accuracy_difference",
        "exit_rate",
        "exits_at",
        "harm",
        "help",
        "drafted",
        "guarantee",
        "baselines",
        "failure",
        "signal",
        "domain",
        "give_up",
        "probe",
    }
    assert set(result) == wanted
    assert result["guarantee"]["holds"] and result["guarantee"]["why_not"] == []
    assert sum(result["exits_at"]) == round(result["exit_rate"] * 20)
    page = tmp_path / "e.html"
    again = json.loads(ctl(capfd, *arguments, "--report", str(page))[1].splitlines()[-1])
    assert "Measured on 20 fresh problems" in page.read_text()
    for arm in ("baseline", "controlled"):
        del again[arm]["seconds"], result[arm]["seconds"]
    assert again == result  # problems and randomness are keyed: only the clock differs


def test_eval_says_why_nothing_is_promised(probe, capfd):
    code, out, _ = ctl(
        capfd,
        "eval",
        "tiny",
        "--probe",
        str(probe),
        "-n",
        "4",
        "--temperature",
        "1",
        "--json",
        "--no-baselines",
        "--workers",
        "1",
    )
    promise = json.loads(out.splitlines()[-1])["guarantee"]
    assert code == 0 and not promise["holds"] and "policy" in promise["why_not"][0]


def test_replay_compares_signals_and_cheap_rules_on_the_collected_runs(probe, capfd):
    runs = f"{probe}.runs.jsonl"
    code, out, told = ctl(capfd, "replay", runs, "--splits", "1", "--confidence", "marginal", "--json")
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and result["runs"] == 120 and result["judged"] == 60
    assert {entry["risk"] for entry in result["entries"]} == {0.02, 0.05, 0.1}
    rows = [entry["signal"] for entry in result["entries"] if entry["risk"] == 0.1]
    assert rows[:1] == ["hidden"] and rows[-6:] == [
        "cue index",
        "index + word",
        "index + word + text",
        "budget, same risk",
        "budget, equal cost",
        "oracle",
    ]
    assert all(name in told for name in rows) and "promises nothing" in told
    part = json.loads(ctl(capfd, "replay", runs, "--splits", "1", "--domain", "3 steps", "--json")[1].splitlines()[-1])
    assert part["domain"] == "3 steps" and 20 < part["runs"] < 60
    for arguments, words in (
        (["--domain", "algebra"], "domain is 'algebra'; these runs are of '3 steps'"),
        (["--signal", "hidden"], "--signal means nothing to ctl replay"),
        (["--give-up", "0.1"], "--give-up means nothing to ctl replay"),
        (["--cues", "sentence"], "sentence"),
    ):
        code, _, err = ctl(capfd, "replay", runs, *arguments)
        assert code == 2 and words in err and len(err.splitlines()) == 1
    for path in (str(probe), str(probe) + ".no", str(probe.with_suffix(".html"))):
        code, _, err = ctl(capfd, "replay", path)
        assert code == 2 and len(err.splitlines()) == 1 and "runs" in err


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_run_streams_a_closed_answer(probe, capfd, backend):
    code, out, _ = ctl(
        capfd, "run", "tiny", "48 a-9 b+6 c-3", "--probe", str(probe), "--risk", "0.2", "--json", "--backend", backend
    )
    result = json.loads(out.splitlines()[-1])
    assert code == 0
    assert result["text"].count("</think>") <= 1 and result["why"]
    assert ctl(capfd, "run", "tiny", "--probe", "none")[0] == 0


def test_bench_runs(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    code, out, _ = ctl(capfd, "bench", "tiny", "--probe", "none", "--json", "-n", "2")
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and result["ratio"] > 0 and isinstance(result["identical"], bool)
    assert result["plain"]["tokens_per_second"] > 0 and result["drafted"]["emitted_per_step"] >= 1
    assert set(result["cost_curve"]["64"]) >= {"1", "2", "4", "8", "16"}


def test_bench_times_batches(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    monkeypatch.setattr("reasonctl.calibration.evaluation.speed.SECONDS", 0.0)
    arguments = ["--json", "-n", "1", "--batch", "3", "--max-new-tokens", "20", "--draft", "ngram(4)"]
    code, out, err = ctl(capfd, "bench", "tiny", "--probe", "none", *arguments)
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and "1 interleaved rounds of 3 runs that share forwards" in err
    assert result["batch"] == 3 and result["plain"]["seconds"] > 0


def mistakes(folder: Path, probe: Path) -> dict[str, tuple[list[str], str]]:
    good = folder / "good.jsonl"
    good.write_text('{"question": "1+1", "answer": "2"}\n')
    (folder / "noanswer.jsonl").write_text('{"question": "1+1", "answer": "2"}\n{"question": "2+2"}\n')
    (folder / "empty.jsonl").write_text("\n")
    (folder / "broken.jsonl").write_text("{nope\n")
    corrupt = folder / "corrupt.gguf"
    corrupt.write_bytes((TINY / "tiny.gguf").read_bytes()[:5000])
    (folder / "notgguf.gguf").write_bytes(b"hello" * 100)
    truncated, edited = folder / "truncated.safetensors", folder / "edited.safetensors"
    data = probe.read_bytes()
    truncated.write_bytes(data[: len(data) // 2])
    edited.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    new = str(folder / "new.safetensors")
    calibrate = ["calibrate", "tiny", "--tasks", "tiny", "--out", new]
    evaluate = ["eval", "tiny", "--probe", str(probe)]
    return {
        "missing model": (["run", str(folder / "nope.gguf"), "x", "--probe", "none"], "nope.gguf"),
        "missing folder": (["run", str(folder / "nope"), "x", "--probe", "none"], "nope"),
        "corrupt gguf": (["run", str(corrupt), "x", "--probe", "none"], "corrupt.gguf"),
        "no gguf": (["run", str(folder / "notgguf.gguf"), "x", "--probe", "none"], "notgguf.gguf"),
        "truncated probe": (["inspect", str(truncated)], "truncated"),
        "edited probe": (["inspect", str(edited)], "changed"),
        "missing probe": (["inspect", str(folder / "no.safetensors")], "no such file"),
        "probe is a folder": (["inspect", str(folder)], "folder"),
        "risk 0": ([*evaluate, "--risk", "0"], "above 0 and below 1"),
        "risk 1": ([*evaluate, "--risk", "1"], "above 0 and below 1"),
        "risk nan": ([*evaluate, "--risk", "nan"], "above 0 and below 1"),
        "confidence 2": ([*evaluate, "--confidence", "2"], "below 1"),
        "confidence word": ([*evaluate, "--confidence", "high"], "marginal"),
        "no answer": (
            ["calibrate", "tiny", "--tasks", str(folder / "noanswer.jsonl"), "--out", new],
            'noanswer.jsonl\' has no "answer"',
        ),
        "broken task": (
            ["calibrate", "tiny", "--tasks", str(folder / "broken.jsonl"), "--out", new],
            "broken.jsonl' is no JSON",
        ),
        "empty task": (["calibrate", "tiny", "--tasks", str(folder / "empty.jsonl"), "--out", new], "no problems"),
        "missing task": (["calibrate", "tiny", "--tasks", str(folder / "no.jsonl"), "--out", new], "does not exist"),
        "task is a folder": (["calibrate", "tiny", "--tasks", str(folder), "--out", new], "is a folder"),
        "eval without a rule": (["eval", "tiny", "--probe", "none"], "needs an exit rule"),
        "unknown task": (["calibrate", "tiny", "--tasks", "gsm9k", "--out", new], "unknown task"),
        "unknown gym task": (["calibrate", "tiny", "--tasks", "reasoning-gym:nope", "--out", new], "nope"),
        "gym option": (["calibrate", "tiny", "--tasks", "reasoning-gym:chain_sum,foo=1", "--out", new], "foo"),
        "too few problems": (["calibrate", "tiny", "--tasks", str(good), "--out", new, "-n", "5"], "only 1"),
        "unknown policy": ([*evaluate, "--policy", "tempratur(0.6)"], "did you mean temperature"),
        "policy value": ([*evaluate, "--policy", "top_p(2)"], "top_p is 2"),
        "unknown draft": ([*evaluate, "--draft", "medusa"], "unknown draft"),
        "out is a folder": (["calibrate", "tiny", "--tasks", "tiny", "--out", str(folder)], "folder"),
        "out exists": (["calibrate", "tiny", "--tasks", "tiny", "--out", str(probe)], "--force"),
        "out nowhere": (
            ["calibrate", "tiny", "--tasks", "tiny", "--out", str(folder / "no" / "p.safetensors")],
            "folder",
        ),
        "n 0": ([*calibrate, "-n", "0"], "0"),
        "grader": ([*calibrate, "--grader", "nope"], "module:function"),
        "cues": ([*calibrate, "--cues", "so what"], "no word"),
        "layers": ([*calibrate, "--layers", "half"], "fractions"),
        "suffix": (["run", "tiny", "x", "--suffix", "y"], "No such option"),
        "no command": (["fly"], "No such command"),
        "wrong backend": (["run", str(TINY / "tiny.gguf"), "x", "--probe", "none", "--backend", "hf"], "hf:"),
        "no prompt": (["run", str(TINY / "tiny.gguf"), "--probe", "none"], "PROMPT is missing"),
        "no probe": (["eval", str(TINY / "tiny.gguf")], "--probe is missing"),
    }


def test_every_mistake_is_one_line(tmp_path, probe, capfd):
    runs = probe.with_name(probe.name + ".runs.jsonl")
    cases = mistakes(tmp_path, probe)
    before = {path: path.read_bytes() for path in [*tmp_path.iterdir(), probe, runs]}
    for name, (arguments, words) in cases.items():
        code, out, err = ctl(capfd, *arguments)
        assert code == 2, (name, out, err)
        lines = err.strip().splitlines()
        assert len(lines) == 1 and words in lines[0] and lines[0].startswith("Error: "), (name, err)
        assert "Traceback" not in err + out
        after = {path: path.read_bytes() for path in [*tmp_path.iterdir(), probe, runs]}
        assert after == before, name


def test_a_dry_run_writes_nothing_and_a_time_limit_leaves_a_job_to_go_on_with(tmp_path, capfd):
    out = tmp_path / "p.safetensors"
    job = [
        "calibrate",
        "tiny",
        "--tasks",
        "tiny",
        "--out",
        str(out),
        "-n",
        "24",
        "--fit",
        "12",
        "--risk",
        "0.3",
        "--json",
        "--batch",
        "1",
        "--workers",
        "1",
    ]
    code, printed, told = ctl(capfd, *job, "--dry-run")
    assert code == 0 and not list(tmp_path.iterdir())
    assert json.loads(printed.splitlines()[-1])["runs_needed"] == 7 and "24 runs on tiny" in told
    code, printed, told = ctl(capfd, *job, "--time-limit", "0.001")
    assert code == 0 and not json.loads(printed.splitlines()[-1])["complete"] and not out.exists()
    assert "run the same command again" in told
    code, printed, told = ctl(capfd, *job)
    assert code == 0 and json.loads(printed.splitlines()[-1])["complete"] and "resuming: 1 of 24" in told
    assert out.exists()


@pytest.fixture
def copied(tmp_path) -> Path:
    """The bundled model's folder, to be damaged."""
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.gguf", "__pycache__", "*.py", "*.probe.*"))
    return folder


def test_a_probe_of_another_model_is_refused(copied, probe, capfd):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    code, _, err = ctl(capfd, "run", str(copied), "x", "--probe", str(probe))
    assert code == 2 and "probe was fitted on a 4-layer model of width 128; this model has 3 layers" in err


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_damaged_folder_is_one_line(copied, capfd, name):
    data = (copied / name).read_bytes()
    for damaged in (data[: len(data) // 2], data.replace(b"Hmm", b"Hmn", 1).replace(b'"llama"', b'"lama"'), b""):
        if damaged == data:
            continue
        (copied / name).write_bytes(damaged)
        code, _, err = ctl(capfd, "run", str(copied), "x", "--probe", "none")
        errors = [line for line in err.splitlines() if line.startswith("Error: ")]
        assert code == 2 and len(errors) == 1 and "Traceback" not in err, (name, err)


def test_run_v_prints_the_chain_in_its_order(capfd):
    policy = "top_k(5) | temperature(0.6) | min_p(0.05)"
    short = ["--probe", "none", "--max-new-tokens", "4"]
    code, out, _ = ctl(capfd, "run", "tiny", "-v", "--policy", policy, *short)
    lines = [line.strip() for line in out.splitlines()[:3]]
    assert code == 0 and lines == [
        "top_k(5) (truncation, before temperature)",
        "temperature(0.6) (temperature)",
        "min_p(0.05) (truncation, after temperature)",
    ]
    assert "truncation" not in ctl(capfd, "run", "tiny", "--policy", policy, *short)[1]


def test_run_takes_limits_of_thinking(capfd):
    code, out, _ = ctl(capfd, "run", "tiny", "--probe", "none", "--budget", "30", "--json")
    trace = json.loads(out.splitlines()[-1])
    assert code == 0 and trace["why"] == "budget of 30 thinking tokens used up" and trace["text"].count("</think>") == 1
    code, _, err = ctl(capfd, "run", "tiny", "--budget", "-3")
    assert code == 2 and "budget is -3" in err and len(err.strip().splitlines()) == 1
