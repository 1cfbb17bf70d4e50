"""What a package of another author adds to reasonctl: one plugin of each kind."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import Task
from reasonctl.controller import Candidates, ControllerError, Decode, Draft, Pure, Row, Stateless, Step
from reasonctl.probes.signals import Observation, Signal


@dataclass(frozen=True)
class Gap(Pure):
    """Tokens whose logit is within `gap` nats of the largest: --policy 'gap(1.5)'."""

    name = "gap"
    kind = "truncation"
    gap: float

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        return candidates.keep(np.flatnonzero(candidates.logits >= candidates.logits.max() - self.gap))


@dataclass
class SameAgain(Stateless):
    """The last token, `size` more times: --draft 'same_again(4)'."""

    size: int = 3

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        return Draft.chain([tokens[-1]] * min(self.size, room))
        yield


class LastThree(Signal):
    """The mean probe score of the last three cues: --signal last_three."""

    reads_hidden = True

    def score(self, observations: Sequence[Observation]) -> float:
        scores = [one.p_settled for one in observations[-3:]]
        return sum(scores) / len(scores)


def ends_with(question: str, gold: str, answer: str) -> bool:
    """Whether the answer ends with the right one: --grader ends_with."""
    return answer.rstrip(" .\n").endswith(gold)


def sums(settings: str) -> Task:
    """Sums of two numbers below `settings`: --tasks sums:100."""
    if not settings.isdecimal() or not 2 <= int(settings) <= 10_000:
        raise ControllerError(
            f"task sums needs the numbers' bound from 2 to 10000, e.g. sums:100, not {settings!r:.40}"
        )

    def draw(n: int, stream: int) -> list[Problem]:
        rng = np.random.default_rng(stream)
        pairs = rng.integers(0, int(settings), size=(4 * n, 2))
        return list(dict.fromkeys(Problem(f"{a}+{b}", str(a + b)) for a, b in pairs))[:n]

    return Task(f"sums:{settings}", NUMBER, draw)
