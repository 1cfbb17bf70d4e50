"""Attaching a controller to a llama_cpp.Llama: its `generate` becomes the controlled loop, all else stays.

Every completion and chat call, streamed or not, goes through `generate`; no other method changes its result.
"""

from __future__ import annotations

import functools
import inspect
import secrets
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from llama_cpp import LLAMA_DEFAULT_SEED, Llama
from llama_cpp import llama_cpp as C

from reasonctl.controller import Call, Controller, ControllerError, Keys, Policy, Trace
from reasonctl.controller.core.decode import common_prefix

from ..handle import Handle, check_parts, for_call, take_asked, thinking_of
from .engine import LlamaEngine
from .load import wrap_llama
from .sampling import call_policy, changed, check_processors
from .tokenizer import LlamaTokenizer, end_tokens


def attach_llama(llm: Llama, controller: Controller) -> Handle:
    """Control every later call of this Llama.

    Its context is rebuilt (its cache is empty then); `detach` rebuilds the original one. Raises ControllerError
    for a Llama that is attached already or has a draft model of its own.
    """
    if "generate" in vars(llm):
        raise ControllerError("this Llama's generate is replaced already (attached twice?); detach first")
    if llm.draft_model is not None:
        raise ControllerError("this Llama has a draft_model; build it without one and give the Controller a drafter")
    attached = _Attached(llm, controller)
    handle = attached.handle = Handle(controller, restore=attached.detach)
    return handle


def _controlled_class(base: type, attached: _Attached) -> type:
    """A subclass that goes by its base's name, whose public calls take the controller's keywords too."""

    def taking(name: str) -> Callable[..., Any]:
        stock = getattr(base, name)

        @functools.wraps(stock)
        def call(self: Any, *args: Any, **named: Any) -> Any:
            with attached.asking(named):
                return stock(self, *args, **named)

        return call

    def reduce(self: Any, protocol: Any) -> Any:
        # Copies and pickles are of the base class: uncontrolled.
        made: Any = object.__reduce_ex__(self, protocol)
        return (made[0], (base, *made[1][1:]), *made[2:])

    members = {name: taking(name) for name in ("__call__", "create_completion", "create_chat_completion")}
    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), {**members, **named, "__reduce_ex__": reduce})


class _Attached:
    """The replaced methods of one Llama."""

    handle: Handle

    def __init__(self, llm: Llama, controller: Controller) -> None:
        self.llm, self.controller = llm, controller
        depth, rule = int(C.llama_model_n_layer(llm.model)), controller.exit
        rule_reads = rule is not None and bool(rule.layers(depth))
        policy_reads = controller.policy is not None and bool(controller.policy.layers(depth))
        self.engine = LlamaEngine(llm, hidden=rule_reads or policy_reads)
        self.tokenizer, self.eos = LlamaTokenizer(llm), end_tokens(llm)
        self.thinking = thinking_of(llm.metadata.get("tokenizer.chat_template"))
        try:
            for_call(controller, self.thinking, {})
            check_parts(controller, wrap_llama("this Llama", llm, self.engine, self.tokenizer))
        except ControllerError:
            self.engine.close()
            raise
        self.session = self.engine.user_session()
        self.max_tokens: int | None = None
        self.asked: dict[str, Any] = {}
        self._asking = threading.local()
        self.warned = False
        self.running: object = None
        self._signature = inspect.signature(llm.generate)
        self._create_completion = llm._create_completion
        llm.generate, llm._create_completion = self.generate, self.create_completion
        self.base = type(llm)
        llm.__class__ = _controlled_class(self.base, self)

    def detach(self) -> None:
        """The Llama as it was, with an empty cache."""
        del self.llm.generate, self.llm._create_completion
        self.llm.__class__ = self.base
        self.engine.close()

    @contextmanager
    def asking(self, named: dict[str, Any]) -> Iterator[None]:
        """Keep a public call's own wishes, taken off `named`, for the completion that it leads to."""
        outer = getattr(self._asking, "asked", {})
        asked = outer | take_asked(named)
        for_call(self.controller, self.thinking, asked)
        self._asking.asked = asked
        try:
            yield
        finally:
            self._asking.asked = outer

    def create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Stock, but `generate` gets to know the call's wishes and its limit, which the library keeps to itself."""
        # A stream is read after the call that asked for it has returned.
        return self._complete(getattr(self._asking, "asked", {}), args, kwargs)

    def _complete(self, asked: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        if kwargs.get("logprobs") is not None:
            raise ControllerError(f"logprobs is {kwargs['logprobs']}; it can't be honoured yet: drop it or detach")
        # Read by `generate` before anything else can run: the library calls it in the first step of its generator.
        self.max_tokens, self.asked = kwargs.get("max_tokens"), asked
        try:
            yield from self._create_completion(*args, **kwargs)
        finally:
            self.max_tokens, self.asked = None, {}

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        """`Llama.generate`: the same arguments, and the same tokens but for what the controller does."""
        asked, self.asked = self.asked | take_asked(kwargs), {}
        controller = for_call(self.controller, self.thinking, asked)
        bound = self._signature.bind(tokens, *args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        if controller.rewrites:  # drafts alone are harmless: only rows that are walked ask a processor, once each
            check_processors(arguments["logits_processor"], "an exit or a budget")
        budget, self.max_tokens = self.max_tokens, None
        prompt = [int(token) for token in tokens]
        if not arguments["reset"]:
            prompt = self.llm._input_ids.tolist() + prompt
        policy = call_policy(
            arguments,
            prompt=len(prompt),
            window=self.llm.last_n_tokens_size,
            model=self.llm.model,
            own=self.controller.policy,
        )
        others, room = self._room(prompt, policy)
        if room < 1:
            more = f" ({sum(others)} more on the policy's second sequence)" if others else ""
            raise ControllerError(
                f"the prompt has {len(prompt)} tokens{more} and the context {self.engine.context}; "
                "shorten it or raise n_ctx"
            )
        limit = min(budget, room) if budget is not None and budget > 0 else room
        call = Call(prompt=prompt, max_new_tokens=limit, eos=self.eos, keys=Keys(seed=self._seed()), policy=policy)
        return self._run(controller, call, arguments, Trace(asked=asked))

    def _run(
        self, controller: Controller, call: Call, arguments: dict[str, Any], trace: Trace
    ) -> Generator[int, Sequence[int] | None, None]:
        self._note_policy(arguments, trace)
        self.handle.begin()
        self.handle.add(trace)
        yield from self._stream(replace(controller, policy=None), call, arguments["stopping_criteria"], trace)
        if trace.finish_reason != "length":
            return
        # The library asks beyond its own budget where that ends inside a UTF-8 character.
        tokens = [*call.prompt, *trace.tokens]
        others, room = self._room(tokens, call.policy)
        if room < 1 and others:
            return  # the library knows nothing of a second sequence, and asks for what the context could hold without
        if room < 1:
            raise ControllerError(f"the context of {self.engine.context} tokens is full; give a larger n_ctx")
        rest, more = Controller(drafter=controller.drafter), replace(call, prompt=tokens, max_new_tokens=room)
        yield from self._stream(rest, more, arguments["stopping_criteria"], Trace())

    def _room(self, tokens: Sequence[int], policy: Policy) -> tuple[tuple[int, ...], int]:
        """(lengths of a policy's sequences beside the run's own, most tokens to come): all share the context."""
        others = policy.extra_sequences(self.tokenizer, tokens)
        return others, (self.engine.context - len(tokens) - sum(others)) // (1 + len(others))

    def _stream(
        self, controller: Controller, call: Call, stop: Any, trace: Trace
    ) -> Generator[int, Sequence[int] | None, None]:
        """One run of the loop; the Llama's own record of its cache follows what is yielded."""
        self._reuse_prefix(call.prompt)
        llm, ids, position = self.llm, self.llm.input_ids, len(call.prompt)
        running = self.running = object()
        stopped = False
        try:
            # Closed at once, not when it is collected: that ends the run where nobody reads on.
            with closing(controller.stream(self.session, self.tokenizer, call, trace)) as events:
                for event in events:
                    position = event.position
                    ids[position], llm.n_tokens = event.token, position
                    stopped = stop is not None and stop(ids[:position], llm.scores[0])
                    if stopped:
                        break
                    if (yield event.token) is not None:
                        raise ControllerError("tokens can't be sent into generate under a controller; detach for that")
                    if self.running is not running:
                        raise RuntimeError(
                            "another call was made on this Llama before this stream ended; read it first"
                        )
            if stopped:
                trace.finish_reason = "stop"
        except GeneratorExit:
            trace.finish_reason = trace.finish_reason or "stop"  # a stop string, or nobody reads on
            raise
        finally:
            if self.running is running:
                # The last token yielded is not in the cache, nor is an exit's suffix that was just forced.
                llm.n_tokens = min(position, self.session.length)
                llm._requires_eval = True

    def _reuse_prefix(self, prompt: Sequence[int]) -> None:
        """Keep what the cache shares with the prompt; the last prompt token is always fed, for its logits."""
        llm, session = self.llm, self.session
        if len(llm.input_ids) < self.engine.context:
            # The library makes this array as long as the n_ctx asked for, which llama.cpp rounds up.
            llm.input_ids = np.concatenate([llm.input_ids, np.zeros(self.engine.context, dtype=np.intc)])
        n = min(session.adopt(llm.n_tokens), len(prompt) - 1)
        common = common_prefix(prompt[:n], llm.input_ids[:n].tolist())
        if common < session.length:
            if self.engine.editable:
                session.rollback(session.length - common)
            else:
                common = session.adopt(0)
        llm.input_ids[: len(prompt)] = prompt
        llm.n_tokens = common

    def _seed(self) -> int:
        """The seed that the library has set for this call: the call's own, or the next of its chain."""
        seed = int(self.llm._seed) & 0xFFFFFFFFFFFFFFFF
        return secrets.randbits(32) if seed & 0xFFFFFFFF == LLAMA_DEFAULT_SEED else seed

    def _note_policy(self, arguments: dict[str, Any], trace: Trace) -> None:
        names = changed(arguments) if self.controller.policy is not None else []
        if not names:
            return
        message = f"the controller's own policy decides the sampling; this call's {', '.join(names)} had no effect"
        trace.warnings.append(message)
        if not self.warned:
            self.warned = True
            warnings.warn(message, stacklevel=3)
