"""The one line that users add: a stored probe attached to a model that they already have."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from llama_cpp import Llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.backends import attach
from reasonctl.backends.load import BUNDLED_PROBE, tiny_folder
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Controller, ControllerError
from reasonctl.probes import load_exit

FOLDER = tiny_folder()
PROBLEMS = load_task("tiny").problems(12, stream=41)
FREE = {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def rule():
    return load_exit(BUNDLED_PROBE, risk=0.05)


def open_llama() -> Llama:
    return Llama(str(FOLDER / "tiny.gguf"), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)


def check(texts: list[str], handle) -> None:
    """Answers are well-formed, mostly right, and the runs were cut short."""
    right = sum(text.rstrip().endswith(f"The answer is {p.answer}.") for text, p in zip(texts, PROBLEMS, strict=True))
    assert all(text.count("</think>") == 1 for text in texts)
    assert right >= 9 and handle.runs == len(PROBLEMS)
    assert handle.trace.why.startswith(("exited", "no exit"))


@pytest.mark.parametrize("stream", [False, True])
def test_llama_chat(stream):
    llm = open_llama()
    exits = 0
    with attach(llm, Controller(exit=rule())) as handle:
        texts = []
        for i, problem in enumerate(PROBLEMS):
            messages = [{"role": "user", "content": problem.question}]
            made = llm.create_chat_completion(messages=messages, stream=stream, seed=i, max_tokens=700, **FREE)
            if stream:
                made = list(made)
                texts.append("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in made))
                assert made[-1]["choices"][0]["finish_reason"] == "stop"
            else:
                texts.append(made["choices"][0]["message"]["content"])
                assert made["usage"]["completion_tokens"] > 5
            exits += handle.trace.exit is not None
    check(texts, handle)
    assert exits >= 10
    assert llm.create_completion("Q: 48 a-9 b+6 c-3\n<think>\n", max_tokens=5)["choices"][0]["text"]


def test_transformers_generate():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        handle = attach(model, Controller(exit=rule()), tokenizer=tokenizer)
    assert any("dtype" in str(w.message) for w in told)  # the probe was calibrated on the GGUF, and says so
    torch.manual_seed(0)
    texts, exits = [], 0
    for problem in PROBLEMS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}], add_generation_prompt=True, return_tensors="pt"
        )
        out = model.generate(**inputs, max_new_tokens=700, do_sample=True, **FREE)
        texts.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]).removesuffix("<eos>"))
        exits += handle.trace.exit is not None
    check(texts, handle)
    assert exits >= 10
    handle.detach()


def test_a_probe_of_another_model_is_refused_and_the_model_left_as_it_was(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, num_hidden_layers=3)
    kind, tokenizer = type(model), AutoTokenizer.from_pretrained(FOLDER)
    with pytest.raises(ControllerError, match="fitted on a 4-layer model"):
        attach(model, Controller(exit=rule()), tokenizer=tokenizer)
    assert type(model) is kind
    other = shutil.copy(FOLDER / "tiny.gguf", tmp_path / "other.gguf")
    data = bytearray((tmp_path / "other.gguf").read_bytes())
    where = data.index(b"Alternatively")
    data[where : where + 3] = b"Olt"
    (tmp_path / "other.gguf").write_bytes(data)
    llm = Llama(str(other), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    with pytest.raises(ControllerError, match="another vocabulary"):
        attach(llm, Controller(exit=rule()))
    assert "generate" not in vars(llm)
    assert llm.create_completion("Q: 48 a-9\n<think>\n", max_tokens=3)["choices"][0]["text"]
