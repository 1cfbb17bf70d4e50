"""What two prompts of a key have in common is fed once, and nobody else's text is taken over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from reasonctl.backends.server.driving import Driver, Group, ServedRun
from reasonctl.backends.server.prefixes import LEAST, Prefixes, Text
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Chain, Controller, Ended, Keys, PromptLookup, Scheduler, Trace
from reasonctl.controller.core import common_prefix
from support.serving import running

VOCABULARY = 4
TOKENIZER = ToyTokenizer([f"{i} " for i in range(VOCABULARY)])
CONTROLLER = Controller(drafter=PromptLookup(3))
NEW = 12


class Fed(ToyEngine):
    """Counts the tokens that are fed without a draft, and runs no sequence beyond its room."""

    fed = 0

    def forward(self, requests: Sequence[Any]) -> Any:
        self.fed += sum(len(request.pending) for request in requests)
        return super().forward(requests)


def served(prefixes: Prefixes, engine: ToyEngine, owner: str, prompt: list[int], seed: int) -> tuple[Text, ServedRun]:
    """A run, not started."""
    call = Call(prompt, NEW, frozenset({0}), Keys(seed=seed), Chain())
    text = Text(owner, prompt, Trace())
    text.needs = CONTROLLER.needs(engine, TOKENIZER, call)
    loop = partial(CONTROLLER.loop, tokenizer=TOKENIZER, call=call, trace=text.trace)
    return text, ServedRun(prefixes.run(text, loop), text.needs)


def plain(engine: ToyEngine, prompt: list[int], seed: int) -> list[int]:
    trace = Trace()
    call = Call(prompt, NEW, frozenset({0}), Keys(seed=seed), Chain())
    list(CONTROLLER.stream(engine.session(), TOKENIZER, call, trace))
    return trace.tokens


def finish(prefixes: Prefixes, engine: ToyEngine, owner: str, prompt: list[int], seed: int = 1) -> Text:
    """One run to its end."""
    text, run = served(prefixes, engine, owner, prompt, seed)
    scheduler = Scheduler()
    scheduler.add("run", run.loop, run.needs)
    (end,) = (output for output in scheduler if isinstance(output, Ended))
    assert end.error is None, end.error
    return text


def words(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(1, VOCABULARY) for _ in range(n)]


def test_a_conversation_goes_on_where_it_was() -> None:
    rng, engine = random.Random(1), Fed(vocabulary=VOCABULARY, order=3)
    prefixes, prompt = Prefixes(engine, 1000), words(rng, 60)
    first = finish(prefixes, engine, "a", prompt)
    fed, held, more = engine.fed, first.length, [*prompt, *first.trace.tokens, 0, *words(rng, 20)]
    second = finish(prefixes, engine, "a", more)
    assert second.cached == held >= 60
    assert engine.fed - fed <= len(more) - second.cached + NEW
    other = finish(prefixes, engine, "b", more)
    assert other.cached == 0 and other.trace.tokens == second.trace.tokens, "another key takes nothing over"
    again = finish(prefixes, engine, "a", more)
    assert again.cached == len(more) - 1, "the last token's row is wanted"
    assert finish(prefixes, engine, "a", prompt[: LEAST - 1]).cached == 0
    prefixes.close()
    assert not engine.open


@pytest.mark.parametrize("seed", range(8))
def test_runs_are_what_they_are_without(seed: int) -> None:
    """Random conversations of three keys in tight room, some cancelled: tokens are those of fresh runs."""
    rng = random.Random(seed)
    engine, free = (
        Fed(vocabulary=VOCABULARY, order=3, seed=seed, room=420, most_sessions=5),
        ToyEngine(vocabulary=VOCABULARY, order=3, seed=seed),
    )
    prefixes, scheduler = Prefixes(engine, 240), Scheduler()
    bases = [words(rng, 70) for _ in range(3)]
    known: dict[int, tuple[Text, int, list[int]]] = {}
    cached = 0
    for i in range(60):
        base = rng.choice(bases)
        prompt = base[: rng.randrange(20, 71)] + words(rng, rng.randrange(1, 8))
        past = [text for text, *_ in known.values() if text.trace.finish_reason]
        if past and rng.random() < 0.4:
            last = rng.choice(past)
            prompt = [*last.prompt, *last.trace.tokens, *words(rng, 3)][:100]
        text, run = served(prefixes, engine, rng.choice("abc"), prompt, i)
        known[i] = text, i, prompt
        scheduler.add(i, run.loop, run.needs)
        for _ in range(rng.randrange(8)):
            scheduler.step()
        if rng.random() < 0.2:
            gone = rng.choice(list(known))
            scheduler.cancel(gone)
            known.pop(gone)
    ended = {output.key: output.error for output in scheduler if isinstance(output, Ended)}
    for i, (text, run_seed, prompt) in known.items():
        assert ended.get(i) is None and text.trace.tokens == plain(free, prompt, run_seed)
        cached += text.cached
    assert cached > 60, "the control: something was taken over"
    for text in prefixes._kept:
        session: Any = text.session
        assert session.tokens[: len(text.tokens)] == text.tokens
    assert sum(text.length for text in prefixes._kept) <= 240
    prefixes.close()
    assert not engine.open


def test_nothing_is_taken_over_from_another_key() -> None:
    """Whatever is kept: a run's part of the cache is never longer than what its own key has had."""
    rng, engine, had = random.Random(5), Fed(vocabulary=VOCABULARY, order=2), dict[str, list[list[int]]]()
    prefixes, base = Prefixes(engine, 5000), words(rng, 80)
    for i in range(60):
        owner, prompt = rng.choice("abcd"), base[: rng.randrange(40, 81)] + words(rng, 4)
        text = finish(prefixes, engine, owner, prompt, i)
        own = max((common_prefix(one, prompt) for one in had.get(owner, ())), default=0)
        assert text.cached <= own
        had.setdefault(owner, []).append([*prompt, *text.trace.tokens])


def test_the_key_that_holds_most_loses_first() -> None:
    rng, engine = random.Random(2), Fed(vocabulary=VOCABULARY, order=2)
    prefixes, small = Prefixes(engine, 300), words(rng, 50)
    finish(prefixes, engine, "small", small)
    for i in range(9):
        finish(prefixes, engine, "large", words(rng, 90), i)
    assert finish(prefixes, engine, "small", small).cached == 49
    assert sum(text.length for text in prefixes._kept) <= 300


def test_the_sequence_of_a_failed_run_is_not_kept() -> None:
    engine, prompt = Fed(vocabulary=VOCABULARY, order=2), [1] * 50
    prefixes, scheduler = Prefixes(engine, 1000), Scheduler()
    _, run = served(prefixes, engine, "a", prompt, 1)
    engine.forward = lambda requests: 1 / 0  # type: ignore[method-assign, assignment]
    scheduler.add("run", run.loop, run.needs)
    assert isinstance(list(scheduler)[-1], Ended)
    assert not prefixes._kept and not engine.open


@pytest.mark.parametrize("most", [0, 1000])
def test_choices_share_their_prompt(most: int) -> None:
    """It is fed once, whether anything is kept afterwards or not; places may be fewer than choices."""
    rng, engine = random.Random(3), Fed(vocabulary=VOCABULARY, order=3, seed=2)
    prefixes, prompt, driver = Prefixes(engine, most), words(rng, 200), Driver(3, 10)
    made = [served(prefixes, engine, "a", prompt, i) for i in range(5)]
    ended = list[int]()
    group = Group(
        "a",
        [run for _, run in made],
        lambda outputs: ended.extend(int(str(o.key)) for o in outputs if isinstance(o, Ended)),
        prefixes.shares(prompt),
    )
    driver.submit(group)
    driver.start()
    while len(ended) < 5:
        assert driver.failure is None
    driver.close()
    assert driver.waiting == 0 and sorted(ended) == list(range(5))
    assert [text.cached for text, _ in made] == [0, *[199] * 4]
    assert engine.fed <= 200 + 5 * (NEW + 1)
    assert [text.trace.tokens for text, _ in made] == [plain(engine, prompt, i) for i in range(5)]
    assert bool(prefixes._kept) == bool(most)


def test_choices_that_wait_for_the_first_are_cancelled_with_it() -> None:
    engine, driver = Fed(vocabulary=VOCABULARY), Driver(1, 10)
    prefixes = Prefixes(engine, 0)
    runs = [served(prefixes, engine, "a", [1] * 50, i)[1] for i in range(4)]
    group = Group("a", runs, lambda _: None, True)
    driver.submit(group)
    assert driver.waiting == 4
    driver.cancel(group)
    driver.start()
    while driver.waiting:
        assert driver.failure is None
    driver.close()
    assert not group.open and not engine.open


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
def test_a_conversation_over_a_server(backend: str) -> None:
    """Each turn's answer is that of a server which keeps nothing; usage says what wasn't fed again."""
    from reasonctl.backends.server.limits import ServerLimits

    answers, cached = [], []
    for most in (0, 5000):
        with running(backend, limits=ServerLimits(drain_seconds=5, prefix_tokens=most)) as served_here:
            said: list[dict[str, str]] = []
            for turn in range(4):
                said.append({"role": "user", "content": f"{40 + turn} a-9 b+6 c-3"})
                answer = served_here.ask(messages=said, temperature=0, max_tokens=40)
                said.append({"role": "assistant", "content": answer.choices[0].message.content})
                answers.append(answer.choices[0].message.content)
                cached.append(answer.usage.prompt_tokens_details.cached_tokens)
            both = served_here.ask(messages=said[:-1], n=4, temperature=0.01)
            assert len({choice.message.content for choice in both.choices}) >= 1
    assert answers[:4] == answers[4:] and cached[:4] == [0] * 4
    assert cached[4] == 0 and all(n >= LEAST for n in cached[6:])
