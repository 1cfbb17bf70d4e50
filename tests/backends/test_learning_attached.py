"""A learning rule under the library's own calls, and in a server: runs are kept, and labelled while nobody asks."""

from __future__ import annotations

import time

import pytest

from reasonctl.backends import attach, load_model
from reasonctl.calibration.learning import LearnedSettings, learn
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.controller import Controller, ControllerError
from support.serving import running

SETTINGS = LearnedSettings(fit=40, suffix="</think>\n", cues=("wait", "hmm", "alternatively"))
QUESTIONS = ("48 a-9 b+6 c-3", "9 a+4 b-2", "31 a+8 b-9")


def states(rule) -> dict[str, int]:
    found = rule.traffic.store.read("SELECT state, COUNT(*) FROM own_run GROUP BY state")
    return {str(state): int(str(n)) for state, n in found}


@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
def test_runs_of_attached_calls_are_kept_and_labelled_when_the_user_says_so(tmp_path, backend):
    model = load_model("tiny", backend=backend, threads=1)
    rule = learn(tmp_path / "s", settings=SETTINGS, grader=NUMBER)
    more = {} if backend == "llama.cpp" else {"tokenizer": model.tokenizer.library}
    with attach(model.library, Controller(exit=rule), **more) as handle:

        def ask(question: str) -> None:
            if backend == "llama.cpp":
                said = [{"role": "user", "content": question}]
                model.library.create_chat_completion(messages=said, max_tokens=768, temperature=0.6, seed=3)
            else:
                import torch

                ids = torch.tensor([model.prompt(question)])
                model.library.generate(ids, max_new_tokens=768, do_sample=True, temperature=0.6)

        for question in QUESTIONS:
            ask(question)
            assert handle.trace.shadow and handle.trace.exit is None and "learning" in handle.trace.rule
        ask(QUESTIONS[0])  # a prompt counts once
        handle.private = True
        ask("7 a+1 b-2 c+5")
        assert states(rule) == {"ended": 3}
        assert handle.learn_now(seconds=0) == 0 and handle.learn_now() == 3 and handle.learn_now() == 0
        assert states(rule) == {"labelled": 3}
        handle.private = False
        ask("7 a+1 b-2 c+5")  # the model is as it was
        assert states(rule) == {"labelled": 3, "ended": 1} and handle.trace.finish_reason == "stop"
    rule.traffic.store.close()


def test_a_server_labels_when_nobody_asks_and_keeps_nothing_of_private_requests(tmp_path):
    rule = learn(tmp_path / "s", settings=SETTINGS, grader=NUMBER)
    rule.check(load_model("tiny", threads=1, batch=4))
    with running(rule=rule) as served:
        for number, question in enumerate(QUESTIONS):
            served.ask(key=number % 2, messages=[{"role": "user", "content": question}])
        assert sorted(rule.traffic.by_client(rule.traffic.stage(), 0, 40).values()) == [1, 2]
        private = {"extra_body": {"reasonctl": {"learn": False}}}
        served.ask(messages=[{"role": "user", "content": "7 a+1 b-2 c+5"}], **private)
        until = time.monotonic() + 60
        while states(rule) != {"labelled": 3} and time.monotonic() < until:
            time.sleep(0.05)
        assert states(rule) == {"labelled": 3} and served.idle()
        stream = served.ask(stream=True, messages=[{"role": "user", "content": "20 a-3 b+9"}])
        next(chunk for chunk in stream if chunk.choices and not chunk.choices[0].delta.role)  # the run has begun
        stream.close()
        assert served.idle() and states(rule) == {"labelled": 3, "left": 1}
    rule.traffic.store.close()


def test_another_models_store_is_refused(tmp_path):
    rule = learn(tmp_path / "s", settings=SETTINGS)
    rule.check(load_model("tiny", threads=1))
    with pytest.raises(ControllerError, match="another model's runs"):
        rule.check(load_model("tiny-hybrid", threads=1))
    rule.traffic.store.close()
