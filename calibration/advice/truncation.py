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
from ..runs.making import PreparedRun, run_all
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


@dataclass(frozen=True)
class SamplePlan:
    """How plain runs are sampled."""

    most: int
    """Most tokens of a run."""
    seed: int
    """Of the runs."""
    batch: int = 1
    """Runs that are decoded together."""

    def runs(self, model: Model, prompts: Sequence[Sequence[int]], policy: Policy, samples: int) -> list[PreparedRun]:
        """The samples of each prompt, prompt after prompt: run number k of prompt i has number samples * i + k."""
        every = [prompt for prompt in prompts for _ in range(samples)]
        keys = (Keys(seed=self.seed, run=number) for number in range(len(every)))
        return [
            PreparedRun(Controller(), Call(prompt, self.most, model.eos, key, policy))
            for prompt, key in zip(every, keys, strict=True)
        ]


def sample(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    plan: SamplePlan,
    *,
    samples: int = SAMPLES,
    progress: ProgressCallback = lambda done, of: None,
) -> list[list[Trace]]:
    """Plain runs of each prompt.

    Args:
        model: The model.
        prompts: Where runs begin.
        policy: How tokens are chosen.
        plan: Length, seed and batch.
        samples: Runs of each prompt.
        progress: Called with the number of prompts that are done.

    Raises:
        ControllerError: There is no room for such a batch.
    """
    runs = plan.runs(model, prompts, policy, samples)
    made = run_all(model, runs, plan.batch, lambda done: progress(done // samples, len(prompts)))
    traces = [run.trace for run in made]
    return [traces[i : i + samples] for i in range(0, len(traces), samples)]


def answer_trie(
    model: Model, task: Task | None, problems: Sequence[Problem], plan: SamplePlan, progress: ProgressCallback
) -> PrefixTrie:
    """The model's own right answers to each problem, sampled at temperature 1: what it may reasonably write."""
    assert task is not None
    trie, markers = PrefixTrie(), read_template(model.template).markers
    prompts = [model.prompt(problem.question) for problem in problems]
    written = sample(model, prompts, Chain(Temperature(1.0)), plan, progress=progress)
    for problem, prompt, traces in zip(problems, prompts, written, strict=True):
        for trace in traces:
            text = model.tokenizer.decode([token for token in trace.tokens if token not in model.eos])
            if task.grader.right(after_thinking(text, markers), problem):
                trie.add(prompt, trace.tokens)
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
    model: Model, text: str, prompts: Sequence[Sequence[int]], plan: SamplePlan, progress: ProgressCallback
) -> tuple[Distortion, float]:
    """The distortion of a policy's runs, as a mean over prompts, and the mean tokens of a run.

    Args:
        model: The model.
        text: The policy's text.
        prompts: Where runs begin.
        plan: Length, seed and batch of the runs.
        progress: Called with the number of prompts that are done.
    """
    written = sample(model, prompts, Weighed(parse_policy(text)), plan, progress=progress)
    weighed = [distortion([float(trace.log_z or 0.0) for trace in traces]) for traces in written]
    mean, kl, ess = np.mean([(one.mean, one.kl, one.ess) for one in weighed], axis=0)
    tokens = np.mean([len(trace.tokens) for traces in written for trace in traces])
    return Distortion(float(mean), float(kl), float(ess)), float(tokens)
