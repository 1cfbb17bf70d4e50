"""attach() for llama_cpp.Llama: its `generate` becomes the controlled loop, and everything else stays.

Every completion and chat call, streamed or not, goes through `generate`. The Llama's own record of its cache is kept
up, so that calls after `detach` find what they expect.
"""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llama_cpp import LLAMA_DEFAULT_SEED
from llama_cpp import llama_cpp as C
from llama_cpp.llama import Llama

from reasonctl.controller import AnswerNow, Call, Controller, ControllerError, Keys, Policy, Trace
from reasonctl.controller.core import common_prefix
from reasonctl.controller.sampling import Shown

from ..attachment import Attachment
from ..handle import Handle, check_parts, recorded, take_overrides, thinking_of, turn_of
from ..processors import accepted
from ..token_ids import as_ids, check_ids
from ..turns import Turn
from .drafts import drafting
from .engine import LlamaEngine
from .load import templates_of, wrap_llama
from .pictures import clear_record, has_pictures
from .record import lengthened, write_drawn
from .sampling import call_policy, changed, check_processors
from .stop_text import Fed, OwnText, own_ends, runs_of
from .tokenizer import LlamaTokenizer, end_tokens
from .tool_calls import sorted_answer


def attach_llama(llm: Llama, controller: Controller) -> Handle:
    """Control every later call of this Llama.

    Its context is rebuilt, so its cache is empty; `detach` rebuilds the original one. Its `draft_model` is the drafter,
    unless the controller has one.

    Raises:
        ControllerError: the Llama is attached already, has a generate loop of its own, or isn't what the exit rule was
            made for.
    """
    if "generate" in vars(llm):
        raise ControllerError("this Llama's generate is replaced already (attached twice?); detach first")
    if controller.codes != "independent":
        raise ControllerError(
            f"codes is {controller.codes!r}, and a call of llama-cpp-python draws one sample; draw many with "
            "Controller.samples or ctl sample, or leave codes out"
        )
    generate = type(llm).generate
    if generate is not Llama.generate or generate.__module__ != Llama.__module__ or hasattr(generate, "__wrapped__"):
        raise ControllerError(
            f"{type(llm).__name__}.generate isn't the library's own, and a controller would replace it; "
            "attach a Llama whose generate is as it came"
        )
    attachment = LlamaAttachment(llm, drafting(llm, controller))
    attachment.take_over()
    return attachment.handle


def _members(attachment: LlamaAttachment) -> dict[str, Any]:
    """What the attached Llama's class replaces: its public calls take the controller's keywords too."""

    def taking(name: str) -> Callable[..., Any]:
        stock = getattr(attachment.base, name)

        @functools.wraps(stock)
        def call(self: Any, *args: Any, **named: Any) -> Any:
            # A chat call leads to create_completion, which must not lose what the chat call was given.
            overrides = attachment.overrides | take_overrides(named)
            with attachment.calling(overrides, chat=name == "create_chat_completion"):
                if has_pictures(self, args, named):
                    made = attachment.with_pictures(lambda: stock(self, *args, **named))
                else:
                    made = stock(self, *args, **named)
                return attachment.sorted_chat(made) if name == "create_chat_completion" else made

        return call

    def detokenize(self: Any, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        return attachment.detokenize(tokens, prev_tokens, special)

    taken = {name: taking(name) for name in ("__call__", "create_completion", "create_chat_completion")}
    return taken | {"detokenize": detokenize}


@dataclass(frozen=True)
class _Completion:
    """What `generate` must know of the completion that calls it, and the library doesn't pass on."""

    max_tokens: int | None = None
    """The call's limit; None = up to the end of the context."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """The call's keywords for the controller."""
    pictures: bool = False
    """A handler has fed the prompt, and what it fed can't be read off its tokens."""
    stops: bool = False
    """Texts or criteria of the user's end the completion: the library stops reading there."""


_DIRECT = _Completion()
"""`generate` was called by the user."""


class _Room(NamedTuple):
    """What a run and its policy find in the context, which all their sequences share."""

    extra: tuple[int, ...]
    """Lengths of the sequences that the policy keeps besides the run's own."""
    tokens: int
    """Most tokens to come."""


class LlamaAttachment(Attachment):
    """One Llama under one controller."""

    def __init__(self, llm: Llama, controller: Controller) -> None:
        super().__init__(llm, controller, thinking_of(templates_of(llm)))
        depth, rule = int(C.llama_model_n_layer(llm.model)), controller.exit
        rule_reads = rule is not None and bool(rule.layers(depth))
        policy_reads = controller.policy is not None and bool(controller.policy.layers(depth))
        takes_back = controller.drafter is not None or controller.knowing(self.thinking).closing is not None
        drafted = 0 if controller.drafter is None else controller.drafter.size
        self.engine = LlamaEngine(llm, rule_reads or policy_reads, checkpoints=takes_back, drafted=drafted)
        self.tokenizer = LlamaTokenizer(llm)
        self.handle.tokenizer = self.tokenizer
        try:
            self.under({})  # raises where the template and the controller don't fit
            self._check_cache(controller)
            check_parts(controller, wrap_llama("this Llama", llm, self.engine, self.tokenizer))
        except ControllerError:
            self.engine.close()
            raise
        self.session = self.engine.user_session()
        self._eos = end_tokens(llm)
        self._fed: list[bool] = []
        """For each token that the run has yielded, whether it was fed."""
        self._prompt_tokens = 0
        self._signature = inspect.signature(llm.generate)
        self._stock_completion = llm._create_completion

    def _check_cache(self, controller: Controller) -> None:
        """Raises ControllerError where the controller takes tokens back and this Llama's cache can't."""
        reason, rule = self.engine.context.fixed, controller.exit
        exits = rule is not None and rule.takes_back and not controller.shadow
        if reason and (controller.limits.reopens or exits):
            raise ControllerError(f"the controller takes tokens back: {reason}")

    def take_over(self) -> None:
        """Replace the Llama's methods by those of this attachment."""
        self.model.generate = self.generate
        self.model._create_completion = self.create_completion
        self.swap_class(_members(self))

    def detach(self) -> None:
        """Give the Llama back as it was, with an empty cache."""
        super().detach()
        del self.model.generate, self.model._create_completion
        self.engine.close()

    def create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Stock, but `generate` gets to know the call's overrides and its limit."""
        biased = [int(token) for token in kwargs.get("logit_bias") or ()]
        check_ids(biased, self.engine.context.vocabulary, "logit_bias")
        # A stream is read after the call that asked for it has returned, so the overrides are read now.
        turn: Turn | None = getattr(self.of_thread, "turn", None)
        self.of_thread.turn = None
        ends = {self.base.detokenize(self.model, [token], special=True).decode(errors="replace") for token in self._eos}
        cut = own_ends(kwargs, ends, chat=self.in_chat)
        completion = _Completion(kwargs.get("max_tokens"), self.overrides, turn is not None, cut)
        return self._in_turn(self._stock_completion(*args, **kwargs), completion, turn)

    def with_pictures(self, chat: Callable[[], Any]) -> Any:
        """A chat call whose handler feeds the prompt: it has the turn from then on, and a stream keeps it."""
        turn = self.turns.turn()
        turn.begin()
        self.of_thread.turn = turn
        try:
            clear_record(self.model)
            answer = chat()
            if self.of_thread.turn is not None:  # the handler asked for no completion
                turn.end()
            elif self.turns.holder is turn:
                turn.pause()
            return answer
        except BaseException:
            turn.end()
            raise
        finally:
            self.of_thread.turn = None

    def sorted_chat(self, made: Any) -> Any:
        """A chat call's answer, whose tool calls hold no thoughts."""
        controller = self.under(self.overrides)
        closing = controller.closing if controller.reads_text else None  # else the grammar governs all
        return sorted_answer(made, None if closing is None else closing.markers, lambda: self.handle.trace)

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None, special: bool) -> bytes:
        """Stock; of a completion's tokens, as a text in which stop strings pass over what was fed."""

        def read(part: list[int]) -> bytes:
            text: bytes = self.base.detokenize(self.model, part, prev_tokens=prev_tokens, special=special)
            return text

        text = read(tokens)
        if prev_tokens is None or not any(self._fed):
            return text
        first = len(prev_tokens) - self._prompt_tokens
        spans = runs_of(self._fed[first : first + len(tokens)])
        return OwnText.of(text, [Fed(len(read(tokens[:start])), len(read(tokens[:end]))) for start, end in spans])

    def _in_turn(
        self, run: Generator[Any, None, None], completion: _Completion, turn: Turn | None = None
    ) -> Generator[Any, Any, None]:
        """A stream of the library's, or a run that the user asked `generate` for, read while no other call runs.

        Args:
            run: what is read.
            completion: what `generate` is to know of it.
            turn: has begun already; None = wait for one.
        """
        begun, turn = turn is not None, turn or self.turns.turn()
        turn.stop = run.close
        try:
            if begun:
                turn.resume()
            else:
                turn.begin()
            # Read by `generate` in this thread: the library calls it in the first step of its generator.
            self.of_thread.completion = completion
            for item in run:
                turn.pause()
                yield item  # tokens that are sent are a draft to the library: they change nothing of what is written
                turn.resume()
        finally:
            if self.completion is completion:
                self.of_thread.completion = _DIRECT
            turn.end()

    @property
    def completion(self) -> _Completion:
        """The completion that this thread is in, until `generate` has read it."""
        found: _Completion = getattr(self.of_thread, "completion", _DIRECT)
        return found

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Any, None]:
        """`Llama.generate` under the controller, with the same arguments."""
        completion = self.completion
        self.of_thread.completion = _DIRECT
        overrides = completion.overrides | take_overrides(kwargs)
        controller = self.under(overrides)
        bound = self._signature.bind(tokens, *args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        if controller.rewrites:  # drafts alone are harmless: only rows that are walked ask a processor, once each
            check_processors(arguments["logits_processor"], "an exit or a budget")
        prompt = as_ids(tokens, "the prompt")
        check_ids(prompt, self.engine.context.vocabulary, "the prompt")
        if not arguments["reset"]:
            prompt = self.model._input_ids.tolist() + prompt
        call = self._call(prompt, arguments, completion.max_tokens, controller)
        call = replace(call, turn=turn_of(overrides), cut=completion.stops, private=self.handle.private)
        run = self._run(controller, call, arguments, Trace(overrides=recorded(overrides)), completion.pictures)
        return self._in_turn(run, _DIRECT) if completion is _DIRECT else run

    def _call(
        self, prompt: list[int], arguments: dict[str, Any], max_tokens: int | None, controller: Controller
    ) -> Call:
        """One call of `generate` for the loop. Raises ControllerError for a prompt that fills the context."""
        processors, llm = arguments["logits_processor"], self.model
        # A controller that has nothing to do with thinking leaves the library's meaning: a grammar governs all.
        opening = self.opening(controller, self.tokenizer) if controller.reads_text else ()
        policy = call_policy(
            arguments,
            prompt=len(prompt),
            window=llm.last_n_tokens_size,
            model=llm.model,
            own=self.handle.controller.policy,
            show=self._show,
            opening=opening,
        )
        if controller.logprobs == "drawn" and llm._logits_all:
            policy = Shown(policy, functools.partial(write_drawn, self.model.scores))
        # A grammar of the whole run would not admit what closes thinking.
        askable = bool(opening) or arguments["grammar"] is None
        askable = askable and accepted(lambda: check_processors(processors, "answer_now"))
        room = self._room(prompt, policy)
        if room.tokens < 1:
            more = f" ({sum(room.extra)} more on the policy's second sequence)" if room.extra else ""
            raise ControllerError(
                f"the prompt has {len(prompt)} tokens{more} and the context {self.engine.context.size}; "
                "shorten it or raise n_ctx"
            )
        limit = min(max_tokens, room.tokens) if max_tokens is not None and max_tokens > 0 else room.tokens
        call = Call(prompt, limit, self._eos, Keys(seed=self._seed()), policy, wanted=max_tokens or 0)
        # The library asks on where its budget ends inside a character.
        return replace(call, beyond=room.tokens - limit, answer_now=AnswerNow() if askable else None)

    def _run(
        self, controller: Controller, call: Call, arguments: dict[str, Any], trace: Trace, pictures: bool
    ) -> Generator[int, None, None]:
        """The controlled run. Raises ControllerError where the library asks for more than the context holds."""
        if self.handle.controller.policy is not None:
            trace.warnings += self.without_effect(changed(arguments))
        self.handle.begin()
        self.handle.add(trace, call.answer_now, call.prompt)
        self._fed = []
        self._prompt_tokens = len(call.prompt)
        self._reuse_prefix(call.prompt, pictures)
        yield from self._stream(replace(controller, policy=None), call, arguments["stopping_criteria"], trace)
        # The library knows nothing of a policy's second sequence, and asks for what the context could hold without.
        if trace.finish_reason == "length" and not call.policy.extra_sequences(self.tokenizer, call.prompt):
            raise ControllerError(f"the context of {self.engine.context.size} tokens is full; give a larger n_ctx")

    def _room(self, tokens: Sequence[int], policy: Policy) -> _Room:
        extra = policy.extra_sequences(self.tokenizer, tokens)
        return _Room(extra, (self.engine.context.size - len(tokens) - sum(extra)) // (1 + len(extra)))

    def _stream(self, controller: Controller, call: Call, stop: Any, trace: Trace) -> Generator[int, None, None]:
        """One run of the loop. What is yielded is in the Llama's own record of its cache."""
        llm = self.model
        ids = llm.input_ids
        position = len(call.prompt)
        stopped = False
        try:
            # Closed here, and not when it is collected, so that the run ends where nobody reads on.
            with closing(controller.stream(self.session, self.tokenizer, call, trace)) as events:
                for event in events:
                    position = event.position
                    ids[position] = event.token
                    llm.n_tokens = position
                    self._fed.append(event.source == "forced")
                    stopped = stop is not None and stop(ids[:position], llm.scores[0])
                    if stopped:
                        break
                    yield event.token
            if stopped:
                trace.finish_reason = "stop"
            elif trace.finish_reason == "stop" and trace.tokens[-1] not in self._eos:
                yield min(self._eos)  # an exit's answer ended before the model did: the library reads "stop" off this
        except GeneratorExit:
            trace.finish_reason = trace.finish_reason or "stop"  # a stop string, or nobody reads on
            raise
        finally:
            # The last token yielded is not in the cache, nor is an exit's suffix that was just forced.
            llm.n_tokens = min(position, self.session.length)
            llm._requires_eval = True

    def _show(self, tokens: npt.NDArray[np.intc]) -> None:
        """Let the Llama's own record hold these tokens, whose last row is about to be sampled from."""
        self.model.input_ids[: len(tokens)] = tokens
        self.model.n_tokens = len(tokens)

    def _reuse_prefix(self, prompt: Sequence[int], pictures: bool) -> None:
        """Keep what the cache shares with the prompt; the last prompt token is fed, for its logits.

        Where the cache holds the whole prompt and can't be cut before that token, its row is the library's last one.

        Raises:
            ControllerError: the prompt has pictures and the cache doesn't hold it.
        """
        llm, session = self.model, self.session
        # The library makes these arrays as long as the n_ctx asked for, which llama.cpp rounds up.
        llm.input_ids = lengthened(llm.input_ids, self.engine.context.size)
        if self.session.recorded:
            llm.scores = lengthened(llm.scores, self.engine.context.size)
        n = min(llm.n_tokens, len(prompt))
        common = common_prefix(prompt[:n], llm.input_ids[:n].tolist())
        fed = common == len(prompt) == llm.n_tokens and not llm._requires_eval
        if pictures and not fed:
            raise ControllerError(
                "the picture's handler has fed another prompt than it passed on; detach for this call"
            )
        if fed and (pictures or not session.cuts(common - 1)):
            session.adopt_given(common, self.engine.last_row())
            llm.n_tokens = session.length
        else:
            llm.n_tokens = session.adopt(min(common, len(prompt) - 1))
        llm.input_ids[: len(prompt)] = prompt

    def _seed(self) -> int:
        """The seed that the library has set for this call: the call's own, or the next of its chain."""
        seed = int(self.model._seed) & 0xFFFFFFFFFFFFFFFF
        return secrets.randbits(32) if seed & 0xFFFFFFFF == LLAMA_DEFAULT_SEED else seed
