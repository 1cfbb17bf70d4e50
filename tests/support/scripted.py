"""Exit rules whose decisions a test writes down, and small drafters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasonctl.controller import Boundary, Cues, Decision, Draft, ExitRule, Markers, Stateless


@dataclass
class Scripted(ExitRule):
    """Exits where `act(boundary)` says so; keeps every boundary. With `answer_tokens` it first tries the exit."""

    act: Callable[[Boundary], bool]
    suffix: str = "</think>So "
    markers: Markers | None = Markers("<think>", "</think>")
    cues: Cues = field(default_factory=lambda: Cues(["wait"]))
    max_cues: int = 1000
    wanted: tuple[int, ...] = (0, 2)
    answer_tokens: int = 0
    seen: list[Boundary] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)

    @property
    def trials(self) -> bool:
        return self.answer_tokens > 0

    def layers(self, depth: int) -> tuple[int, ...]:
        return self.wanted

    def decide(self, at: Boundary):
        self.seen.append(at)
        if self.trials:
            self.answers.append(list((yield from at.answer(self.answer_tokens)).tokens))
        exits = self.act(at)
        return Decision(exits, at.cue.name, at.cue.index, at.cue.first - at.prompt, float(exits), 0.5)


@dataclass
class RandomTree(Stateless):
    """A tree of guesses that depends on the past only; deterministic, so runs must equal plain ones."""

    vocabulary: int
    roots: int = 3
    children: int = 2
    depth: int = 3

    def propose(self, tokens: Sequence[int], room: int):
        nodes: list[int] = []
        parents: list[int] = []

        def grow(parent: int, depth: int, width: int) -> None:
            for i in range(width):
                nodes.append((7 * len(tokens) + 3 * i + 5 * depth + parent + 1) % self.vocabulary)
                if (parent, nodes[-1]) in zip(parents, nodes[:-1], strict=False):
                    nodes.pop()
                    continue
                parents.append(parent)
                if depth < min(self.depth, room):
                    grow(len(nodes) - 1, depth + 1, self.children)

        grow(-1, 1, self.roots)
        return Draft(tuple(nodes), tuple(parents))
        yield
