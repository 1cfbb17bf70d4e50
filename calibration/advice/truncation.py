"""`ctl advise policy`: which truncation, and how much of it, from the user's own texts or tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from reasonctl.backends import Model
from reasonctl.controller import (
    Call,
    Chain,
    Controller,
    ControllerError,
    Distortion,
    Keys,
    Policy,
    Temperature,
    Trace,
    Weighed,
    distortion,
    parse_policy,
)
from reasonctl.controller.thinking import after_thinking, read_template

from ..parallel.run_jobs import ProgressCallback
from ..runs.worker import run_once
from ..tasks.problem import Problem
from ..tasks.sources import Task
from .equal_risk import Curve, Measured, Place, families, recommended
from .prefix_trie import Fork, PrefixTrie, fork_rows

PLACES = 150
"""Most places that are compared."""
LEAST = 8
"""Fewest places that say anything."""
SAMPLES = 8
"""Runs of each problem or prompt."""
PROBLEMS = 24
"""Problems that the model answers, by default."""
PROMPTS = 6
"""Prompts on which the recommended policy's distortion is measured."""
MOST_NEW_TOKENS = 512
"""Most tokens of an answer, by default."""
WEIGHED_TOKENS = 64
"""Tokens of a run whose distortion is measured."""
ALIEN = 10
"""Texts whose median K* is more than this part of the vocabulary say nothing about truncation."""


@dataclass(frozen=True)
class PolicyAdvice:
    """What was found."""

    places: int
    """Prefixes that were compared."""
    texts: int
    """Texts that they were found in."""
    curves: dict[str, list[Measured]]
    """What was measured of each family, by risk."""
    found: dict[float, dict[str, Measured | None]]
    """By risk target, then by family; None where the family can't reach the target."""
    chains: dict[float, str]
    """The recommended policy's text, by risk target."""
    weighed: Distortion
    """Of runs of the policy at the first target."""
    tokens: float
    """Mean length of those runs."""
    needed: float
    """Median K*: the rank of the worst reasonable token."""
    vocabulary: int
    """Number of tokens there are."""

    @classmethod
    def of(
        cls, trie: PrefixTrie, curves: dict[str, Curve], choice: Choice, weighed: Distortion, tokens: float
    ) -> PolicyAdvice:
        """All that was measured, as one value."""
        places = next(iter(curves.values())).places
        return cls(
            places=len(places),
            texts=trie.texts,
            curves={name: curve.points() for name, curve in curves.items()},
            found=choice.found,
            chains=choice.chains,
            weighed=weighed,
            tokens=tokens,
            needed=float(np.median([place.needed for place in places])),
            vocabulary=len(places[0].best),
        )

    def to_json(self) -> dict[str, object]:
        """The values of --json."""
        rows = [
            {"target": target, "family": name, **({} if one is None else _plain(one)), "reached": one is not None}
            for target, by in self.found.items()
            for name, one in by.items()
        ]
        return {
            "places": self.places,
            "texts": self.texts,
            "table": rows,
            "recommended": [{"target": target, "policy": chain} for target, chain in self.chains.items()],
            "distortion": {**asdict(self.weighed), "tokens": self.tokens},
            "needed": self.needed,
            "vocabulary": self.vocabulary,
        }


def _plain(one: Measured) -> dict[str, object]:
    return {key: value for key, value in asdict(one).items() if key != "recalls"}


def sample(model: Model, prompt: Sequence[int], policy: Policy, most: int, keys: Keys) -> Trace:
    """One plain run."""
    trace, _ = run_once(model, Controller(), Call(prompt, most, model.eos, keys, policy))
    return trace


def answer_trie(
    model: Model, task: Task | None, problems: Sequence[Problem], most: int, seed: int, progress: ProgressCallback
) -> PrefixTrie:
    """The model's own right answers to each problem, sampled at temperature 1: what it may reasonably write."""
    assert task is not None
    trie, policy, markers = PrefixTrie(), Chain(Temperature(1.0)), read_template(model.template).markers
    for i, problem in enumerate(problems):
        prompt = model.prompt(problem.question)
        for k in range(SAMPLES):
            tokens = sample(model, prompt, policy, most, Keys(seed=seed, run=SAMPLES * i + k)).tokens
            text = model.tokenizer.decode([token for token in tokens if token not in model.eos])
            if task.grader.right(after_thinking(text, markers), problem):
                trie.add(prompt, tokens)
        progress(i + 1, len(problems))
    if not trie.texts:
        raise ControllerError(
            f"none of {SAMPLES * len(problems)} runs at temperature 1 was right, so nothing is known to be reasonable; "
            "give easier tasks, more --max-new-tokens, or --texts"
        )
    return trie


def enough(trie: PrefixTrie, texts: Sequence[str]) -> list[Fork]:
    """The places to compare at. Raises ControllerError where the texts fork too rarely."""
    if not trie.texts:
        raise ControllerError(f"{', '.join(texts)} hold no text; give files with sentences in them")
    forks = trie.forks(PLACES)
    if len(forks) < LEAST:
        raise ControllerError(
            f"{trie.texts} texts go on in several ways at {len(forks)} places only, and it takes {LEAST}: they are too "
            "few or too short to share beginnings; give more texts, or more problems (-n)"
        )
    return forks


def compare(model: Model, forks: Sequence[Fork], progress: ProgressCallback) -> dict[str, Curve]:
    """Every family of truncations on the model's distributions at these places."""
    places = [Place(row, fork.tokens) for fork, row in fork_rows(model, forks).items()]
    every, curves = families(len(places[0].best)), {}
    for i, family in enumerate(every):
        curves[family.name] = Curve(family, places)
        progress(i + 1, len(every))
    return curves


def chain_of(found: dict[str, Measured | None], curves: dict[str, Curve], temperature: float) -> str | None:
    """The recommended policy of a risk target.

    Families that adapt during a run are left out: only their first step is measured here.
    """
    fixed = [one for name, one in found.items() if one is not None and not curves[name].family.adapts]
    if not fixed:
        return None
    policy = recommended(fixed).policy
    # The temperature comes after the truncation, so that the sets are those that were measured.
    return policy if temperature == 1.0 else f"{policy} | {Temperature(temperature)}"


@dataclass(frozen=True)
class Choice:
    """What was found at each risk target."""

    found: dict[float, dict[str, Measured | None]]
    """By target, then by family; None where the family can't reach the target."""
    chains: dict[float, str]
    """The recommended policy's text, for the targets that a family reaches."""

    @property
    def first(self) -> str:
        """The policy at the first target that is reached."""
        return next(iter(self.chains.values()))


def choose(curves: dict[str, Curve], targets: Sequence[float], temperature: float) -> Choice:
    """Every family at every target, and the recommended policies.

    Raises:
        ControllerError: No family reaches any target.
    """
    found = {target: {name: curve.at_risk(target) for name, curve in curves.items()} for target in targets}
    chains = {target: chain for target, by in found.items() if (chain := chain_of(by, curves, temperature))}
    if not chains:
        raise ControllerError(f"no truncation reaches a risk of {min(targets):g} at these places; lower --at")
    return Choice(found, chains)


def openings_of(forks: Sequence[Fork]) -> list[list[int]]:
    """The first of the forks' prefixes, as prompts for runs."""
    return [[*fork.before, *fork.prefix] for fork in forks[:PROMPTS]]


def weigh(
    model: Model, text: str, prompts: Sequence[Sequence[int]], most: int, seed: int, progress: ProgressCallback
) -> tuple[Distortion, float]:
    """The distortion of a policy's runs, as a mean over prompts, and the mean tokens of a run.

    Args:
        model: The model.
        text: The policy's text.
        prompts: Where runs begin.
        most: Most tokens of a run.
        seed: Of the runs.
        progress: Called after every prompt.
    """
    weighed, lengths = [], []
    for i, prompt in enumerate(prompts):
        keys = [Keys(seed=seed + 1, run=SAMPLES * i + k) for k in range(SAMPLES)]
        traces = [sample(model, prompt, Weighed(parse_policy(text)), most, key) for key in keys]
        weighed.append(distortion([float(trace.log_z or 0.0) for trace in traces]))
        lengths += [len(trace.tokens) for trace in traces]
        progress(i + 1, len(prompts))
    mean, kl, ess = np.mean([(one.mean, one.kl, one.ess) for one in weighed], axis=0)
    return Distortion(float(mean), float(kl), float(ess)), float(np.mean(lengths))
