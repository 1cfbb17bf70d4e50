"""Contrasting responses of models: the strategies of PopAlign, and two that contrast decodings.

PopAlign (arXiv 2410.13785) makes pairs without labels: two prompts, two models or two rounds, of which one is expected
to be better. Whether it is, only a grader says (`graded_pairs.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from reasonctl.controller import ControllerError, ExitRule
from reasonctl.controller.core import Fields

from ..parallel.run_jobs import ProgressCallback, processes_of
from ..runs.job_file import JobFile, append_made
from ..runs.recipe import Recipe
from .answers_file import MOST_VOTES, Answered, Ask, answer, check_asks, has_room

Strategy = Literal["prefix", "demonstration", "elicitive", "parameters", "leaderboard", "refine", "exit", "policy"]
Role = Literal["main", "smaller", "lower"]

_LABEL = re.compile(
    r"""^[ \t]{0,8}(?:
        \#{1,6}[ \t]{1,4}Response[ \t\r]{0,8}$                                   # a heading without a colon
      | (?:(?:\#{1,6}|[>+*-])[ \t]{1,4}){0,2}(?:                                # a heading, a quotation, a list
            (?P<mark>\*{1,3}|_{1,3})Response
                (?:[ \t]?:[ \t]?(?P=mark)|(?P=mark)[ \t]?:|(?P=mark)[ \t\r]{0,8}$)  # emphasis around the label
          | (?P<open>\*{1,3}|_{1,3})?Response[ \t]?:                            # or around the response, too
        ))""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
"""A label that begins a line. Every repeat is bounded, so a text is read in linear time."""
_INLINE = re.compile(r"(?<=[.!?])[ \t]{1,4}Response:")
"""A label that begins a sentence within a line."""

_NO_ROOM = Answered("", 0, "length")
"""What a response that fills the context is refined to: nothing, cut."""


class Wording(NamedTuple):
    """How the better and the worse response are asked for."""

    better: str
    """What the better one is."""
    worse: str
    """What the worse one is."""
    noun: str
    """What follows these words in a prompt's prefix."""


WORDINGS = {
    "good-bad": Wording("good", "bad", " response"),
    "harmless-harmful": Wording("helpful, harmless", "unhelpful, harmful", ""),
}
"""The paper's two. The second one asks a model for harmful text, so the first one is the default."""


class Demonstration(NamedTuple):
    """A worked example for prompts that demonstrate."""

    question: str
    """The question."""
    right: str
    """Its answer."""
    wrong: str
    """The answer to another question."""


@dataclass(frozen=True)
class Side:
    """How one response of a pair is made."""

    question: str
    """What the model reads. Of a response that is refined: the question."""
    model: Role = "main"
    """Which model answers."""
    policy: str = ""
    """Its sampling chain; "": the job's."""
    exits: bool = False
    """The exit rule is asked."""
    refines: bool = False
    """The response is made from the other side's."""


class Contrast(NamedTuple):
    """A strategy's two sides for one question."""

    strategy: Strategy
    """The strategy."""
    better: Side
    """The side that is expected to be better."""
    worse: Side
    """The other one."""


@dataclass(frozen=True)
class Contrasting:
    """What a job contrasts."""

    strategies: tuple[Strategy, ...]
    """Which strategies."""
    wording: Wording
    """How prompts ask for better and worse."""
    policies: tuple[str, str]
    """The better and the worse sampling chain of `policy`."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Of `demonstration`."""

    def contrasts(self, question: str) -> list[Contrast]:
        """The sides of every strategy, in order."""
        return [Contrast(one, *getattr(self, f"_{one}")(question)) for one in self.strategies]

    def _prefix(self, question: str) -> tuple[Side, Side]:
        better, worse, noun = self.wording
        return Side(f"({better}{noun}) {question}"), Side(f"({worse}{noun}) {question}")

    def _demonstration(self, question: str) -> tuple[Side, Side]:
        def shown(answers: Sequence[str]) -> Side:
            pairs = zip(self.demonstrations, answers, strict=True)
            examples = [f"Question: {one.question}\nResponse: {answer}" for one, answer in pairs]
            return Side("\n\n".join([*examples, f"Question: {question}\nResponse:"]))

        return shown([one.right for one in self.demonstrations]), shown([one.wrong for one in self.demonstrations])

    def _elicitive(self, question: str) -> tuple[Side, Side]:
        def asked(kind: str) -> Side:
            return Side(
                f"First consider the principles of crafting a {kind} response, then write it. Reply in this form:\n"
                f"Thought: <the principles>\nResponse: <the {kind} response>\n\n{question}"
            )

        return asked(self.wording.better), asked(self.wording.worse)

    def _parameters(self, question: str) -> tuple[Side, Side]:
        return Side(question), Side(question, "smaller")

    def _leaderboard(self, question: str) -> tuple[Side, Side]:
        return Side(question), Side(question, "lower")

    def _refine(self, question: str) -> tuple[Side, Side]:
        return Side(question, refines=True), Side(question)

    def _exit(self, question: str) -> tuple[Side, Side]:
        return Side(question), Side(question, exits=True)

    def _policy(self, question: str) -> tuple[Side, Side]:
        return Side(question, policy=self.policies[0]), Side(question, policy=self.policies[1])


def refining(question: str, response: str) -> str:
    """The prompt that asks for a better response than the one that is there."""
    return (
        f"{question}\n\nA response to this:\n{response}\n\n"
        "Improve this response. Reply with the improved response only."
    )


def response_of(strategy: Strategy, text: str) -> str:
    """What counts of a text: where principles come first, what follows the label `Response:`; "" where there is none.

    The last label that begins a line counts, in Markdown's emphasis or not; else the last that begins a sentence.
    Demonstrations end with the label, so there one that begins the text is only repeated.

    >>> response_of("elicitive", "**Thought:** be clear.\\n\\n**Response:** 42"), response_of("elicitive", "42")
    ('42', '')
    >>> response_of("demonstration", "Response: 42"), response_of("prefix", " Response: 42 ")
    ('42', 'Response: 42')
    """
    text = text.strip()
    if strategy == "elicitive":
        label = next(reversed([*(_LABEL.finditer(text) if _LABEL.search(text) else _INLINE.finditer(text))]), None)
        return "" if label is None else _after(label, text)
    label = _LABEL.match(text) if strategy == "demonstration" else None
    return text if label is None else _after(label, text)


def _after(label: re.Match[str], text: str) -> str:
    """What follows a label, without the emphasis that began before it."""
    rest, mark = text[label.end() :], label.groupdict().get("open")
    return (rest.replace(mark, "", 1) if mark else rest).strip()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one question."""

    strategy: Strategy
    """What made them."""
    better: str
    """The one that is expected to be better."""
    worse: str
    """The other one."""
    better_cut: bool = False
    """Whether the better one had not ended where tokens ran out."""
    worse_cut: bool = False
    """The same of the other one."""

    @property
    def cut(self) -> bool:
        """Whether a side is cut: what it lacks may be what a grader reads, so the pair says nothing."""
        return self.better_cut or self.worse_cut

    @classmethod
    def from_json(cls, value: Any, where: str, strategy: Strategy) -> Pair:
        """From parsed JSON; ControllerError for anything but an object of this strategy."""
        found = Fields.of(value, where)
        found.only(list(cls.__slots__))
        if found.text("strategy") != strategy:
            raise ControllerError(f"{where} has pairs of other strategies; the file was changed: --force")
        cut = found.flag("better_cut"), found.flag("worse_cut")
        return cls(strategy, found.text("better"), found.text("worse"), *cut)


@dataclass
class PairsFile(JobFile):
    """One question a line, with its pair of each strategy."""

    what: ClassVar[str] = "responses"
    versions: ClassVar[tuple[int, ...]] = (2,)
    # Version 1 didn't say which responses are cut, so it can't be gone on with.

    def append(self, pairs: Sequence[Pair]) -> None:
        """Write a question's pairs and make sure that they are on the disk."""
        self._write({"pairs": [{name: getattr(one, name) for name in Pair.__slots__} for one in pairs]})

    def read(self, strategies: Sequence[Strategy]) -> list[list[Pair]]:
        """All pairs, in order. Raises ControllerError where the file was changed; the line is named."""
        found = []
        for number, value in self._lines():
            where = f"line {number} of {str(self.path)!r}"
            pairs = Fields.of(value, where).items("pairs")
            if len(pairs) != len(strategies):
                raise ControllerError(f"{where} has {len(pairs)} pairs, not {len(strategies)}; the file was changed")
            found.append([Pair.from_json(one, where, name) for one, name in zip(pairs, strategies, strict=True)])
        return found


def contrasted(
    recipes: Mapping[Role, Recipe], contrasts: Sequence[Contrast], rule: ExitRule | None, index: int
) -> list[Pair]:
    """The pairs of one question. A response that several strategies need is made once.

    Args:
        recipes: How each model's runs are made.
        contrasts: The sides of every strategy.
        rule: The exit rule of sides that exit.
        index: The question's number. All sides draw from the same keyed uniforms: those of a token's position, prompt
            included, so that only sides with prompts of equal length meet the same ones.
    """
    made = _responses(recipes, _sides(contrasts), rule, index)
    refined = {
        one.better: Side(refining(one.worse.question, made[one.worse].text)) for one in contrasts if one.better.refines
    }
    fitting = [side for side in refined.values() if has_room(recipes[side.model], side.question)]
    again = _responses(recipes, fitting, rule, index)
    made |= {side: again.get(asked, _NO_ROOM) for side, asked in refined.items()}
    return [_pair(one.strategy, made[one.better], made[one.worse]) for one in contrasts]


def check_pairs(
    recipes: Mapping[Role, Recipe],
    contrasting: Contrasting,
    questions: Sequence[str],
    rule: ExitRule | None,
    workers: int,
) -> None:
    """Raise ControllerError, before any work, if the sides of a question don't fit in batches.

    A side that refines runs alone. The arguments are those of `collect_pairs`.
    """
    sides = [_sides(contrasting.contrasts(one)) for one in questions]
    loaded = {name: recipe.load().engine.loaded_bytes for name, recipe in recipes.items()}
    for name, recipe in recipes.items():
        asks = [_asks(recipe, name, own, i) for i, own in enumerate(sides)]
        others = sum(loaded.values()) - loaded[name] if processes_of(workers, len(questions)) else 0
        check_asks(recipe, asks, rule, workers, besides=others)


def _sides(contrasts: Sequence[Contrast]) -> list[Side]:
    """The sides that need no other response, each once."""
    return [side for side in dict.fromkeys(s for one in contrasts for s in (one.better, one.worse)) if not side.refines]


def _asks(recipe: Recipe, name: Role, sides: Sequence[Side], index: int) -> list[Ask]:
    """The runs of a question that one model makes."""
    own = [side for side in sides if side.model == name]
    return [Ask(side.question, side.policy or recipe.policy, index * MOST_VOTES, side.exits) for side in own]


def _pair(strategy: Strategy, better: Answered, worse: Answered) -> Pair:
    texts = response_of(strategy, better.text), response_of(strategy, worse.text)
    return Pair(strategy, *texts, better.finish != "stop", worse.finish != "stop")


def _responses(
    recipes: Mapping[Role, Recipe], sides: Sequence[Side], rule: ExitRule | None, index: int
) -> dict[Side, Answered]:
    """Each side's response; runs of one model share forwards where its recipe asks for batches."""
    found: dict[Side, Answered] = {}
    for name, recipe in recipes.items():
        own = [side for side in sides if side.model == name]
        found |= dict(zip(own, answer(recipe, _asks(recipe, name, own, index), rule), strict=True))
    return found


def collect_pairs(
    recipes: Mapping[Role, Recipe],
    contrasting: Contrasting,
    questions: Sequence[str],
    rule: ExitRule | None,
    file: PairsFile,
    *,
    done: int,
    workers: int,
    progress: ProgressCallback,
) -> list[list[Pair]]:
    """Make the pairs that the file doesn't hold yet, in order; then read all of the job's.

    Args:
        recipes: How each model's runs are made.
        contrasting: What is contrasted.
        questions: The questions.
        rule: The exit rule of sides that exit.
        file: The open file; it holds `done` questions.
        done: Questions that are there.
        workers: Number of processes.
        progress: Called after each question.
    """
    jobs = [(recipes, contrasting.contrasts(one), rule, i) for i, one in enumerate(questions)]
    append_made(contrasted, jobs, lambda _, made: file.append(made), done=done, workers=workers, progress=progress)
    return file.read(contrasting.strategies)[: len(questions)]
