"""Logs of runs: every usual form is read, every line that can't be used is counted, and a wrong log is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from reasonctl.backends.hf.load import _conversation as hf_conversation
from reasonctl.backends.llama.load import _conversation
from reasonctl.backends.load import load_model
from reasonctl.backends.model import Message
from reasonctl.calibration.runs.own_runs import STRIPPED, own_runs
from reasonctl.calibration.runs.worker import AskedRun, collect_run, prepared
from reasonctl.calibration.tasks.run_logs import LogLine, read_log
from reasonctl.controller import ControllerError
from reasonctl.controller.core.trace import Closer
from reasonctl.controller.thinking import read_template
from support.recipes import RECIPE

QUESTION = "48 a-9 b+6 c-3"
THOUGHT = "a: 48-9=39\nwait, b: 39+6=45\nc: 45-3=42\n"
TEXT = THOUGHT + "</think>\n42"
USER = [{"role": "user", "content": QUESTION}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": QUESTION[:5]}, {"text": QUESTION[5:]}]}]
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
        [{"prompt": QUESTION, "content": TEXT, "tokens": [], "stop": True, "stop_type": "eos"}],  # llama.cpp's server
        [{"prompt": QUESTION, "choices": [{"text": TEXT, "finish_reason": "stop", "stop_reason": None}]}],  # vLLM
        [{"messages": USER, "choices": [{"message": {"content": TEXT}, "finish_reason": "stop", "stop_reason": 1}]}],
        [
            {
                "messages": PARTS,
                "reasoning": THOUGHT,
                "content": [{"type": "text", "text": "42"}],
                "finish_reason": "stop",
            }
        ],
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
    "a conversation whose last message isn't the user's": [
        {"messages": [*USER, {"role": "assistant", "content": "I"}], "text": TEXT, "finish_reason": "stop"}
    ],
    "a call of a tool": [
        {"messages": USER, "choices": [{"message": {"tool_calls": [{}], "content": ""}, "finish_reason": "stop"}]}
    ],
    "a message with more than text": [
        {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "text": TEXT,
            "finish_reason": "stop",
        }
    ],
    "a chunk of a stream": [{"messages": USER, "choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}]}],
    "a stop string, not the model, ended this run": [{**PLAIN, "stop_reason": "c:"}],
    "the finish reason 'word'": [{"prompt": QUESTION, "content": TEXT, "stop_type": "word"}],
    "a response without choices (an error?)": [{"custom_id": "b", "response": {"body": {}}, "messages": USER}],
    "no request with this custom_id": [{"custom_id": "c", "response": {"body": ANSWERED}}],
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


DECIDED = {"controlled": True, "decisions": [{"exit": False, "score": 0.1, "threshold": 0.5}]}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({**TRACE, "reopened": [3]}, "changed"),
        ({**TRACE, "warned": [3]}, "changed"),
        *(({**TRACE, "closed_by": closer}, "changed") for closer in get_args(Closer) if closer != "model"),
        ({**TRACE, "spans": [{"closed_by": "budget"}, {"closed_by": "model"}]}, "changed"),
        ({**TRACE, **DECIDED}, "decided"),
        ({"messages": USER, **ANSWERED, "reasonctl": {"choices": [{"closed_by": "exit"}]}}, "changed"),
    ],
)
def test_a_log_of_runs_that_a_controller_steered_is_refused_whole(tmp_path, line, why):
    with pytest.raises(ControllerError, match=rf"{why}.*log\.jsonl:2.*--shadow"):
        read_log([written(tmp_path, PLAIN, line)])


def test_a_rule_that_could_not_act_steers_nothing(tmp_path):
    never = {"controlled": True, "decisions": [{"exit": False, "score": 0.1, "threshold": None}]}
    served = {"messages": USER, **ANSWERED, "reasonctl": {"choices": [{"closed_by": "model"}]}}
    log = read_log([written(tmp_path, {**TRACE, **DECIDED, "shadow": True}, {**TRACE, **never}, served)])
    assert len(log.lines) == 3 and not log.unusable.total


SYSTEM = {"role": "system", "content": "Answer in a number."}
EARLIER = [{"role": "user", "content": "1 a+1"}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([SYSTEM, *USER], QUESTION),
        ([*EARLIER, *USER], f"user: 1 a+1\n\nassistant: 2\n\nuser: {QUESTION}"),
    ],
)
@pytest.mark.parametrize(
    "line",
    [
        lambda messages: [{"messages": messages, "text": TEXT, "finish_reason": "stop"}],
        lambda messages: [{"messages": messages, **ANSWERED}],
        lambda messages: [
            {"custom_id": "a", "body": {"messages": messages}},
            {"custom_id": "a", "response": {"status_code": 200, "body": ANSWERED}},
        ],
    ],
)
@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
def test_a_conversation_is_read_as_the_template_renders_it(tmp_path, backend, messages, question, line):
    recipe = replace(RECIPE, backend=backend)
    model = recipe.load()
    ((problem, run),) = own(tmp_path, *line(messages), recipe=recipe).runs
    rendered = f"Q: 1 a+1\n2<eos>Q: {QUESTION}\n<think>\n" if len(messages) > 2 else f"Q: {QUESTION}\n<think>\n"
    assert problem.question == question and list(run.prompt) == model.tokenizer.encode(rendered)
    assert model.tokenizer.decode(run.tokens) == TEXT


def test_the_run_of_a_conversation_is_collected_after_the_whole_of_it(tmp_path):
    line = {"messages": [*EARLIER, *USER], "text": TEXT, "finish_reason": "stop"}
    ((problem, run),) = own(tmp_path, line).runs
    call = prepared(RECIPE, RECIPE.load(), AskedRun(0, problem.question, run), None).call
    assert tuple(call.prompt) == run.prompt
    record = collect_run(RECIPE, 0, problem.question, logged=run)
    assert record.text == TEXT and record.question == problem.question and record.cues


def test_conversations_that_cannot_be_rendered_are_counted(tmp_path, monkeypatch):
    def lines(n: int) -> list[object]:
        made = [{"messages": [SYSTEM, *USER], "text": TEXT, "finish_reason": "stop"}]
        made += [{"messages": [{**SYSTEM, "content": "Be brief."}, *USER], "text": TEXT, "finish_reason": "stop"}]
        return [PLAIN, *made[:n]]

    # The bundled template leaves instructions out, so these prompts are the question's own.
    assert own(tmp_path, *lines(1)).unusable.lines == {"a prompt that came before": ["log.jsonl:2"]}
    model = RECIPE.load()
    for chat, reason in (
        (None, "a conversation, and the model has no chat template"),
        (lambda messages: None, "a conversation that the model's template can't render"),
        (lambda messages: [5] * 900, "a conversation that leaves no room for a run"),
        (lambda messages: [5, 6, 7], "a question that came before, in another conversation"),
    ):
        changed = replace(model, chat=chat)
        found = own_runs(changed, RECIPE, read_template(model.template), read_log([written(tmp_path, *lines(1))]))
        assert found.unusable.lines == {reason: ["log.jsonl:2"]} and len(found.runs) == 1


def test_a_template_that_refuses_a_role_gives_no_prompt(tmp_path):
    model = RECIPE.load()
    template = "{{ raise_exception('no system message here') }}"
    for broken in (template, "{{ messages[0].no.such }}", "{{ 'a' + 1 }}"):
        assert _conversation(model.library, broken)([Message("user", "a")]) is None
    tokenizer = load_model("tiny", backend="transformers", threads=1).tokenizer.library
    tokenizer.chat_template = template
    assert hf_conversation(tokenizer, [Message("user", "a")]) is None


def test_further_choices_are_counted(tmp_path):
    many = {"messages": USER, "choices": 3 * ANSWERED["choices"]}
    found = own(tmp_path, many)
    assert len(found.runs) == 1 and found.unusable.lines == {
        "a further choice for the same prompt": 2 * ["log.jsonl:1"]
    }


def test_a_log_has_a_digest_of_its_lines(tmp_path):
    digests = [read_log([written(tmp_path, *lines)]).sha256 for lines in ([PLAIN], [PLAIN], [PLAIN, PLAIN], [TRACE])]
    assert digests[0] == digests[1] and len(set(digests)) == 3


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
