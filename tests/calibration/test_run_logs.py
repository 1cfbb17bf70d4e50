"""Logs of runs: every usual form is read, every line that can't be used is counted, and a wrong log is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reasonctl.calibration.runs.own_runs import STRIPPED, own_runs
from reasonctl.calibration.runs.worker import collect_run
from reasonctl.calibration.tasks.run_logs import LogLine, read_log
from reasonctl.controller import ControllerError
from reasonctl.controller.thinking import read_template
from support.recipes import RECIPE

QUESTION = "48 a-9 b+6 c-3"
THOUGHT = "a: 48-9=39\nwait, b: 39+6=45\nc: 45-3=42\n"
TEXT = THOUGHT + "</think>\n42"
USER = [{"role": "user", "content": QUESTION}]
ANSWERED = {"choices": [{"message": {"content": "42", "reasoning_content": THOUGHT}, "finish_reason": "stop"}]}
PLAIN = {"prompt": QUESTION, "completion": TEXT, "finish_reason": "stop"}
TRACE = {
    "question": QUESTION,
    "text": TEXT,
    "tokens": [5, 6],
    "prompt_tokens": 4,
    "finish_reason": "stop",
    "closed_by": "model",
    "forced": None,
    "reopened": [],
}


def written(tmp_path, *lines) -> str:
    path = tmp_path / "log.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def own(tmp_path, *lines, recipe=RECIPE):
    model = recipe.load()
    return own_runs(model, recipe, read_template(model.template), read_log([written(tmp_path, *lines)]))


@pytest.mark.parametrize(
    "lines",
    [
        [PLAIN],
        [{"messages": USER, "text": TEXT, "finish_reason": "eos"}],
        [{"messages": USER, "reasoning_content": THOUGHT, "content": "42", "stop_reason": "end_turn"}],
        [{"messages": USER, **ANSWERED}],
        [{"request": {"messages": USER}, "response": ANSWERED}],
        [
            {"custom_id": "a", "response": {"status_code": 200, "body": ANSWERED}},
            {"custom_id": "a", "body": {"messages": USER}},
        ],
        [{"prompt": f"Q: {QUESTION}\n<think>\n", "completion": TEXT, "finish_reason": "stop"}],
        [{"prompt": QUESTION, "completion": f"<think>\n{TEXT}", "finish_reason": "stop"}],
    ],
)
def test_every_form_gives_the_same_run(tmp_path, lines):
    ((problem, run),) = own(tmp_path, *lines).runs
    assert problem.question == QUESTION
    assert RECIPE.load().tokenizer.decode(run.tokens) == TEXT


def test_a_trace_gives_its_own_tokens(tmp_path):
    model = RECIPE.load()
    tokens = [*model.tokenizer.encode(TEXT), *model.eos]
    ((_, run),) = own(tmp_path, {**TRACE, "tokens": tokens}).runs
    assert list(run.tokens) == tokens[:-1]


UNUSABLE = {
    "no JSON object": ["hello", "[]", "{" + '"a":{' * 100_000, '{"a": NaN}'],
    "no prompt": [{**PLAIN, "prompt": " "}],
    "no completion": [{"prompt": QUESTION, "finish_reason": "stop"}],
    "no finish reason": [{"prompt": QUESTION, "completion": TEXT}],
    "the finish reason 'tool_calls'": [{**PLAIN, "finish_reason": "tool_calls"}],
    "a field of another type": [{**PLAIN, "completion": 3}, {"messages": 3, "text": TEXT, "finish_reason": "stop"}],
    "a conversation other than one message of the user": [{"messages": 2 * USER, "text": "", "finish_reason": "stop"}],
    "a response without choices (an error?)": [{"custom_id": "b", "response": {"body": {}}, "messages": USER}],
    "no request with this custom_id": [{"custom_id": "c", "response": {"body": ANSWERED}}],
    "the controller changed this run": [{**TRACE, "closed_by": "exit"}, {**TRACE, "reopened": [3]}],
    "tokens that are no token ids": [{**TRACE, "tokens": [-1]}, {**TRACE, "tokens": ["1"]}],
    "tokens that the model doesn't have": [{**TRACE, "tokens": [1 << 40]}],
    "tokens that don't give the text back": [TRACE],
    "an empty completion": [{**PLAIN, "completion": ""}],
    "an end of sequence within the text": [{**PLAIN, "completion": TEXT + "<eos>" + TEXT}],
    "a prompt that came before": [PLAIN],
    "a prompt that a template rendered with other settings": [{**PLAIN, "prompt": f"Now: {QUESTION}\n<think>\n"}],
}


def test_every_other_line_is_counted_by_reason_and_number(tmp_path):
    bad = [(reason, line) for reason, lines in UNUSABLE.items() for line in lines]
    found = own(tmp_path, PLAIN, *(line for _, line in bad))
    assert len(found.runs) == 1
    wanted = {}
    for number, (reason, _) in enumerate(bad, start=2):
        wanted.setdefault(reason, []).append(f"log.jsonl:{number}")
    assert found.unusable.lines == wanted
    assert "4 lines unusable: no JSON object (log.jsonl:2, log.jsonl:3" in found.unusable.messages()[0]


def test_stripped_reasoning_is_refused(tmp_path):
    with pytest.raises(ControllerError, match="1 of 1 runs of log.jsonl end without '</think>', so their reasoning"):
        own(tmp_path, {**PLAIN, "completion": "42"})
    many = [{**PLAIN, "prompt": f"{i} a-9 b+6 c-3"} for i in range(20, 40)]
    found = own(tmp_path, *many, {**PLAIN, "completion": "42"})
    assert found.unusable.lines == {STRIPPED: ["log.jsonl:21"]} and len(found.runs) == 20


def test_a_log_without_a_usable_line_is_refused_with_the_reasons(tmp_path):
    with pytest.raises(ControllerError, match="no line of log.jsonl can be used: 1 line unusable: no prompt"):
        own(tmp_path, {**PLAIN, "prompt": ""})


def test_the_length_limit_of_the_log_is_the_jobs(tmp_path):
    size = len(RECIPE.load().tokenizer.encode(THOUGHT))
    cut = {**PLAIN, "completion": THOUGHT, "finish_reason": "length"}
    with pytest.raises(ControllerError, match=f"log.jsonl:1 was cut at {size} tokens, .* --max-new-tokens {size} or"):
        own(tmp_path, cut)
    short = replace(RECIPE, max_new_tokens=size)
    ((_, run),) = own(tmp_path, cut, recipe=short).runs
    assert len(run.tokens) == size
    assert collect_run(short, 0, QUESTION, logged=run).finish == "length"
    assert collect_run(RECIPE, 0, QUESTION, logged=own(tmp_path, PLAIN).runs[0][1]).finish == "stop"
    # A longer run is what the model would have written under the job's limit, up to there.
    ((_, shorter),) = own(tmp_path, PLAIN, recipe=short).runs
    assert shorter.tokens == run.tokens


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ControllerError, match=r"nothing.jsonl' can't be read as a log of runs"):
        read_log([str(tmp_path / "nothing.jsonl")])
    assert read_log([written(tmp_path, PLAIN)]).lines == [LogLine("log.jsonl:1", QUESTION, TEXT, "stop")]
