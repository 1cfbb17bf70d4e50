"""The endpoint, asked by the official client: every kind of request, over both libraries."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from reasonctl.backends.server.limits import ServerLimits
from reasonctl.controller import Call, Controller, Keys, Trace, parse_policy
from support.serving import POLICY, QUESTION, Running, post, running


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def served(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def llama() -> Iterator[Running]:
    with running() as made:
        yield made


def streamed(chunks: Any) -> dict[str, Any]:
    """A stream's parts, put together."""
    found: dict[str, Any] = {
        "reasoning": "",
        "content": "",
        "finish": None,
        "usage": None,
        "reasonctl": None,
        "order": "",
    }
    for chunk in chunks:
        found["usage"] = chunk.usage or found["usage"]
        found["reasonctl"] = getattr(chunk, "reasonctl", None) or found["reasonctl"]
        for choice in chunk.choices:
            reasoning, content = getattr(choice.delta, "reasoning_content", None) or "", choice.delta.content or ""
            assert not (reasoning and content)
            found["reasoning"] += reasoning
            found["content"] += content
            found["order"] += "r" * bool(reasoning) + "c" * bool(content)
            found["finish"] = choice.finish_reason or found["finish"]
    return found


def test_an_answer_is_what_the_loop_says(served: Running) -> None:
    """The same tokens as the controller's own run of that seed, with thoughts apart and the usage counted."""
    answer = served.ask()
    model, service = served.service.served.model, served.service
    call = Call(model.prompt(QUESTION), 768, model.eos, Keys(seed=1), parse_policy(POLICY))
    trace = Trace()
    controller: Controller = service._controller
    with_ = list(controller.stream(model.engine.session(), model.tokenizer, call, trace))
    text = model.tokenizer.decode([event.token for event in with_ if event.token not in model.eos])
    thoughts, _, said = text.partition("</think>")
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == (thoughts.strip(), said.lstrip())
    assert answer.usage.completion_tokens == len(trace.tokens)
    assert answer.usage.completion_tokens_details.reasoning_tokens == trace.thinking_tokens > 0
    assert answer.usage.prompt_tokens == len(call.prompt)
    done = answer.reasonctl["choices"][0]
    assert done["why"] == trace.why and done["closed_by"] == "exit" and done["saved"] > 0


def test_a_stream_is_the_answer_in_parts(served: Running) -> None:
    whole, message = served.ask(), served.ask().choices[0].message
    parts = streamed(served.ask(stream=True, stream_options={"include_usage": True}))
    assert (parts["reasoning"], parts["content"]) == (message.reasoning_content, message.content)
    assert parts["finish"] == "stop" and parts["usage"] == whole.usage
    assert parts["reasonctl"]["choices"][0]["why"] == whole.reasonctl["choices"][0]["why"]
    assert re.fullmatch("r{5,}c{3,}", parts["order"])
    assert streamed(served.ask(stream=True))["usage"] is None


def test_log_probabilities_belong_to_the_answers_tokens(served: Running) -> None:
    answer = served.ask(logprobs=True, top_logprobs=3, temperature=0)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        values = [one.logprob for one in token.top_logprobs]
        assert len(values) == 3 and values == sorted(values, reverse=True) and token.logprob == values[0] <= 0
    chunks = list(served.ask(logprobs=True, stream=True, temperature=0))
    noted = [one for chunk in chunks for c in chunk.choices if c.logprobs for one in c.logprobs.content]
    assert [(one.token, one.logprob) for one in noted] == [(one.token, one.logprob) for one in tokens]


def test_choices_are_runs_of_their_own(served: Running) -> None:
    answer = served.ask(n=3, temperature=1.5)
    runs = answer.reasonctl["choices"]
    assert [choice.index for choice in answer.choices] == [run["run"] for run in runs] == [0, 1, 2]
    alone = served.ask(temperature=1.5).choices[0].message
    assert answer.choices[0].message == alone
    assert len({choice.message.reasoning_content for choice in answer.choices}) > 1


def test_a_stop_text_ends_the_answer_and_not_the_thoughts(served: Running) -> None:
    full = served.ask().choices[0].message
    cut = served.ask(stop=["is", " 4"])
    assert full.content.startswith("The answer is 4") and cut.choices[0].message.content == "The answer "
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.reasoning_content == full.reasoning_content
    assert cut.usage.completion_tokens < served.ask().usage.completion_tokens
    assert streamed(served.ask(stop="is", stream=True))["content"] == "The answer "
    assert " 4" in full.reasoning_content, "the control: it stands in the thoughts too"


def test_a_completion_continues_its_prompt(served: Running) -> None:
    client = served.client()
    prompt = f"Q: {QUESTION}\n<think>\n"
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompt, "seed": 1, "max_tokens": 200}
    whole = client.completions.create(**asked, logprobs=2)
    assert "</think>" in whole.choices[0].text and whole.choices[0].finish_reason == "stop"
    assert len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.token_logprobs) > 5
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == whole.choices[0].text
    ids = served.service.served.model.tokenizer.encode(prompt)
    assert client.completions.create(**{**asked, "prompt": ids}).choices[0].text == whole.choices[0].text
    assert client.completions.create(**{**asked, "max_tokens": 5}).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "closed", "most"),
    [
        ({"extra_body": {"thinking_token_budget": 5}}, "budget", 5),
        ({"extra_body": {"reasonctl": {"budget": 5}}}, "budget", 5),
        ({"extra_body": {"reasonctl": {"effort": "none"}}}, "budget", 0),
        ({"reasoning_effort": "none"}, "budget", 0),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "budget", 0),
        ({"extra_body": {"reasonctl": {"risk": 0.2}}}, "exit", 200),
        ({"extra_body": {"reasonctl": {"policy": "careful"}}}, "exit", 200),
        ({"extra_body": {"reasonctl": {"policy": "temperature(0.5) | min_p(0.1)"}}}, "exit", 200),
        ({"extra_body": {"reasonctl": {"draft": "ngram(4)"}}}, "exit", 200),
        ({"extra_body": {"min_p": 0.2, "top_k": 20}, "top_p": 0.9, "temperature": 0.7}, "exit", 200),
        ({"frequency_penalty": 0.1, "presence_penalty": 0.1, "logit_bias": {"3": -5}}, "exit", 200),
        ({"user": "me", "metadata": {"a": "b"}, "store": False, "max_completion_tokens": 700}, "exit", 200),
    ],
    ids=str,
)
def test_what_people_send(llama: Running, fields: dict[str, Any], closed: str, most: int) -> None:
    answer = llama.ask(**fields)
    done = answer.reasonctl["choices"][0]
    assert done["closed_by"] == closed and done["thinking_tokens"] <= most
    assert answer.choices[0].message.content


def test_drafts_change_no_token(llama: Running) -> None:
    plain, drafted = llama.ask(), llama.ask(extra_body={"reasonctl": {"draft": "ngram(4)"}})
    assert drafted.choices[0].message == plain.choices[0].message
    assert drafted.reasonctl["choices"][0]["drafted"] > 0


def test_samples_vote(llama: Running) -> None:
    answer = llama.ask(extra_body={"reasonctl": {"samples": 5}})
    assert len(answer.choices) == 1 and answer.reasonctl["samples"] == 5 and 0 < answer.reasonctl["share"] <= 1
    assert answer.usage.completion_tokens > 4 * llama.ask().usage.completion_tokens
    parts = streamed(llama.ask(extra_body={"reasonctl": {"samples": 5}}, stream=True))
    assert parts["content"] == answer.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "gpt-4"}, "there is no model 'gpt-4'"),
        ({"temperature": -1}, "temperature"),
        ({"extra_body": {"thoughts": 3}}, "unknown field 'thoughts'"),
        ({"extra_body": {"reasonctl": {"budgets": 3}}}, "unknown field 'reasonctl.budgets'; did you mean 'budget'?"),
        ({"extra_body": {"reasonctl": {"policy": "autodeco(/etc/passwd)"}}}, "names 'autodeco'"),
        ({"extra_body": {"reasonctl": {"policy": "grammar(/etc/passwd)"}}}, "names 'grammar'"),
        ({"extra_body": {"reasonctl": {"policy": "think: greedy; answer: grammar(x)"}}}, "names 'grammar'"),
        ({"extra_body": {"reasonctl": {"draft": "model(other.gguf)"}}}, "opens no file and no model"),
        ({"extra_body": {"reasonctl": {"draft": "hierarchy(8, corpus=/etc/passwd)"}}}, "opens no file"),
        ({"extra_body": {"reasonctl": {"effort": "heroic"}}}, "heroic"),
        ({"extra_body": {"reasonctl": {"risk": 2}}}, "risk"),
        ({"extra_body": {"reasonctl": {"samples": 3}}, "n": 2}, "leave one of them out"),
        ({"n": 1000}, "at most 16"),
        ({"messages": []}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "shows no tools"),
        ({"messages": [{"role": "user", "content": QUESTION * 9999}]}, "context"),
    ],
    ids=str,
)
def test_what_is_refused_by_name(llama: Running, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.APIStatusError, match=re.escape(message)) as refused:
        llama.ask(**fields)
    assert 400 <= refused.value.status_code < 500


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1:1/a.png", "data:image/png;base64,AAAA"])
def test_pictures_are_never_fetched(llama: Running, url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(openai.BadRequestError, match="picture"):
        llama.ask(messages=[{"role": "user", "content": content}])


def test_who_may_ask(llama: Running) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 3})
    chat = "/v1/chat/completions"
    assert post(llama, chat, content=body).status_code == 200
    assert post(llama, chat, content=body, key=None).status_code == 401
    assert post(llama, chat, content=body, headers={"authorization": "Bearer wrong-key-of-tests"}).status_code == 401
    assert post(llama, chat, content=body, headers={"host": "evil.example"}).status_code == 421
    assert post(llama, chat, content=body, headers={"content-type": "text/plain"}).status_code == 415
    assert post(llama, chat, content=b"x" * (1 << 20) + b"x").status_code == 413
    assert post(llama, "/v1/nothing").status_code == 404
    for path, key, status in (("/health", None, 200), ("/metrics", None, 401), ("/v1/models", None, 401)):
        assert post(llama, path, key=key, method="GET").status_code == status
    asked = post(llama, chat, content=body, headers={"origin": "https://evil.example"})
    assert not [name for name in asked.headers if name.startswith("access-control")]
    page = post(llama, "/metrics", method="GET").text
    assert re.search(r'^reasonctl_requests_total\{route="/v1/chat/completions",status="421"\} 1$', page, re.MULTILINE)
    assert re.search(r"^reasonctl_thinking_tokens_saved_total [1-9]", page, re.MULTILINE)


def test_thinking_is_closed_from_outside_with_the_same_key_only() -> None:
    """The id comes in a header before the first token; another key can't use it, nor can anybody guess."""
    with running(probe=False, limits=ServerLimits(drain_seconds=5)) as served:
        model = served.service.served.model
        real, gate, made = model.engine.forward, threading.Event(), list[int]()

        def slow(requests: Any) -> Any:
            made.append(len(requests))
            return (len(made) < 4 or gate.wait(30)) and real(requests)

        object.__setattr__(model.engine, "forward", slow)
        with served.client().chat.completions.with_streaming_response.create(
            model="tiny", messages=[{"role": "user", "content": QUESTION}], seed=1, stream=True
        ) as response:
            path = f"/v1/requests/{response.headers['x-request-id']}/answer"
            until = time.monotonic() + 30
            work = next(iter(served.service.open.values()))
            while not work.answers[0].thinking and time.monotonic() < until:
                time.sleep(0.01)
            assert post(served, path, key=1).status_code == 404
            assert post(served, "/v1/requests/chatcmpl-0/answer").status_code == 404
            assert post(served, path).json()["closed"] == 1
            gate.set()
            text = "".join(response.iter_text())
        assert '"closed_by":"asked"' in text
        assert post(served, path).status_code == 404


def test_a_full_queue_says_so_and_a_client_that_left_frees_its_row() -> None:
    with running(limits=ServerLimits(queue=1, drain_seconds=5), at_once=1) as served:
        gate = threading.Event()
        real = served.service.served.model.engine.forward
        object.__setattr__(served.service.served.model.engine, "forward", lambda asked: gate.wait(30) and real(asked))
        streams = [served.ask(stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as refused:
            served.ask()
        assert refused.value.response.headers["retry-after"] == "1"
        for stream in streams:
            stream.close()
        gate.set()
        assert served.idle()
        assert served.ask().choices[0].message.content
