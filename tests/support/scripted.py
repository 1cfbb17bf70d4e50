"""Exit rules whose decisions a test writes down, and small drafters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasonctl.controller import (
    AnswerEnds,
    Boundary,
    Cues,
    Decision,
    Draft,
    ExitForm,
    ExitRule,
    Markers,
    Stateless,
    Trial,
)


@dataclass
class Scripted(ExitRule):
    """Exits where a test says so, and remembers what it saw."""

    act: Callable[[Boundary], bool]
    """Whether to exit at a boundary."""
    suffix: str = "</think>So "
    """As in every rule."""
    markers: Markers | None = Markers("<think>", "</think>")
    """As in every rule."""
    cues: Cues = field(default_factory=lambda: Cues(["wait"]))
    """As in every rule."""
    max_cues: int = 1000
    """As in every rule."""
    wanted: tuple[int, ...] = (0, 2)
    """The layers that it reads."""
    answer_tokens: int = 0
    """Most tokens of a trial answer; 0: it tries no exit."""
    seen: list[Boundary] = field(default_factory=list)
    """Every boundary, in order."""
    answers: list[list[int]] = field(default_factory=list)
    """The tokens of every trial answer."""
    tried: list[Trial] = field(default_factory=list)
    """Every trial, in order."""
    answer_ends: AnswerEnds = "model"
    """As in every rule."""
    form: ExitForm = "replace"
    """As in every rule."""

    @property
    def trials(self) -> bool:
        """Whether it tries exits."""
        return self.answer_tokens > 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """Those that are wanted."""
        return self.wanted

    def decide(self, at: Boundary):
        """Try the exit if that is wanted, then do as the test says."""
        self.seen.append(at)
        if self.trials:
            self.tried.append((yield from at.answer(self.answer_tokens)))
            self.answers.append(list(self.tried[-1].tokens))
        exits = self.act(at)
        return Decision(exits, at.cue.name, at.cue.index, at.cue.first - at.prompt, float(exits), 0.5)


@dataclass
class RandomTree(Stateless):
    """A tree of guesses. It depends on the past alone, so that drafted runs must equal plain ones."""

    vocabulary: int
    """Token ids are smaller than this."""
    roots: int = 3
    """Children of the root."""
    children: int = 2
    """Children of every other node."""
    depth: int = 3
    """Most tokens on a path."""

    def propose(self, tokens: Sequence[int], room: int):
        """The tree at this place."""
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
