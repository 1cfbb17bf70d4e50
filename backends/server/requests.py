"""What a request may hold, field by field. A field that isn't named here is refused by name, and never dropped."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasonctl.controller import ControllerError
from reasonctl.controller.core import parse

from .limits import ServerLimits
from .refusals import Refusal, invalid

MOST_SEED = 2**64 - 1
Body = TypeVar("Body", bound=BaseModel)


class Strict(BaseModel):
    """A JSON object without other fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
"""A finite number, whole or not."""
Count = Annotated[int, Field(ge=1)]


class ReasonctlOptions(Strict):
    """`reasonctl`: what this project's controller does in the request."""

    risk: Number | None = Field(None, gt=0, lt=1)
    """Risk of the exit rule."""
    budget: int | float | None = Field(None, ge=0)
    """Most thinking tokens; with a point, a share of the run's tokens."""
    effort: str | None = Field(None, max_length=40)
    """A name of the server's efforts."""
    policy: str | None = Field(None, max_length=400)
    """A preset's name, or sampling stages that read no file."""
    draft: str | None = Field(None, max_length=40)
    """none, ngram(K), hierarchy(K), or "server" for what the server was started with."""
    learn: bool = True
    """False: nothing of the request is kept, where the server learns from its traffic."""
    samples: Count | None = None
    """So many samples of which the most frequent answer is returned."""


class StreamOptions(Strict):
    """`stream_options`."""

    include_usage: bool = False
    """The last chunk holds the usage."""
    include_obfuscation: bool | None = None
    """Understood, and nothing is done."""


class TemplateOptions(Strict):
    """`chat_template_kwargs`."""

    enable_thinking: bool | None = None
    """False: the model answers at once."""


class SchemaFormat(Strict):
    """`response_format.json_schema`."""

    name: str = Field("answer", max_length=64)
    """What the client calls it."""
    description: str | None = None
    """For the client."""
    schema_: dict[str, Any] = Field(alias="schema")
    """The schema."""
    strict: bool | None = None
    """The answer keeps to the schema in any case."""


class ResponseFormat(Strict):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    """What the answer shall be."""
    json_schema: SchemaFormat | None = None
    """With "json_schema": which."""
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """With "json_object", as in llama-cpp-python: a schema."""


class Function(Strict):
    """A function that the model may call."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")
    """Its name."""
    description: str | None = None
    """For the model."""
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments."""
    strict: bool | None = None
    """Understood; with tool_choice "required" or a named tool, arguments keep to the schema in any case."""


class Tool(Strict):
    """One of `tools`."""

    type: Literal["function"]
    """The only kind."""
    function: Function
    """The function."""


class FunctionName(Strict):
    """A function, named."""

    name: str = Field(max_length=64)
    """Its name."""


class NamedTool(Strict):
    """A tool that must be called."""

    type: Literal["function"]
    """The only kind."""
    function: FunctionName
    """Which."""


class Message(BaseModel):
    """A message of the conversation; `messages.py` reads its content."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    content: str | list[dict[str, Any]] | None = None
    """The text, or its parts."""
    name: str | None = Field(None, max_length=64)
    """The speaker's name."""
    tool_calls: list[dict[str, Any]] | None = Field(None, max_length=64)
    """Tools that the assistant called."""
    tool_call_id: str | None = Field(None, max_length=128)
    """The call that a tool answers."""
    reasoning_content: str | None = None
    """What the assistant thought."""
    refusal: str | None = None
    """As answers of the API hold it."""
    annotations: list[Any] | None = Field(None, max_length=0)
    """As answers of the API hold it."""
    audio: None = None
    """As answers of the API hold it."""
    function_call: None = None
    """As answers of the API hold it."""


class SamplingFields(Strict):
    """What chat completions and completions share."""

    model: str = Field(max_length=256)
    """The model's name, as /v1/models says it."""
    n: Count = 1
    """Choices."""
    stream: bool = False
    """The answer comes in events."""
    stream_options: StreamOptions | None = None
    """With `stream`."""
    stop: str | list[str] | None = None
    """Texts that end the answer."""
    seed: int | None = Field(None, ge=0, le=MOST_SEED)
    """The same seed draws the same tokens."""
    temperature: Number | None = Field(None, ge=0, le=100)
    """0 is greedy."""
    top_p: Number | None = Field(None, ge=0, le=1)
    """Mass kept."""
    top_k: int | None = Field(None, ge=-1)
    """Tokens kept; 0 and -1: all."""
    min_p: Number | None = Field(None, ge=0, le=1)
    """Least probability kept, relative to the largest."""
    frequency_penalty: Number = Field(0.0, ge=-2, le=2)
    """Taken off for each time that a token was written."""
    presence_penalty: Number = Field(0.0, ge=-2, le=2)
    """Taken off once for a token that was written."""
    repetition_penalty: Number = Field(1.0, gt=0, le=10)
    """Divides logits of tokens that were written or stand in the prompt; 1 is off."""
    logit_bias: dict[str, Number] | None = Field(None, max_length=1024)
    """Added to logits, by token id; -100 bans."""
    thinking_token_budget: int | None = Field(None, ge=0)
    """Most thinking tokens."""
    response_format: ResponseFormat | None = None
    """What the answer shall be."""
    reasonctl: ReasonctlOptions = Field(default_factory=ReasonctlOptions.model_construct)
    """Ours."""
    user: str | None = None
    """Understood, and nothing is done."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(given)


class ChatRequest(SamplingFields):
    """A body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """The conversation."""
    max_tokens: Count | None = None
    """Most new tokens."""
    max_completion_tokens: Count | None = None
    """The same by its later name."""
    logprobs: bool = False
    """Log-probabilities of the answer's tokens."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """So many of the most probable tokens at each place."""
    tools: list[Tool] = []
    """Functions that may be called."""
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """Whether one must be."""
    parallel_tool_calls: bool = True
    """False: no more than the first call is returned."""
    reasoning_effort: str | None = Field(None, max_length=40)
    """A name of the server's efforts."""
    chat_template_kwargs: TemplateOptions = Field(default_factory=TemplateOptions.model_construct)
    """What the template is given."""
    store: Literal[False] | None = None
    """Nothing is stored."""
    metadata: dict[str, str] | None = Field(None, max_length=16)
    """Understood, and nothing is done."""
    service_tier: Literal["auto", "default"] | None = None
    """There is one."""
    safety_identifier: str | None = None
    """Understood, and nothing is done."""
    prompt_cache_key: str | None = None
    """Understood, and nothing is done."""
    modalities: list[Literal["text"]] | None = None
    """Text only."""

    @property
    def most_new_tokens(self) -> int | None:
        """Most new tokens, by either name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def most_alternatives(self) -> int | None:
        """Most probable tokens that are wanted at each place; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(SamplingFields):
    """A body of /v1/completions."""

    prompt: str | list[int] | list[str]
    """The text to continue, or its tokens; a list holds one text."""
    max_tokens: Count | None = 16
    """Most new tokens, 16 as in the API."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """So many of the most probable tokens at each place."""
    echo: Literal[False] | None = None
    """The prompt isn't returned."""
    best_of: Literal[1] | None = None
    """Use `reasonctl.samples`."""
    suffix: None = None
    """Nothing is filled in."""

    @property
    def most_new_tokens(self) -> int | None:
        """Most new tokens."""
        return self.max_tokens

    @property
    def most_alternatives(self) -> int | None:
        """Most probable tokens that are wanted at each place; None: no log-probabilities."""
        return self.logprobs


class Verdict(Strict):
    """A body of /v1/requests/{id}/verdict."""

    right: bool
    """Whether the answer was right."""
    choice: int = Field(0, ge=0, le=1 << 10)
    """Which of the choices."""


Asked = ChatRequest | CompletionRequest


def read_request(kind: type[ChatRequest] | type[CompletionRequest], body: bytes, limits: ServerLimits) -> Asked:
    """The request that a body holds.

    Args:
        kind: Which request.
        body: The body, of a bounded length.
        limits: The server's.

    Raises:
        Refusal: It is no JSON, or a field isn't what it should be.
    """
    request = _validated(kind, body)
    _check_numbers(request, limits)
    if isinstance(request, ChatRequest):
        _check_chat(request, limits)
    return request


def read_verdict(body: bytes) -> Verdict:
    """What a client says of an answer. Raises Refusal for anything else."""
    return _validated(Verdict, body)


def _validated(kind: type[Body], body: bytes) -> Body:
    """A body's fields."""
    try:
        value = parse(body, "the body")
    except ControllerError as error:
        raise invalid(str(error)) from None
    if not isinstance(value, dict):
        raise invalid('the body is no JSON object; give {"model": ..., ...}')
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refusal(kind: type[BaseModel], error: ValidationError) -> Refusal:
    """The first thing that is wrong with a body of this kind, in one line."""
    found = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in found["loc"][:6])[:120]
    if found["type"] == "extra_forbidden":
        near = get_close_matches(str(found["loc"][-1])[:64], _fields(kind, found["loc"][:-1]), n=1)
        remedy = f"did you mean {near[0]!r}? Else leave it out" if near else "leave it out"
        return Refusal(400, f"unknown field {place!r}; {remedy}", param=place, code="unknown_parameter")
    if found["type"] == "missing":
        return Refusal(400, f"the field {place!r} is missing", param=place, code="missing_required_parameter")
    given = f"; it is {found['input']!r:.60}" if not isinstance(found["input"], dict | list) else ""
    return invalid(f"{place}: {found['msg']}{given}", place)


def _fields(kind: Any, where: Sequence[int | str]) -> list[str]:
    """Names of the fields of the object at this place of a body; [] where its type isn't one alone."""
    for step in where:
        if isinstance(step, str) and step in kind.model_fields:
            kind = _object(kind.model_fields[step].annotation)
        if kind is None:
            return []
    return [field.alias or name for name, field in kind.model_fields.items()]


def _object(annotation: Any) -> type[BaseModel] | None:
    """The kind of object that a type holds, alone, in a list or next to other types; None: none, or one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [one for one in map(_object, get_args(annotation)) if one is not None]
    return found[0] if len(found) == 1 else None


def _check_numbers(request: Asked, limits: ServerLimits) -> None:
    """Raises Refusal where a number is beyond the server's limits, or two fields contradict."""
    most = request.most_new_tokens
    if most is not None and most > limits.most_tokens:
        raise invalid(f"max_tokens is {most}; at most {limits.most_tokens} are given", "max_tokens")
    for name, value in (("n", request.n), ("reasonctl.samples", request.reasonctl.samples or 1)):
        if value > limits.choices:
            raise invalid(f"{name} is {value}; at most {limits.choices} are given", name)
    if request.reasonctl.samples and request.n > 1:
        raise invalid("reasonctl.samples returns one of its samples, and n is above 1; leave one of them out", "n")
    if len(request.stops) > limits.stops:
        raise invalid(f"stop has {len(request.stops)} texts; at most {limits.stops} are taken", "stop")
    if any(not 0 < len(text) <= limits.stop_characters for text in request.stops):
        raise invalid(f"a stop text must have 1 to {limits.stop_characters} characters", "stop")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options needs stream: true", "stream_options")


def _check_chat(request: ChatRequest, limits: ServerLimits) -> None:
    """The same for what only a conversation has."""
    if len(request.messages) > limits.messages:
        raise invalid(f"messages has {len(request.messages)} entries; at most {limits.messages} are read", "messages")
    if len(request.tools) > limits.tools:
        raise invalid(f"tools has {len(request.tools)} entries; at most {limits.tools} are read", "tools")
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    if request.max_tokens and request.max_completion_tokens:
        raise invalid("max_tokens and max_completion_tokens were both given; leave one of them out", "max_tokens")
    named = request.tool_choice
    forced = named == "required" or isinstance(named, NamedTool)
    if forced and not request.tools:
        raise invalid("tool_choice asks for a call, and there are no tools", "tool_choice")
    if isinstance(named, NamedTool) and named.function.name not in {tool.function.name for tool in request.tools}:
        raise invalid(f"tool_choice names {named.function.name!r}, which is none of the tools", "tool_choice")
    if forced and request.response_format is not None and request.response_format.type != "text":
        raise invalid("response_format and a forced tool were both given; leave one of them out", "response_format")
