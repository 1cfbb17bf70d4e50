"""vLLM's engine as far as our processor sees it, over the toy reasoner: rows that move, preemption, parts of prompts.

It drives `Requests` as the processor does, and draws with the keyed uniforms of our own loop, so that runs can be
compared token by token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np

from reasonctl.backends.vllm.client_run import Asked, Client, ClientRun
from reasonctl.backends.vllm.following import Exits
from reasonctl.backends.vllm.options import RequestOptions
from reasonctl.backends.vllm.requests import Requests, Row
from reasonctl.controller import Call, Controller, Keys, Sampling, Trace, draw
from reasonctl.controller.core.randomness import SAMPLE
from reasonctl.probes import ProbeExit, Promise, make_exit
from reasonctl.probes.signals.probe import Probe, features_at
from support.probe_files import content
from support.toy_thinking import ENGINE, EOS, PROMPT, TEXTS, THINKING, TOKENIZER

STOP = len(TEXTS)
"""A token that the toy reasoner has no text for."""


def rule_of(form="replace", threshold=0.5, **card) -> ProbeExit:
    """A rule for the toy reasoner, whose score depends on the token before the cue's end and on the position."""
    given = {
        "depth": ENGINE.layers,
        "cues": ("wait", "paragraph"),
        "suffix": THINKING.suffix,
        "form": form,
        "max_cues": 50,
        "layers": (0.0, 1.0),
    }
    made = content(**{**given, **card})
    # Token, position and layer at two blocks; the score swings with the position.
    first = np.array([[0.2, -0.1], [0.37, -0.29], [0, 0], [0, 0], [0, 0], [0, 0]])
    probe = Probe((first, np.array([[1.0], [1.0]])), (np.array([-4.0, 3.0]), np.array([-1.5])))
    rule = make_exit(replace(made, probe=probe), Promise())
    rule.threshold = replace(rule.threshold, value=threshold)
    rule.reads = True
    return rule


def client_of(rule) -> Client:
    """A client of the toy reasoner."""
    return Client(rule, TOKENIZER, THINKING, STOP, frozenset({EOS}))


def our_run(rule, seed, prompt=PROMPT, most=60) -> Trace:
    """The same run in our own loop."""
    session, trace = ENGINE.session(), Trace()
    call = Call(list(prompt), most, frozenset({EOS}), Keys(seed=seed), Sampling())
    for _ in Controller(exit=rule, thinking=THINKING).stream(session, TOKENIZER, call, trace):
        pass
    return trace


@dataclass
class Request:
    """A request in the engine."""

    run: ClientRun
    asked: Asked
    name: str
    seed: int
    output: list[int] = field(default_factory=list)
    followed: object = None


@dataclass
class SimulatedEngine:
    """Makes the runs of clients; `seed` decides which requests leave the batch, and in which rows the others are."""

    rule: ProbeExit
    seed: int = 0
    at_once: int = 200
    leaves: float = 0.0
    """How likely a request is out of the batch in a step."""
    abort: float = 0.0
    """How likely a request's client goes away in a step."""
    scores: list = field(default_factory=list)
    """Sizes of the batches of scores."""

    def __post_init__(self):
        exits = Exits.of(self.rule, TOKENIZER, THINKING, EOS, len(TEXTS) + 1)
        self.requests = Requests(exits, self._shared)
        self._rng = random.Random(self.seed)
        self._number = 0
        self.ended = {}
        """Followed requests by name, when they are over."""
        self.aborted = set()

    def _shared(self, scores):
        self.scores.append(len(scores))
        return scores

    def make(self, runs, seeds) -> None:
        """Make runs to their ends; run i draws with the keys of seed i."""
        waiting = [self._request(run, run.asked(), seed) for run, seed in zip(runs, seeds, strict=True)]
        active = []
        while waiting or active:
            while waiting and len(active) < self.at_once:
                active.append(waiting.pop(0))
            self._rng.shuffle(active)
            here = [one for one in active if self._rng.random() >= self.leaves] or active[:1]
            self._step(here)
            for one in list(active):
                if self._rng.random() < self.abort:
                    self.aborted.add(one.seed)
                    one.run.finish = "stop"
                if one.run.interrupted or one.run.finish is not None:
                    active.remove(one)
                    self.ended |= self.requests.finish([one.name])
                    asked = one.run.asked()
                    if asked is not None:
                        waiting.append(self._request(one.run, asked, one.seed))

    def _request(self, run, asked, seed) -> Request:
        self._number += 1
        return Request(run, asked, f"{self._number}", seed)

    def _step(self, here) -> None:
        rows = []
        for i, one in enumerate(here):
            options = RequestOptions.of(one.asked.arguments)
            one.followed = self.requests.begin(one.name, options, one.asked.prompt, one.asked.most)
            if not one.followed.over:
                rows.append(Row(i, one.followed, one.output[one.followed.seen :]))
        forced = dict(self.requests.step(rows, lambda asked: self._features([here[i] for i in asked])))
        for i, one in enumerate(here):
            token = forced.get(i)
            token = self._drawn(one) if token is None else token
            one.output.append(token)
            one.run.push(token)
            if token == EOS or (len(one.output) == one.asked.most and not one.run.interrupted):
                one.run.ended("stop" if token == EOS else "length")

    def _features(self, asked):
        rows = []
        for one in asked:
            tokens = [*one.asked.prompt, *one.output]
            state = {k: np.array([tokens[-1], len(tokens) - 1, k], dtype=np.float32) for k in range(ENGINE.layers)}
            rows.append(features_at(state, self.rule.layers(ENGINE.layers)))
        return np.array(rows)

    def _drawn(self, one) -> int:
        tokens = [*one.asked.prompt, *one.output]
        with np.errstate(divide="ignore"):
            weights = np.exp(np.log(ENGINE.probs(tokens)))
        return int(draw(weights / weights.max(), Keys(seed=one.seed).uniform(len(tokens), SAMPLE)))
