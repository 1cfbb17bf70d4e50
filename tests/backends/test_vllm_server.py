"""vLLM's own server with a probe in it, as `ctl serve --engine vllm` starts it: our client, and plain ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reasonctl.backends import BUNDLED_PROBE, load_model, tiny_folder
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import ControllerError, Effort
from reasonctl.probes import load_exit

pytestmark = pytest.mark.vllm

GREEDY = {"temperature": 0.0}
QUESTION = [{"role": "user", "content": "What is 90-6-7-9-7?"}]
ASKED = [[{"role": "user", "content": problem.question}] for problem in fresh_problems(24, seed=777)]


def served(name: str, folder: Path) -> Iterator[object]:
    from support.vllm_jobs import probe_in
    from support.vllm_server import serving

    with serving(folder, probe_in(name, folder)) as server:
        yield server


@pytest.fixture(scope="module")
def replacing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A server whose exits our client makes."""
    yield from served("replace", tmp_path_factory.mktemp("replace"))


@pytest.fixture(scope="module")
def appending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A server that makes exits by itself."""
    yield from served("append-open", tmp_path_factory.mktemp("append"))


def followed(client, messages, **sampling):
    """A run of our client, and its text."""
    run = client.run(messages, max_tokens=768)
    return run, "".join(client.follow(run, {**GREEDY, **sampling}))


@pytest.mark.parametrize("form", ["replacing", "appending"])
def test_runs_of_many_clients_are_ours(form, request) -> None:
    """Eight at a time; a marker that the model writes a second time is replaced, as our own loop does it."""
    from support.vllm_jobs import our_runs

    server = request.getfixturevalue(form)
    client = server.client()
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda messages: followed(client, messages), ASKED))
    model, rule = load_model(str(tiny_folder()), backend="transformers"), load_exit(server.probe, risk=0.05)
    ours = our_runs(model, rule, [model.prompt(messages[0]["content"]) for messages in ASKED], 768)
    assert [run.written for run, _ in made] == [trace.tokens for trace in ours]
    for run, text in made:
        assert text == model.tokenizer.decode([token for token in run.written if token not in model.eos])
        assert text.count("</think>") == 1
    assert sum(run.exit is not None for run, _ in made) > 20
    assert form == "replacing" or sum(run.repaired for run, _ in made) > 0


def test_a_stream_shows_nothing_that_is_taken_back(replacing) -> None:
    client = replacing.client()
    run, text = followed(client, QUESTION)
    plain = client.run(QUESTION, max_tokens=768)
    plain.controlled = False
    whole = "".join(client.follow(plain, GREEDY))
    assert run.exit is not None and "</think>\nThe answer is" in text and len(text) < len(whole)
    assert whole.startswith(text.split("</think>")[0].rstrip()) and plain.exit is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"reasonctl_risk": 7}, "reasonctl_risk is 7; it must lie between 0 and 1, e.g. 0.05"),
        ({"reasonctl_risk": "low"}, "reasonctl_risk is 'low'; it must lie between 0 and 1"),
        ({"reasonctl_rsik": 0.1}, "reasonctl_rsik is no argument of reasonctl; it has reasonctl_risk"),
        ({"reasonctl_off": 3}, "reasonctl_off is 3; it must be 1 or 0"),
    ],
)
def test_impossible_arguments_are_answered_with_400(replacing, arguments, said) -> None:
    code, text = replacing.post("/v1/chat/completions", messages=QUESTION, max_tokens=8, vllm_xargs=arguments)
    assert code == 400 and said in text


def test_our_client_says_what_the_server_refuses(replacing) -> None:
    """vLLM answers a stream's impossible argument inside the stream."""
    client = replacing.client()
    run = client.run(QUESTION, max_tokens=64)
    run.arguments["reasonctl_risk"] = 7
    with pytest.raises(ControllerError, match="the server .*reasonctl_risk is 7; it must lie between"):
        list(client.follow(run, {}))
    client.key = "wrong"
    with pytest.raises(ControllerError, match="the server answers 401"):
        followed(client, QUESTION)


@pytest.mark.parametrize("form", ["replacing", "appending"])
def test_clients_that_go_away_leave_the_server_as_it_was(form, request) -> None:
    server = request.getfixturevalue(form)
    client = server.client()
    _, before = followed(client, QUESTION)
    for _ in range(20):
        stream = client.stream(QUESTION, max_tokens=768, temperature=0.6, risk=0.0001)
        next(stream)
        stream.close()
    until = time.monotonic() + 60
    while server.running() and time.monotonic() < until:
        time.sleep(0.2)
    assert server.running() == 0 and followed(client, QUESTION)[1] == before


@pytest.mark.parametrize("form", ["replacing", "appending"])
def test_a_budget_is_vllms_own(form, request) -> None:
    """Its text is the card's suffix; the card's effort "low" has twice the engine's risk."""
    client = request.getfixturevalue(form).client()
    run = client.run(QUESTION, max_tokens=768, risk=0.0001)
    text = "".join(client.follow(run, GREEDY, budget=20))
    thought = text.split("</think>\n")[0]
    assert "</think>\n" in text and run.exit is None and len(run.written) < 60
    assert 15 <= len(client.client.tokenizer.encode(thought)) <= 21


def test_an_effort_is_a_budget_or_a_risk(replacing) -> None:
    client = replacing.client()
    client.client.rule.efforts = {"short": 20, "sure": Effort(risk=0.0001)}
    texts = {
        name: "".join(client.stream(QUESTION, max_tokens=768, effort=name, **GREEDY))
        for name in ("none", "short", "sure")
    }
    assert texts["none"].startswith("</think>") and not texts["short"].startswith("</think>")
    thoughts = {name: len(text.split("</think>")[0]) for name, text in texts.items()}
    assert 0 < thoughts["short"] < thoughts["sure"]


def test_a_plain_client_exits_where_the_engine_makes_exits(appending) -> None:
    """Streamed, and not. vLLM shows no special tokens, so that the closing marker is missing from what is shown."""
    asked = {"messages": QUESTION, "max_tokens": 768, **GREEDY}
    whole = appending.post("/v1/chat/completions", **asked, vllm_xargs={"reasonctl_off": 1})[1]
    code, text = appending.post("/v1/chat/completions", **asked)
    message, full = (json.loads(one)["choices"][0]["message"] for one in (text, whole))
    before, exited, _ = message["content"].partition("Wait\n")
    assert code == 200 and exited and full["content"].startswith(before + "Wait ")
    streamed = appending.post("/v1/chat/completions", **asked, stream=True)[1]
    events = [json.loads(line[5:]) for line in streamed.splitlines() if line.startswith("data: {")]
    parts = [event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]]
    assert "".join(parts) == message["content"] and len(parts) > 10


def test_a_plain_client_runs_in_full_where_our_client_makes_exits(replacing) -> None:
    asked = {"messages": QUESTION, "max_tokens": 768, **GREEDY}
    plain = replacing.post("/v1/chat/completions", **asked)[1]
    whole = replacing.post("/v1/chat/completions", **asked, vllm_xargs={"reasonctl_off": 1})[1]
    one, two = (json.loads(text)["choices"][0]["message"]["content"] for text in (plain, whole))
    assert one == two


def test_a_probe_of_another_model_is_refused_before_the_start(tmp_path: Path) -> None:
    from support.vllm_jobs import model_folder
    from support.vllm_server import CTL, environment

    other = model_folder(tmp_path / "other", num_hidden_layers=3)
    (tmp_path / "next").mkdir()
    shutil.copytree(tiny_folder(), tmp_path / "next", dirs_exist_ok=True)
    shutil.copy(BUNDLED_PROBE, tmp_path / "next" / "my.probe.safetensors")
    for folder, said in (
        (other, "probe was fitted on a 4-layer model of width 128; this model has 3 layers"),
        (tmp_path / "next", "which vLLM would read as weights"),
    ):
        command = [*CTL, "serve", str(folder), "--engine", "vllm", "--probe", str(BUNDLED_PROBE), "--port", "9"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 2 or done.returncode == 1
        assert said in done.stderr + done.stdout and "Traceback" not in done.stderr
