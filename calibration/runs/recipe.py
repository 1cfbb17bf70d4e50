"""The recipe of a job: what all of its runs share, as a value that travels to every worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from reasonctl.backends import Model, backend_of, load_drafter, load_model
from reasonctl.controller import (
    AnswerEnds,
    Call,
    ControllerError,
    Drafter,
    ExitForm,
    Keys,
    Markers,
    Policy,
    Thinking,
    parse_policy,
)
from reasonctl.controller.thinking import read_template
from reasonctl.probes.files import Scalar

Backend = Literal["llama.cpp", "transformers", "vllm"]

LAYERS = (1 / 3, 2 / 3, 1.0)
"""Fractions of depth that a probe reads by default; fewer where a shallow model makes them equal."""


@dataclass(frozen=True)
class Recipe:
    """How the runs of a job are made."""

    model: str
    """The model, as the command line names it."""
    backend: Backend | None
    """The library that runs it. None: the one that its name says."""
    threads: int | None
    """Threads of a process. None: the library's choice."""
    markers: tuple[str, str] | None
    """The texts that open and close thinking. None: the whole completion is the span."""
    cues: tuple[str, ...]
    """What counts as a cue."""
    suffix: str
    """The text that an exit feeds, in the cue's place or after it."""
    max_cues: int
    """Most cues of a run at which an exit rule is asked."""
    layers: tuple[float, ...]
    """The blocks whose outputs are recorded, as fractions of depth."""
    policy: str
    """How tokens are sampled: a policy's text form."""
    draft: str
    """The drafter's text form, or `none`."""
    seed: int
    """Seed of the problems and of sampling."""
    max_new_tokens: int
    """Most tokens of a run after its prompt."""
    answer_tokens: int
    """Most tokens of a trial answer."""
    answer_ends: AnswerEnds = "model"
    """What ends the answer after an exit, in a trial and in use."""
    form: ExitForm = "replace"
    """What becomes of the cue on exit, in a trial and in use."""
    always_answer: bool = False
    """An end of the sequence inside thinking closes it, and the model answers: in every run, with a rule or without."""
    later_spans: bool = False
    """Exits are tried in every thinking span; else in a run's first span only."""
    batch: int = 1
    """Runs that are decoded together."""

    def sampler(self) -> dict[str, Scalar]:
        """What a card says of how tokens are sampled; drafting doesn't change it."""
        return {"policy": self.policy, "answer_tokens": self.answer_tokens}

    def span(self) -> Markers | None:
        """The markers as the controller takes them."""
        return Markers(*self.markers) if self.markers else None

    def thinking(self, model: Model) -> Thinking:
        """How the runs think: opened as the template says if it has these markers, closed by the suffix."""
        found = read_template(model.template)
        if found.markers == self.span():
            return replace(found.thinking, suffix=self.suffix)
        return Thinking(self.span(), self.suffix)

    def load(self, *, hidden: bool = True) -> Model:
        """The model, loaded and compared with the policy once per process.

        Args:
            hidden: Whether hidden states are wanted too. In transformers they come with the same weights.

        Raises:
            ControllerError: The policy was made for another model, or the model can't be loaded.
        """
        return _suiting(self, hidden or backend_of(self.model, self.backend) == "transformers")

    def drafter(self) -> Drafter | None:
        """The drafter, loaded once per process. None: no drafts."""
        return _drafter(self.draft, self.threads)

    def call(self, model: Model, question: str, run: int = 0, prompt: Sequence[int] = ()) -> Call:
        """The question as the model's prompt, with the recipe's policy and the keys of that run.

        The run ends early where the context would leave no room for an exit's text, and its trace says so.

        Args:
            model: The model.
            question: The question.
            run: The run's number.
            prompt: The prompt's tokens, where they are more than the question. (): those of the question.

        Raises:
            ControllerError: The prompt alone fills the context.
        """
        keys, prompt = Keys(seed=self.seed, run=run), prompt or model.prompt(question)
        if len(prompt) >= model.context:
            raise ControllerError(
                f"the prompt has {len(prompt)} tokens and the context {model.context}; shorten it, or take a model "
                "with a longer context"
            )
        wanted, room = self.max_new_tokens, room_after(model, len(prompt), self.suffix)
        most = min(wanted, room) if room > 0 else wanted  # the engine names what doesn't fit
        return Call(prompt, most, model.eos, keys, self.parsed_policy(), wanted=wanted)

    def parsed_policy(self) -> Policy:
        """The policy, read once per process: it may name files."""
        return _policy(self.policy)


def room_after(model: Model, prompt: int, suffix: str) -> int:
    """Most tokens of a run after so many of its prompt, so that an exit's text has room in the context."""
    return model.context - prompt - len(model.tokenizer.encode(suffix))


def usual_room(model: Model) -> int:
    """Default length of a run, in tokens: three quarters of the context. The prompt has the rest."""
    return model.context * 3 // 4


def loaded(
    name: str,
    backend: Backend | None,
    threads: int | None,
    *,
    hidden: bool = True,
    batch: int = 1,
    draft: str = "none",
) -> Model:
    """A model, loaded once per process; see `load_model`. `draft` is the text of the drafter that proposes to it."""
    drafter = None if draft == "none" else _drafter(draft, threads)
    # Only a context of llama.cpp makes room for drafts: in transformers all arms share one model.
    drafted = 0 if drafter is None or backend_of(name, backend) == "transformers" else drafter.size
    return _load(name, backend, threads, hidden, batch, drafted)


@cache
def _load(name: str, backend: Backend | None, threads: int | None, hidden: bool, batch: int, drafted: int) -> Model:
    return load_model(name, backend=backend, threads=threads, hidden=hidden, batch=batch, drafted=drafted)


@cache
def _drafter(text: str, threads: int | None) -> Drafter | None:
    return load_drafter(text, threads=threads)


@cache
def _policy(text: str) -> Policy:
    return parse_policy(text)


@cache
def _suiting(recipe: Recipe, hidden: bool) -> Model:
    model = loaded(recipe.model, recipe.backend, recipe.threads, hidden=hidden, batch=recipe.batch, draft=recipe.draft)
    recipe.parsed_policy().check(model)
    return model
