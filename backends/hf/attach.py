"""attach() for transformers: the model's class is swapped for a subclass whose `_sample` runs the controlled loop.

Everything that generate() prepares keeps its meaning: limits, stop strings, streamer, processors. Here a prepared call
becomes a `Call` for each row; the loop is the controller's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache
from transformers.generation import GenerationMixin, GenerationMode

from reasonctl.controller import AnswerOnly, Controller, ControllerError, Grammar, Stage, Tokenizer

from ..attachment import Attachment, warn_once
from ..grammar import grammar_of
from ..handle import Handle, check_parts, take_overrides, thinking_of, turn_of
from ..processors import accepted
from ..token_ids import check_rows
from .criteria import check_criteria
from .engine import HFEngine
from .load import templates_of, wrap_transformers
from .own_generate import check_generate, check_reached
from .prefill import media_of
from .processors import anew, check_batch, check_processors
from .prompts import length_of, prompts_of
from .recorded import Drawn, caching_of, outputs_of, recorded, result_of
from .rows import PreparedCall, Rows
from .stock import Puts, nothing_to_do, run_stock
from .tokenizer import HFTokenizer, NoTokenizer
from .with_state import wrapped

_MODES = {
    GenerationMode.BEAM_SEARCH: "num_beams",
    GenerationMode.BEAM_SAMPLE: "num_beams",
    GenerationMode.GROUP_BEAM_SEARCH: "num_beam_groups",
    GenerationMode.CONTRASTIVE_SEARCH: "penalty_alpha",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: "constraints",
    GenerationMode.DOLA_GENERATION: "dola_layers",
    GenerationMode.ASSISTED_GENERATION: "assistant_model or prompt_lookup_num_tokens",
}
"""Modes of generate() with a loop of their own, and the argument that asks for each."""

_MARK = "_reasonctl"
"""Attribute of an attached model's class."""

_LIBRARYS = ("inputs_embeds", "position_ids", "synced_gpus")
"""Arguments that the library's own loop gets where the controller has nothing to do."""

_SAMPLING = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0} | dict.fromkeys(
    ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
)
"""Sampling arguments and the library's defaults."""


def attach_transformers(
    model: Any, controller: Controller, *, tokenizer: Any = None, fold_attention: bool = False
) -> Handle:
    """Control every later `model.generate(...)`.

    Args:
        model: a transformers model; its class is swapped until the handle is detached.
        controller: exit rule, policy, drafter and limits.
        tokenizer: the model's; needed where the controller reads text.
        fold_attention: as in `attach`.

    Raises:
        ControllerError: the model can't be controlled, is attached already, or lacks what the controller needs.
    """
    base = type(model)
    if hasattr(base, _MARK):
        raise ControllerError(f"this {base.__name__} is attached already; detach its handle first")
    if not hasattr(model, "generation_config") or not hasattr(base, "_sample"):
        raise ControllerError(f"{base.__name__} has no generate loop of transformers; attach the model inside it")
    if base._sample is not GenerationMixin._sample:
        raise ControllerError(
            f"{base.__name__} has a generate loop of its own (_sample), which a controller would replace; "
            "attach a model that uses the library's"
        )
    check_generate(model)
    if controller.reads_text and tokenizer is None:
        raise ControllerError(
            "exit rules and thinking budgets read text; pass the tokenizer: attach(model, controller, tokenizer=…)"
        )
    policy_reads_text = controller.policy is not None and controller.policy.reads_text
    if policy_reads_text and tokenizer is None:
        raise ControllerError(f"policy {controller.policy} reads text; pass the tokenizer: attach(…, tokenizer=…)")
    attachment = HFAttachment(model, controller, tokenizer, fold_attention)
    if controller.exit is not None or policy_reads_text:
        check_parts(controller, wrap_transformers("this model", model, tokenizer, attachment.engine))
    attachment.under({})  # raises where the template and the controller don't fit
    attachment.swap_class(_members(attachment))
    return attachment.handle


def _members(attachment: HFAttachment) -> dict[str, Any]:
    """What the attached model's class replaces."""
    base = attachment.base

    @functools.wraps(base.generate)
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
        if generation_config.is_assistant or attachment.passing:
            # Another model verifies what this one proposes, and reads scores and cache of the library's own loop.
            given = (input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer)
            return base._sample(self, *given, **model_kwargs)
        return attachment.sample(
            input_ids, logits_processor, stopping_criteria, generation_config, streamer, model_kwargs, synced_gpus
        )

    def check_mode(self: Any, mode: Any, *args: Any, **named: Any) -> Any:
        # The first thing that generate() asks once it knows the mode.
        if mode in _MODES:
            attachment.let_pass(_MODES[mode])
        return base._get_deprecated_gen_repo(self, mode, *args, **named)

    def init_continuous_batching(self: Any, *args: Any, **named: Any) -> Any:
        attachment.check_others("continuous batching, as of generate_batch,")
        return base.init_continuous_batching(self, *args, **named)

    taken: dict[str, Any] = {"generate": generate, "_sample": sample, "_get_deprecated_gen_repo": check_mode}
    return taken | {"init_continuous_batching": init_continuous_batching, _MARK: True}


class HFAttachment(Attachment):
    """One transformers model under one controller."""

    def __init__(self, model: Any, controller: Controller, tokenizer: Any, fold_attention: bool) -> None:
        thinking = None if tokenizer is None else thinking_of(templates_of(tokenizer))
        super().__init__(model, controller, thinking)
        self.library_tokenizer = tokenizer
        self.engine = HFEngine(model, fold_attention, trees=controller.drafter is not None)
        self.tokenizer: Tokenizer = NoTokenizer() if tokenizer is None else HFTokenizer(tokenizer)
        self.handle.tokenizer = None if tokenizer is None else self.tokenizer
        self.handle.custom_generate = self._custom_generate
        parameters = inspect.signature(self.base.generate).parameters.values()
        self._arguments = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    def _custom_generate(self, *args: Any, **named: Any) -> Any:
        # An attached model takes this argument off the call; called by generate() itself, the model isn't attached.
        raise ControllerError("custom_generate belongs to a detached handle, or to another model; attach this one")

    def generate(self, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The user's call: refuse what the loop can't honour, then the library's own preparation."""
        # A model that another one calls as its assistant, or that is its own.
        if self.passing or getattr(named.get("generation_config"), "is_assistant", False):
            return self.base.generate(self.model, *args, **named)
        named = dict(zip(self._arguments, args, strict=False)) | named
        others = args[len(self._arguments) :]  # for a class with a generate(*args, **named) of its own
        streamer = named.get("streamer")
        if streamer is not None:
            named["streamer"] = Puts(streamer)
        try:
            overrides = take_overrides(named)
            with self.turns.whole(), self.calling(overrides) as controller:
                self.of_thread.seed = named.pop("seed", None)
                self.of_thread.grammar = self._grammar(named, controller)
                if controller.reads_text and self.library_tokenizer is None:
                    raise ControllerError(
                        f"{', '.join(overrides)} needs text; attach with the tokenizer: attach(…, tokenizer=…)"
                    )
                self.of_thread.reached = False
                self._check_arguments(named, controller)
                if self.library_tokenizer is not None and named.get("tokenizer") is None:
                    named["tokenizer"] = self.library_tokenizer
                made = self.base.generate(self.model, *others, **named)
                check_reached(self.of_thread.reached, self.base)
                return made
        finally:
            self.of_thread.passing = False
            # Whatever happens: a thread that reads the streamer must not wait for ever.
            if streamer is not None:
                streamer.end()

    def _grammar(self, named: dict[str, Any], controller: Controller) -> Stage | None:
        """Take the call's `grammar` or `response_format` off it; the constraint that they ask for."""
        source = grammar_of(named.pop("grammar", None), named.pop("response_format", None))
        if source is None:
            return None
        if self.library_tokenizer is None:
            raise ControllerError("grammar and response_format need text; attach with the tokenizer")
        opening = self.opening(controller, self.tokenizer)
        return AnswerOnly(Grammar(source), opening) if opening else Grammar(source)

    @property
    def passing(self) -> bool:
        """The call that this thread is in is run by a loop of the library's own."""
        found: bool = getattr(self.of_thread, "passing", False)
        return found

    def let_pass(self, what: str) -> None:
        """A call asks for a loop of the library's own, which runs it where the controller has nothing to do in it.

        Raises:
            ControllerError: it has, and doesn't let such calls pass.
        """
        self.check_others(what)
        self.handle.begin()
        self.of_thread.passing = self.of_thread.reached = True

    def check_others(self, what: str) -> None:
        """Warn once that a loop of the library's own runs. Raises ControllerError where the controller forbids it."""
        controller, grammar = self.under(self.overrides), getattr(self.of_thread, "grammar", None)
        if (grammar is not None or not controller.inert) and controller.others != "pass":
            raise ControllerError(
                f"{what} can't be honoured under a controller; leave it out, detach first, or let the library run such "
                "calls without control: Controller(others='pass')"
            )
        warn_once(f"{what}: this call is run by the library's own loop, without control and without a trace")

    def _check_arguments(self, named: dict[str, Any], controller: Controller) -> None:
        """Raises ControllerError for a call's argument that the loop can't honour; takes our custom_generate off it."""
        # With custom_generate, transformers would drop streamer and tokenizer. The swapped class needs no such detour.
        if named.get("custom_generate") == self.handle.custom_generate:
            del named["custom_generate"]
        elif named.get("custom_generate") is not None:
            self.let_pass("custom_generate")
        given = [name for name in _LIBRARYS if named.get(name) is not None and named[name] is not False]
        self.of_thread.librarys = given
        if "synced_gpus" in given and (self.of_thread.grammar is not None or not controller.inert):
            raise ControllerError(
                "synced_gpus can't be honoured under a controller: it makes every process take part in each step, and "
                "a controlled run takes as many as it needs; leave it out, or detach first"
            )

    def sample(
        self,
        input_ids: Any,
        processors: Any,
        criteria: Any,
        config: Any,
        streamer: Any,
        prepared: dict[str, Any],
        synced_gpus: bool,
    ) -> Any:
        """What generate() calls in place of its own loop: the rows run together, each with everything of its own."""
        controller = self.under(self.overrides)
        self.of_thread.reached = True
        check_rows(input_ids)
        cache = prepared.get(self.engine.model_forward.cache_name)
        grammar: Stage | None = self.of_thread.grammar
        librarys = self._for_the_library(input_ids, processors, criteria, config, prepared, streamer)
        idle = self._in_no_turn(len(input_ids)) and grammar is None and controller.inert and not controller.record
        several = len(input_ids) > 1 or bool(media_of(prepared))
        stock = idle and (bool(librarys) or (several and nothing_to_do(controller, cache)))
        own = processors if stock else [wrapped(processor) for processor in processors]
        if controller.rewrites and not stock:  # drafts alone are harmless: only rows that are walked ask, once each
            check_processors(own, "an exit or a budget")
        call = self._prepared(controller, input_ids, own, criteria, config, prepared, stock)
        rows = Rows(self.engine, self.tokenizer, call, private=self.handle.private)
        self.handle.begin()
        for trace, ask, prompt in zip(rows.traces, rows.asks, rows.prompts, strict=True):
            self.handle.add(trace, ask, prompt.tokens[prompt.unread :])
        if stock:
            for trace in rows.traces if controller.closing is not None else ():
                trace.warnings.append(f"{librarys[0]}: the library's own loop, where nobody follows the thinking")
            loop = functools.partial(self.base._sample, self.model, synced_gpus=synced_gpus, streamer=streamer)
            return run_stock(loop, input_ids, processors, criteria, config, prepared, rows.traces)
        return self._run(rows, controller, call, streamer)

    def _prepared(
        self,
        controller: Controller,
        input_ids: Any,
        processors: Any,
        criteria: Any,
        config: Any,
        prepared: dict[str, Any],
        stock: bool,
    ) -> PreparedCall:
        """What the rows read of the call."""
        forward = self.engine.model_forward
        own, seen = "position_ids" in self.of_thread.librarys, getattr(config, "_mask_length", 0)
        places, mask = length_of(input_ids, prepared), prepared.get("attention_mask")
        hidden = {"attention_mask": None} if stock and mask is not None and mask.shape[1] != places else {}
        prompts = prompts_of(forward, input_ids, prepared | hidden, own, seen)
        scored = not stock and "output_scores" in outputs_of(config)
        shows = scored and controller.logprobs == "drawn"
        return PreparedCall(
            input_ids=input_ids,
            prompts=prompts,
            processors=processors,
            criteria=criteria,
            config=config,
            prepared=prepared,
            notes=self._notes(config) + self._cache_notes(len(input_ids), config, prepared, stock),
            overrides=self.overrides,
            seed=self._seed(config.do_sample or controller.policy is not None),
            policy=self.handle.controller.policy,
            grammar=self.of_thread.grammar,
            can_ask=not stock and accepted(lambda: check_processors(processors, "answer_now")),
            scoring=anew(processors if scored else ()),
            drawn=[Drawn(places - len(prompt.tokens)) for prompt in prompts] if shows else [],
        )

    def _run(self, rows: Rows, controller: Controller, call: PreparedCall, streamer: Any) -> Any:
        """The controlled loop runs the rows; afterwards comes what the call asks for besides tokens."""
        input_ids, config = call.input_ids, call.config
        with closing(rows.run(replace(controller, policy=None))) as tokens:
            for token in tokens:
                if streamer is not None:
                    streamer.put(torch.tensor([token]))
        result = result_of(rows.sequences, config, input_ids, rows.cache if config.use_cache is not False else None)
        if outputs_of(config):
            start, forward = input_ids.shape[1], self.engine.model_forward
            result |= recorded(forward, result.sequences, start, call.prepared, call.scoring, config, call.drawn)
        return result

    def _for_the_library(
        self,
        input_ids: Any,
        processors: Sequence[Any],
        criteria: Sequence[Any],
        config: Any,
        prepared: dict[str, Any],
        streamer: Any,
    ) -> list[str]:
        """What a call asks for and the library's own loop gives exactly, where the controller has nothing to do."""
        forward, several, length = self.engine.model_forward, len(input_ids) > 1, length_of(input_ids, prepared)
        cache, mask, media = prepared.get(forward.cache_name), prepared.get("attention_mask"), media_of(prepared)
        own = getattr(cache, "_is_user_defined", False)
        odd = type(cache) is not DynamicCache or getattr(config, "_mask_length", length) != length
        wanted = {
            forward.cache_name: own and (several or odd),
            "attention_mask": mask is not None and (mask.shape[1] != length or not bool(mask[:, -1].all())),
            "streamer": several and streamer is not None,
            "return_dict_in_generate": several and config.return_dict_in_generate,
            "logits_processor": several and not accepted(lambda: check_batch(processors)),
            "stopping_criteria": several and not accepted(lambda: check_criteria(criteria)),
        }
        asked = [*self.of_thread.librarys, *outputs_of(config), *caching_of(config), *(media if several else ())]
        return [*asked, *(name for name, given in wanted.items() if given)]

    def _in_no_turn(self, rows: int) -> bool:
        """The call belongs to no turn. Raises ControllerError for a batch that does."""
        if turn_of(self.overrides) is None:
            return True
        if rows > 1:
            raise ControllerError(f"a turn is one conversation's, and this call has {rows} rows; leave it out")
        return False

    def _seed(self, random: bool) -> int:
        """The call's own seed; without one, the next number of torch's generator, so that torch.manual_seed decides."""
        given: int | None = self.of_thread.seed
        if given is not None:
            return int(given)
        return int(torch.randint(0, 2**63 - 1, (1,))) if random else 0

    def _cache_notes(self, rows: int, config: Any, prepared: dict[str, Any], stock: bool) -> list[str]:
        """What a trace says of the cache that the loop runs on; another kind than was asked for warns too."""
        if stock:
            return []
        kept = "the controlled loop keeps a DynamicCache; the tokens are the same"
        notes = [f"{name}: {kept}" for name in caching_of(config)]
        cache, masked = prepared.get(self.engine.model_forward.cache_name), prepared.get("attention_mask") is not None
        own = getattr(cache, "_is_user_defined", False)
        if own and (rows > 1 or masked or type(cache) is not DynamicCache):
            notes.append(
                f"{type(cache).__name__}: the controlled loop reads the text into a cache of its own, and leaves the "
                "one that is given as it is; the tokens are the same"
            )
        for note in notes:
            warn_once(note)
        if rows > 1 and config.return_dict_in_generate:
            notes.append(f"past_key_values is None in the result: each of the {rows} rows ran on a cache of its own")
        return notes

    def _notes(self, config: Any) -> list[str]:
        """What a trace says where the call's sampling arguments give way to the controller's policy."""
        if self.handle.controller.policy is None or not config.do_sample:
            return []
        given = {name: getattr(config, name, None) for name in _SAMPLING}
        return self.without_effect(
            [f"{name}={value}" for name, value in given.items() if value is not None and value != _SAMPLING[name]]
        )
