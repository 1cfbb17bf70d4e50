"""attach() for transformers: the model's class is swapped for a subclass whose `_sample` runs the controlled loop.

Everything that generate() prepares (limits, stop strings, streamer, processors) keeps its meaning. Owns the call's
translation; the loop is the controller's.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache
from transformers.generation import EosTokenCriteria, GenerateDecoderOnlyOutput, GenerationMode, MaxLengthCriteria

from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Decode,
    Greedy,
    Keys,
    Policy,
    Sampling,
    Tokenizer,
    Trace,
)

from ..handle import Handle, check_parts, for_call, take_asked, thinking_of
from .engine import HFEngine
from .load import wrap_transformers
from .processors import LAW, behind, check_processors, for_row
from .session import HFSession
from .tokenizer import HFTokenizer, NoTokenizer

_MODES = {
    GenerationMode.BEAM_SEARCH: "num_beams",
    GenerationMode.BEAM_SAMPLE: "num_beams",
    GenerationMode.GROUP_BEAM_SEARCH: "num_beam_groups",
    GenerationMode.CONTRASTIVE_SEARCH: "penalty_alpha",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: "constraints",
    GenerationMode.DOLA_GENERATION: "dola_layers",
    GenerationMode.ASSISTED_GENERATION: "assistant_model or prompt_lookup_num_tokens",
}
"""Modes with a loop of their own, by the argument that asks for them."""

_REFUSED = ("inputs_embeds", "position_ids", "assistant_model", "synced_gpus")
_PREPARED = {
    "attention_mask",
    "position_ids",
    "use_cache",
    "logits_to_keep",
    "tokenizer",
    "past_key_values",
    "cache_params",
}
_SAMPLING = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0} | dict.fromkeys(
    ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
)
"""Sampling arguments and the library's defaults."""


def attach_transformers(model: Any, controller: Controller, *, tokenizer: Any = None) -> Handle:
    """Control every later `model.generate(...)`. Raises ControllerError if that model or controller can't be."""
    base = type(model)
    if hasattr(base, "_reasonctl"):
        raise ControllerError(f"this {base.__name__} is attached already; detach its handle first")
    if not hasattr(model, "generation_config") or not hasattr(base, "_sample"):
        raise ControllerError(f"{base.__name__} has no generate loop of transformers; attach the model inside it")
    if controller.reads_text and tokenizer is None:
        raise ControllerError(
            "exit rules and thinking budgets read text; pass the tokenizer: attach(model, controller, tokenizer=…)"
        )
    policy_reads_text = controller.policy is not None and controller.policy.reads_text
    if policy_reads_text and tokenizer is None:
        raise ControllerError(f"policy {controller.policy} reads text; pass the tokenizer: attach(…, tokenizer=…)")
    if controller.exit is not None or policy_reads_text:
        check_parts(controller, wrap_transformers("this model", model, tokenizer))
    attachment = _Attachment(model, controller, tokenizer)
    for_call(controller, attachment.thinking, {})
    model.__class__ = _controlled_class(base, attachment)
    return attachment.handle


def _controlled_class(base: type, attachment: _Attachment) -> type:
    """A subclass that goes by its base's name, so that save_pretrained and pipelines see the same model."""

    @functools.wraps(base.generate)  # type: ignore[attr-defined]
    def generate(self: Any, *args: Any, **named: Any) -> Any:
        return attachment.generate(args, named)

    def sample(
        self: Any,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        return attachment.sample(
            input_ids, logits_processor, stopping_criteria, generation_config, streamer, model_kwargs
        )

    def check_mode(self: Any, mode: Any, *args: Any, **named: Any) -> Any:
        # The first thing that generate() asks once it knows the mode.
        if mode in _MODES:
            raise ControllerError(f"{_MODES[mode]} can't be honoured under a controller; leave it out, or detach first")
        return base._get_deprecated_gen_repo(self, mode, *args, **named)  # type: ignore[attr-defined]

    def reduce(self: Any, protocol: Any) -> Any:
        # Copies and pickles are of the base class: uncontrolled.
        made: Any = object.__reduce_ex__(self, protocol)
        return (made[0], (base, *made[1][1:]), *made[2:])

    members = {
        "generate": generate,
        "_sample": sample,
        "_get_deprecated_gen_repo": check_mode,
        "__reduce_ex__": reduce,
        "_reasonctl": attachment,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (base,), members)


class _Shared:
    """Feeds a prompt that several rows of a batch have in common (num_return_sequences) once."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine, self.prompt, self.fed = engine, [-1], engine.session()

    def session(self, prompt: list[int]) -> HFSession:
        """A fork that waits for the prompt's last token."""
        if prompt != self.prompt:
            self.prompt, self.fed = prompt, self.engine.session()
            if len(prompt) > 1:
                self.engine.forward([Decode(self.fed, prompt[:-1])])
        return self.fed.fork()


class _Attachment:
    """One model under one controller."""

    def __init__(self, model: Any, controller: Controller, tokenizer: Any) -> None:
        self.model, self.base, self.library_tokenizer = model, type(model), tokenizer
        self.engine = HFEngine(model)
        self.tokenizer: Tokenizer = NoTokenizer() if tokenizer is None else HFTokenizer(tokenizer)
        template = getattr(tokenizer, "chat_template", None)
        self.thinking = None if tokenizer is None else thinking_of(template if isinstance(template, str) else None)
        # generate() hands the call's own wishes to sample() past the library, which would refuse them.
        self._call = threading.local()
        self.handle = Handle(controller, self._restore)
        self.handle.custom_generate = self._custom_generate
        self._arguments = list(inspect.signature(self.base.generate).parameters)[1:]
        self._warned = False

    def _restore(self) -> None:
        self.model.__class__ = self.base

    def _custom_generate(self, *args: Any, **named: Any) -> Any:
        # An attached model takes this argument off the call; called by generate() itself, the model isn't attached.
        raise ControllerError("custom_generate belongs to a detached handle, or to another model; attach this one")

    def generate(self, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The user's call: refuse what the loop can't honour, then the library's own preparation."""
        named = dict(zip(self._arguments, args, strict=False)) | named
        streamer = named.get("streamer")
        try:
            asked = take_asked(named)
            controller = for_call(self.handle.controller, self.thinking, asked)
            if controller.reads_text and self.library_tokenizer is None:
                raise ControllerError(
                    f"{', '.join(asked)} needs text; attach with the tokenizer: attach(…, tokenizer=…)"
                )
            self._call.asked, self._call.controller = asked, controller
            # With this argument transformers drops streamer and tokenizer; the swapped class needs no such detour.
            if named.pop("custom_generate", None) not in (None, self.handle.custom_generate):
                raise ControllerError("custom_generate brings a loop of its own; leave it out, or detach first")
            for name in _REFUSED:
                if named.get(name) is not None and named[name] is not False:
                    raise ControllerError(f"{name} can't be honoured under a controller; leave it out, or detach first")
            if self.library_tokenizer is not None and named.get("tokenizer") is None:
                named["tokenizer"] = self.library_tokenizer
            return self.base.generate(self.model, **named)
        finally:
            # Whatever happens: a thread that reads the streamer must not wait for ever.
            if streamer is not None:
                streamer.end()

    def sample(
        self, input_ids: Any, processors: Any, criteria: Any, config: Any, streamer: Any, prepared: dict[str, Any]
    ) -> Any:
        """What generate() calls in place of its own loop: the rows run one after another."""
        rows, controller, asked = len(input_ids), self._call.controller, self._call.asked
        _check_config(config, prepared, self.engine.cache_name)
        why = "running a batch row by row" if rows > 1 else "drafting" if controller.drafter else "an exit or a budget"
        if rows > 1 or controller.drafter or controller.rewrites:
            check_processors(processors, why)
        if rows > 1 and getattr(prepared.get(self.engine.cache_name), "_is_user_defined", False):
            raise ControllerError(
                f"{self.engine.cache_name} of a batch can't be honoured; leave it out, or detach first"
            )
        notes = self._notes(config)
        random = config.do_sample or controller.policy is not None
        seed = int(torch.randint(0, 2**63 - 1, (1,))) if random else 0
        mask = prepared.get("attention_mask")
        self.handle.begin()
        sequences, shared, met = [], _Shared(self.engine), set[tuple[int, ...]]()
        for row, padded in enumerate(input_ids.tolist()):
            prompt = padded if mask is None else self._unpadded(padded, mask[row].tolist())
            read = _reader(padded, len(prompt), input_ids.device)
            eos, limit, stop = _ends(criteria, len(padded), read)
            policy = self._policy(processors, config.do_sample, row, rows, read)
            session = shared.session(prompt) if rows > 1 else self._session(prepared, len(padded), config)
            trace = Trace(warnings=list(notes), asked=asked)
            self.handle.add(trace)
            call = Call(prompt, limit, eos, Keys(seed=seed, run=row), policy, stop, tuple(prompt) in met)
            met.add(tuple(prompt))
            for event in replace(controller, policy=None).stream(session, self.tokenizer, call, trace):
                if streamer is not None:
                    streamer.put(torch.tensor([event.token]))
            sequences.append(padded + trace.tokens)
            if rows > 1:
                session.close()
        return _result(sequences, config, input_ids, session)

    def _unpadded(self, padded: list[int], mask: list[int]) -> list[int]:
        """The tokens that attention sees: it is blind to holes, and positions skip them."""
        if self.engine.recurrent and 0 in mask[mask.index(1) if 1 in mask else 0 :]:
            raise ControllerError(
                "attention_mask has a hole; a recurrent state runs through holes: pass a mask of ones"
            )
        return [token for token, seen in zip(padded, mask, strict=True) if seen]

    def _policy(
        self, processors: Sequence[Any], do_sample: bool, row: int, rows: int, read: Callable[..., torch.Tensor]
    ) -> Policy:
        """The controller's policy behind the call's constraints; without one, the call's whole law."""
        own = self.handle.controller.policy
        inner = own or (Sampling() if do_sample else Greedy())
        applied = [for_row(p, row, rows) for p in processors if own is None or not isinstance(p, LAW)]
        return behind(applied, inner, read)

    def _notes(self, config: Any) -> list[str]:
        """Warn, once, that the call's sampling arguments give way to the controller's policy."""
        if self.handle.controller.policy is None or not config.do_sample:
            return []
        given = {name: getattr(config, name, None) for name in _SAMPLING}
        told = ", ".join(f"{n}={v}" for n, v in given.items() if v is not None and v != _SAMPLING[n])
        note = f"the controller's own policy is used; the call's sampling arguments are not: {told}"
        if not self._warned:
            warnings.warn(note, stacklevel=2)
            self._warned = True
        return [note]

    def _session(self, prepared: dict[str, Any], length: int, config: Any) -> HFSession:
        """A new sequence, or the one in a cache that the user passed."""
        cache: Any = prepared.get(self.engine.cache_name)
        if not getattr(cache, "_is_user_defined", False):
            return self.engine.session()
        told = getattr(config, "_mask_length", length)
        seen = cache.get_seq_length()
        if type(cache) is not DynamicCache or prepared.get("attention_mask") is not None or told != length:
            raise ControllerError(
                f"{self.engine.cache_name} is honoured as a DynamicCache of one unpadded prompt whose tokens are all "
                "in input_ids; leave it out, or detach first"
            )
        if seen >= length:
            raise ControllerError(f"{self.engine.cache_name} holds {seen} tokens and input_ids only {length}; crop it")
        cache.activate_past_recording()
        return HFSession(self.engine, cache, seen, self.model.device)


def _check_config(config: Any, prepared: dict[str, Any], cache_name: str) -> None:
    wanted = {
        "use_cache": config.use_cache is False,
        "cache_implementation": config.cache_implementation not in (None, "dynamic", "hybrid", "sliding_window"),
        "prefill_chunk_size": config.prefill_chunk_size is not None,
    }
    if config.return_dict_in_generate:
        for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
            wanted[name] = bool(getattr(config, name))
    wanted |= {name: value is not None for name, value in prepared.items() if name not in _PREPARED}
    for name, given in wanted.items():
        if given:
            raise ControllerError(f"{name} can't be honoured under a controller; leave it out, or detach first")


def _reader(padded: list[int], skip: int, device: torch.device) -> Callable[[Sequence[int]], torch.Tensor]:
    """Tokens as the library's processors and criteria see them: the padded prompt, then what was generated."""

    def read(tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([padded + list(tokens[skip:])], device=device)

    return read


def _ends(
    criteria: Sequence[Any], length: int, read: Callable[[Sequence[int]], torch.Tensor]
) -> tuple[frozenset[int], int, Callable[[Sequence[int]], bool] | None]:
    """(end tokens, max_new_tokens, everything else as one question) of the call's stopping criteria."""
    eos = frozenset(t for c in criteria if type(c) is EosTokenCriteria for t in c.eos_token_id.tolist())
    limit = min((c.max_length for c in criteria if type(c) is MaxLengthCriteria), default=1 << 62) - length
    others = [c for c in criteria if type(c) not in (EosTokenCriteria, MaxLengthCriteria)]
    if not others:
        return eos, limit, None

    def stop(tokens: Sequence[int]) -> bool:
        ids = read(tokens)
        return any(bool(torch.as_tensor(criterion(ids, None)).any()) for criterion in others)

    return eos, limit, stop


def _result(sequences: list[list[int]], config: Any, input_ids: torch.Tensor, session: HFSession) -> Any:
    """The rows padded to the longest, in the type that the call asked for."""
    pad = 0 if config._pad_token_tensor is None else int(config._pad_token_tensor)
    longest = max(map(len, sequences))
    filled = [tokens + [pad] * (longest - len(tokens)) for tokens in sequences]
    ids = torch.tensor(filled, dtype=input_ids.dtype, device=input_ids.device)
    if not config.return_dict_in_generate:
        return ids
    return GenerateDecoderOnlyOutput(sequences=ids, past_key_values=session.cache)
