"""All requests of one engine, by their ids: who is followed, who has left the batch, and what is forced in a step.

vLLM moves requests between the rows of its batch, takes them out to make room (preemption) and puts them back. A
request's state stays with its id until vLLM says that it has finished. Knows neither vLLM nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reasonctl.probes import ProbeExit

from .following import Exits, Following
from .options import RequestOptions

Floats = npt.NDArray[np.float64]

Features = Callable[[list[int]], npt.NDArray[np.float64]]
"""Gives the probe's features of some rows of this step, in one transfer. Shape (rows, size)."""

MANY = 64
"""Rows from which on tokens and scores of all are computed as arrays."""

NEAR = 1e-9
"""Scores nearer to the threshold are computed again, each by itself: arrays are rounded otherwise than single rows."""


MOST_RISKS = 64
"""Most risks of requests whose thresholds are kept."""


class Row(NamedTuple):
    """A request in this step, whose next token is sampled from `row`."""

    row: int
    """Its row among the step's logits."""
    request: Following
    """The request."""
    fresh: Sequence[int]
    """Its tokens that weren't taken in yet."""


@dataclass
class Counts:
    """What happened so far."""

    requests: int = 0
    """Requests that were followed."""
    resumed: int = 0
    """How often a request came back after it had left the batch."""
    cues: int = 0
    """Decisions."""
    exits: int = 0
    """Exits that were made."""
    unread: int = 0
    """Cues whose state was gone, so that nothing was decided."""


@dataclass
class Requests:
    """The followed requests of an engine."""

    exits: Exits
    """How exits are made."""
    share: Callable[[Floats], Floats] = field(default=lambda scores: scores)
    """Gives every process of the engine the scores that the first one has computed."""
    counts: Counts = field(default_factory=Counts)
    """For the log."""

    def __post_init__(self) -> None:
        self._by_id: dict[str, Following] = {}
        self._rules: dict[float, ProbeExit] = {}

    def begin(self, name: str, options: RequestOptions, prompt: Sequence[int], most: int) -> Following:
        """The request's state: a new one, or the one that it had when it left the batch.

        Args:
            name: Its id.
            options: Its arguments.
            prompt: Its prompt's tokens.
            most: Most tokens after them.
        """
        known = self._by_id.get(name)
        if known is not None:
            self.counts.resumed += 1
            return known
        made = Following(self.exits, options, prompt, most, self._rule(options.risk))
        self._by_id[name] = made
        self.counts.requests += 1
        return made

    def finish(self, names: Iterable[str]) -> dict[str, Following]:
        """Forget requests that have ended or were aborted. Returns those that were known, by id."""
        return {name: self._by_id.pop(name) for name in names if name in self._by_id}

    @property
    def names(self) -> list[str]:
        """Ids of the requests that are under way, in the order in which they began."""
        return list(self._by_id)

    def step(self, rows: Sequence[Row], features: Features) -> list[tuple[int, int]]:
        """Take in the step's tokens, ask the probe, and decide.

        Args:
            rows: The requests of the step whose next token is sampled now.
            features: Reads rows of this step's hidden states; called once at most.

        Returns:
            (row, token) for each row whose next token is forced.
        """
        before = [(len(row.request.decisions), row.request.unread) for row in rows]
        asked = self._take(rows)
        if asked:
            rule = self.exits.rule
            scores = self.share(self._scores(features([row.row for row in asked]), rule))
            for row, score in zip(asked, scores.tolist(), strict=True):
                row.request.scored(score)
        for row, (decisions, unread) in zip(rows, before, strict=True):
            self.counts.cues += len(row.request.decisions) - decisions
            self.counts.unread += row.request.unread - unread
        forced = [(row.row, row.request.next_forced()) for row in rows]
        self.counts.exits += sum(row.request.exit_at == row.request.seen and not row.request.follows for row in rows)
        return [(index, token) for index, token in forced if token is not None]

    def _take(self, rows: Sequence[Row]) -> list[Row]:
        """Take in all new tokens; the rows about which the probe is asked."""
        many = [row for row in rows if row.request.follows and len(row.fresh) == 1] if len(rows) >= MANY else []
        if len(many) < MANY:
            return [row for row in rows if any([row.request.take(token) for token in row.fresh][-1:])]
        asked = [row for row in rows if not (row.request.follows and len(row.fresh) == 1)]
        asked = [row for row in asked if any([row.request.take(token) for token in row.fresh][-1:])]
        tokens = np.fromiter((row.fresh[0] for row in many), dtype=np.int32, count=len(many))
        passed = dict(self.exits.table.push_all([row.request.place for row in many], tokens))
        for i, row in enumerate(many):
            if i not in passed:
                row.request.passed_by()
            elif row.request.taken(passed[i]):
                asked.append(row)
        return asked

    def _scores(self, features: Floats, rule: ProbeExit) -> Floats:
        """The probe's scores. Shape (rows,). Those near a threshold in use are each computed by itself."""
        probe = rule.content.probe
        if len(features) < MANY:
            return np.array([probe.score(row) for row in features])
        scores = probe.scores(features)
        limits = [one.threshold.value for one in (rule, *self._rules.values()) if math.isfinite(one.threshold.value)]
        for limit in limits:
            for i in np.flatnonzero(np.abs(scores - limit) < NEAR):
                scores[i] = probe.score(features[i])
        return scores

    def _rule(self, risk: float | None) -> ProbeExit | None:
        """The rule at a request's own risk, made once. None: the engine's."""
        if risk is None or risk == self.exits.rule.promise.risk:
            return None
        if risk not in self._rules:
            if len(self._rules) >= MOST_RISKS:
                self._rules.pop(next(iter(self._rules)))
            self._rules[risk] = self.exits.rule.at(risk=risk)
        return self._rules[risk]
