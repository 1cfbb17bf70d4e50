"""A request's sampling as a policy, its limits of thinking as a controller's, and its drafter. No file is opened."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reasonctl.controller import (
    AnswerOnly,
    Chain,
    Constrained,
    Controller,
    ControllerError,
    Drafter,
    Grammar,
    Greedy,
    Hierarchy,
    LogitBias,
    MinP,
    Penalties,
    Policy,
    Stage,
    Temperature,
    TopK,
    TopP,
    parse_draft,
    parse_policy,
)
from reasonctl.controller.core import split_top
from reasonctl.controller.drafting import Recent
from reasonctl.controller.sampling import STAGES

from .refusals import invalid
from .requests import Asked, ChatRequest

FILE_FREE = frozenset({"greedy", *STAGES} - {"grammar", "autodeco"})
"""Stages that a request may name: none of them reads a file."""
EFFORTS: Mapping[str, float] = {"minimal": 0.05, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 1.0}
"""Thinking tokens as a share of the run's, by OpenAI's names, where the server defines no others."""
MOST_DRAFTERS = 32
"""Drafters of keys; the one that was used least recently is forgotten."""
REMEMBERED = 5000
"""Pairs of tokens that a key's drafter remembers of earlier runs: 9 MB at most."""
_NAME = re.compile(r"\s*([a-zA-Z_0-9]+)")
_DRAFT = re.compile(r"(?:none|ngram|hierarchy)(?:\([1-9]\d{0,2}\))?")
_MOST_BIAS = 100


def chosen_policy(request: Asked, default: Policy, presets: Mapping[str, Policy]) -> Policy:
    """The policy that draws a request's tokens: the server's own, unless the request names sampling of its own.

    Args:
        request: The request.
        default: The server's policy, for which an exit rule's promise was made.
        presets: Policies by the names that a request may use.

    Raises:
        Refusal: The policy reads a file, or isn't one.
    """
    named, fields = request.reasonctl.policy, _sampling(request)
    if named is not None and fields:
        raise invalid(f"reasonctl.policy and {', '.join(fields)} were both given; leave one out", "reasonctl.policy")
    policy = default if named is None and not fields else None
    if named is not None:
        policy = presets[named] if named in presets else _file_free(named)
    constraints = _constraints(request)
    if policy is not None:
        return Constrained(constraints, policy) if constraints else policy
    if fields.get("temperature") == 0:
        return Greedy(*constraints)
    return Chain(*constraints, *_samplers(fields))


def _sampling(request: Asked) -> dict[str, float]:
    """The sampling fields that the request sets."""
    names = ("temperature", "top_k", "top_p", "min_p")
    return {name: value for name in names if (value := vars(request)[name]) is not None}


def _samplers(fields: Mapping[str, float]) -> list[Stage]:
    stages: tuple[Stage, ...] = (
        TopK(max(int(fields.get("top_k", 0)), 0)),
        TopP(max(fields.get("top_p", 1.0), 1e-9)),
        MinP(fields.get("min_p", 0.0)),
    )
    return [*(stage for stage in stages if stage not in (TopK(0), TopP(1.0), MinP(0.0))), _temperature(fields)]


def _temperature(fields: Mapping[str, float]) -> Stage:
    return Temperature(max(fields.get("temperature", 1.0), 1e-3))


def _constraints(request: Asked) -> list[Stage]:
    """Penalties and biases: they act before whatever samples."""
    stages: list[Stage] = []
    if request.repetition_penalty != 1.0:
        stages.append(Penalties(repeat=request.repetition_penalty))
    if (request.frequency_penalty, request.presence_penalty) != (0.0, 0.0):
        stages.append(Penalties(1.0, request.frequency_penalty, request.presence_penalty, prompt=False))
    if request.logit_bias:
        stages.append(LogitBias(tuple(_bias(token, bias) for token, bias in request.logit_bias.items())))
    return stages


def _bias(token: str, bias: float) -> tuple[int, float]:
    if not re.fullmatch(r"\d{1,9}", token) or abs(bias) > _MOST_BIAS:
        raise invalid(f"logit_bias: {token!r:.20} has {bias}; give token ids, and numbers up to 100", "logit_bias")
    return int(token), -float("inf") if bias == -_MOST_BIAS else bias


def _file_free(text: str) -> Policy:
    """The policy that a text names, which holds no stage that reads a file."""
    for part in split_top(text, ";"):
        phase, colon, chain = part.partition(":")
        for stage in split_top(chain if colon and "(" not in phase else part, "|"):
            name = _NAME.match(stage)
            if name is None or name[1] not in FILE_FREE:
                what = "" if name is None else name[1]
                raise invalid(
                    f"reasonctl.policy names {what!r:.40}, which a request may not; give a preset of the server or "
                    "stages that read no file, such as temperature(0.6) | min_p(0.05)",
                    "reasonctl.policy",
                )
    try:
        return parse_policy(text)
    except ControllerError as error:
        raise invalid(f"reasonctl.policy: {error}", "reasonctl.policy") from None


def governed(policy: Policy, source: str | None, opening: Sequence[int], thinks: bool) -> Policy:
    """The policy under a grammar of the answer.

    Args:
        policy: What samples.
        source: A JSON schema; None: the answer is free.
        opening: The tokens of the marker that opens thinking; empty where there is none.
        thinks: The run's thoughts are known apart from its answer.
    """
    if source is None:
        return policy
    grammar = Grammar(source)
    return Constrained([AnswerOnly(grammar, tuple(opening)) if thinks and opening else grammar], policy)


def limited(request: Asked, controller: Controller) -> Controller:
    """The controller under the request's limits of thinking.

    `enable_thinking: false` is a budget of 0, whoever opens thinking: the prompt, or the model in spite of that.

    Args:
        request: The request.
        controller: The server's.

    Raises:
        Refusal: Two fields contradict, or a value is impossible.
    """
    ours = request.reasonctl
    of_chat = request.reasoning_effort if isinstance(request, ChatRequest) else None
    budgets = {"thinking_token_budget": request.thinking_token_budget, "reasonctl.budget": ours.budget}
    efforts = {"reasoning_effort": of_chat, "reasonctl.effort": ours.effort}
    for fields in (budgets, efforts):
        given = [name for name, value in fields.items() if value is not None]
        if len(given) > 1:
            raise invalid(f"{' and '.join(given)} were both given; leave one of them out", given[0])
    unwanted = isinstance(request, ChatRequest) and request.chat_template_kwargs.enable_thinking is False
    marked = controller.closing is not None and controller.closing.markers is not None
    budget = next((value for value in budgets.values() if value is not None), 0 if unwanted and marked else None)
    effort = next((value for value in efforts.values() if value is not None), None)
    if controller.closing is None and (budget is not None or effort is not None):
        raise invalid("this model marks no thinking, so there is none to limit", "reasonctl")
    try:
        known = controller.efforts or (controller.exit.efforts if controller.exit is not None else {})
        if not known:
            controller = replace(controller, efforts=dict(EFFORTS))
        return controller.under(risk=ours.risk, thinking_budget=budget, effort=effort)
    except ControllerError as error:
        raise invalid(str(error), "reasonctl") from None


class Drafters:
    """The drafters of each key. One that remembers texts is a key's own, so that nobody is drafted another's text."""

    def __init__(self, own: Drafter | None) -> None:
        """own: what the server was started with."""
        self._own = own
        self._by_key: OrderedDict[tuple[str, str], Drafter | None] = OrderedDict()

    def of(self, key: str, asked: str | None) -> Drafter | None:
        """A key's drafter.

        Args:
            key: Whose request it is.
            asked: `reasonctl.draft`; None: the server's own.

        Raises:
            Refusal: The request names a file, a model, or no drafter.
        """
        name = "server" if asked is None else asked.replace(" ", "")
        if name != "server" and not _DRAFT.fullmatch(name):
            raise invalid(
                f"reasonctl.draft is {name!r:.40}; give none, ngram(8), hierarchy(16) or server: a request opens no "
                "file and no model",
                "reasonctl.draft",
            )
        place = key, name
        if place not in self._by_key:
            self._by_key[place] = _private(self._own if name == "server" else parse_draft(name))
        self._by_key.move_to_end(place)
        while len(self._by_key) > MOST_DRAFTERS:
            self._by_key.popitem(last=False)
        return self._by_key[place]


def _private(drafter: Drafter | None) -> Drafter | None:
    """A drafter without the texts of others."""
    if isinstance(drafter, Hierarchy) and drafter.recent is not None:
        return replace(drafter, recent=Recent(min(REMEMBERED, drafter.recent.capacity)))
    return drafter


def wanted_schema(request: Asked) -> dict[str, Any] | str | None:
    """The JSON schema that `response_format` asks for; None: free text."""
    asked = request.response_format
    if asked is None or asked.type == "text":
        if asked is not None and (asked.json_schema or asked.schema_):
            raise invalid("response_format has a schema and the type 'text'; give json_schema", "response_format")
        return None
    if asked.type == "json_object":
        return asked.schema_ or {"type": "object"}
    if asked.json_schema is None:
        raise invalid("response_format.json_schema is missing", "response_format")
    return asked.json_schema.schema_
