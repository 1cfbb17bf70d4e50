"""The endpoint's service over models whose text is known, without a server around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from reasonctl.backends.server.service import Served, Service
from reasonctl.controller import Controller, Greedy, Markers, Thinking
from support.serving import answered
from support.toy_models import writing

TEMPLATE = "{% if enable_thinking is defined and enable_thinking is false %}?{% else %}?<think>{% endif %}"
THINKING = Thinking(Markers("<think>", "</think>"), "</think>\n")
Serving = Callable[[Sequence[bytes]], Service]


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Starts a service over a model that writes the given tokens."""
    made = list[Service]()

    def start(pieces: Sequence[bytes]) -> Service:
        model = replace(writing(pieces), template=TEMPLATE)
        made.append(Service(Served(model, Controller(thinking=THINKING), Greedy(), 40, 4)))
        made[-1].start()
        return made[-1]

    yield start
    for service in made:
        service.close()


def test_an_answer_says_that_the_context_had_room_for_fewer_tokens(serving: Serving) -> None:
    service = serving([b"<think>", b"so ", b"on ", b"</think>", b"\n", b"Four", b"."])
    model, (_, work) = service.served.model, answered(service)
    room = model.context - work.prompt_tokens - len(model.tokenizer.encode(THINKING.suffix))
    for asked, warnings in ((room, 0), (room + 1, 1)):
        _, work = answered(service, max_completion_tokens=asked)
        assert len(work.choices[0].trace.warnings) == warnings
    assert f"at most {room} new tokens and not {room + 1}" in work.choices[0].trace.warnings[0]


def test_thinking_that_the_model_opens_itself_is_closed_where_none_is_wanted(serving: Serving) -> None:
    """The template opens none, the model does: its budget is 0 all the same."""
    service = serving([b"<think>", b"so ", b"on ", b"</think>", b"\n", b"Four", b"."])
    (free,), _ = answered(service)
    assert (free.reasoning, free.content) == ("so on", "Four.")
    for budget, thoughts in (({}, ""), ({"thinking_token_budget": 1}, "so")):
        (written,), work = answered(service, chat_template_kwargs={"enable_thinking": False}, **budget)
        assert (written.reasoning, written.content) == (thoughts, "Four.")
        assert work.choices[0].trace.closed_by == "budget"
