"""The scheduler on the toy reasoner: runs join, wait, pause, leave and fail without touching each other."""

from __future__ import annotations

import gc
import random
from collections import Counter, defaultdict
from weakref import WeakSet

import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import (
    Controller,
    ControllerError,
    Decode,
    Emitted,
    Ended,
    Greedy,
    Need,
    PromptLookup,
    Scheduler,
    Trace,
)
from reasonctl.controller.core.decode import Clock
from reasonctl.controller.decoding.drivers import drive
from support.scheduled import KINDS, alone, call, reasoner
from support.scripted import Scripted
from support.toy_thinking import TOKENIZER

GOOD = [kind for kind in KINDS if kind != "breaks"]


def schedule(scheduler, key, kind, number, most, engine, drafts):
    """Add a run of a kind; returns its trace."""
    controller, trace = KINDS[kind](drafts), Trace()
    needs = controller.needs(engine, TOKENIZER, call(number, most))
    scheduler.add(key, controller.run(engine, TOKENIZER, call(number, most), trace), needs)
    return trace


def tokens_of(outputs):
    return tuple(output.event.token for output in outputs if isinstance(output, Emitted))


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_every_run_writes_what_it_writes_alone(batch):
    engine, drafts, scheduler, sizes = reasoner(batch=batch), reasoner(), Scheduler(), []
    forward = engine.forward
    engine.forward = lambda requests: sizes.append(len(requests)) or forward(requests)
    runs = [(kind, number, 30 + 5 * number) for number in range(3) for kind in GOOD]
    for run in runs:
        schedule(scheduler, run, *run, engine, drafts)
    got, ended = defaultdict(list), []
    for output in scheduler:
        (got[output.key] if isinstance(output, Emitted) else ended).append(output)
    assert max(sizes) == min(batch, len(runs))
    assert sorted(ended) == sorted(Ended(run, None) for run in runs)
    for run in runs:
        assert tokens_of(got[run]) == alone(*run) and got[run]
    assert not engine.open and not drafts.open


def test_a_run_fails_alone():
    """One by its policy, one by a token that its engine refuses; the error says which, and the others go on."""
    engine, drafts, scheduler = reasoner(), reasoner(), Scheduler()
    forward = engine.forward

    def refusing(requests):
        if any(request.session is poisoned.get("session") for request in requests):
            raise MemoryError("refused")
        return forward(requests)

    poisoned = {}
    engine.forward = refusing
    for number, kind in enumerate(["plain", "breaks", "tree", "plain"]):
        schedule(scheduler, number, kind, number, 40, engine, drafts)
    for _ in range(5):
        scheduler.step()
    schedule(scheduler, "late", "plain", 9, 40, engine, drafts)
    scheduler.step()
    poisoned["session"] = max(engine.open, key=lambda session: -session.length)
    outputs = list(scheduler)
    errors = {output.key: output.error for output in outputs if isinstance(output, Ended)}
    assert (type(errors[1]), type(errors["late"])) == (ZeroDivisionError, MemoryError)
    assert [errors[number] for number in (0, 2, 3)] == [None] * 3
    for number, kind in ((0, "plain"), (2, "tree"), (3, "plain")):
        assert tokens_of(o for o in outputs if o.key == number) == alone(kind, number, 40)
    assert not engine.open


def test_a_failed_run_has_no_end_and_a_cancelled_one_has():
    """As under `drive`: a rule finishes what was read and left, and abandons what failed."""
    heard = []

    class Hearing(Scripted):
        def begin(self, trace):
            heard.append(("begin", trace.run))

        def finish(self, trace):
            heard.append(("finish", trace.run))

        def abandon(self, trace):
            heard.append(("abandon", trace.run))

    engine, scheduler = reasoner(), Scheduler()
    for number, kind in enumerate(["plain", "breaks", "plain"]):
        controller = Controller(exit=Hearing(lambda at: False), policy=KINDS[kind](engine).policy)
        scheduler.add(number, controller.run(engine, TOKENIZER, call(number, 30), Trace()))
    for _ in range(4):
        scheduler.step()
    scheduler.cancel(2)
    list(scheduler)
    assert heard[:4] == [("begin", 0), ("begin", 1), ("begin", 2), ("finish", 2)]
    assert sorted(heard[4:]) == [("abandon", 1), ("finish", 0)]


@pytest.mark.parametrize("breaks", ["begin", "policy"])
def test_a_run_whose_begin_or_whose_policys_end_breaks_is_abandoned(breaks):
    """It may have its place among the rule's runs, for which the later ones would wait for ever."""
    heard = []

    class Hearing(Scripted):
        def begin(self, trace):
            heard.append("begin")
            if breaks == "begin":
                raise OSError("no space left")

        def finish(self, trace):
            heard.append("finish")

        def abandon(self, trace):
            heard.append("abandon")

    class Ends(Greedy):
        def finish(self, state, trace):
            raise OSError("no space left")

    engine = reasoner()
    controller = Controller(exit=Hearing(lambda at: False), policy=Ends() if breaks == "policy" else Greedy())
    with pytest.raises(OSError, match="no space left"):
        list(drive(controller.run(engine, TOKENIZER, call(0, 10), Trace())))
    assert heard == ["begin", "abandon"]


def test_a_cancelled_run_gives_its_room_to_the_next():
    engine, scheduler = reasoner(room=2 * 42), Scheduler()
    for number in range(3):
        schedule(scheduler, number, "plain", number, 40, engine, engine)
    scheduler.step()
    assert len(engine.open) == 2
    before = tokens_of(scheduler.read(1))
    scheduler.cancel(1)
    assert len(engine.open) == 1
    outputs = list(scheduler)
    assert {output.key for output in outputs} == {0, 2} and not engine.open
    assert alone("plain", 1, 40)[: len(before)] == before
    for number in (0, 2):
        assert tokens_of(o for o in outputs if o.key == number) == alone("plain", number, 40)
    scheduler.cancel(0)  # over: nothing happens
    with pytest.raises(ControllerError, match="no run is named 1"):
        scheduler.read(1)


def test_who_reads_may_cancel_and_add():
    engine, scheduler, seen = reasoner(), Scheduler(), Counter()
    for number in range(3):
        schedule(scheduler, number, "tree", number, 40, engine, engine)
    for output in scheduler:
        seen[output.key] += 1
        if output.key == 1 and seen[1] == 3:
            scheduler.cancel(1)
            schedule(scheduler, 1, "plain", 7, 12, engine, engine)
            schedule(scheduler, "new", "plain", 8, 12, engine, engine)
    assert seen[1] == 3 + 1 + len(alone("plain", 7, 12)) and seen["new"] == 1 + len(alone("plain", 8, 12))
    assert not engine.open


def test_runs_wait_for_room_in_order_of_arrival():
    """The second needs more than is left, and the third, which would fit, doesn't overtake it."""
    engine, scheduler = reasoner(room=100), Scheduler()
    started = []
    for number, most in enumerate([60, 70, 10, 10]):
        controller = Controller(exit=Scripted(lambda at: False))
        controller.exit.begin = lambda trace, number=number: started.append(number)
        needs = controller.needs(engine, TOKENIZER, call(number, most))
        scheduler.add(number, controller.run(engine, TOKENIZER, call(number, most), Trace()), needs)
    scheduler.step()
    assert started == [0]
    most_held = 0
    while scheduler.step():
        most_held = max(most_held, sum(session.length for session in engine.open))
    assert started == [0, 1, 2, 3] and most_held <= 100 and not engine.open


def test_sessions_are_room_too():
    engine, scheduler = reasoner(most_sessions=3), Scheduler()
    for number in range(4):
        schedule(scheduler, number, "trial", number, 30, engine, engine)
    scheduler.step()
    assert len(engine.open) == 1  # with its fork it may need two of three
    assert [output.error for output in scheduler if isinstance(output, Ended)] == [None] * 4


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"room": 41}, "run 'big' may need 42 tokens of cache and there is room for 41"),
        ({"most_sessions": 1}, "run 'big' may need 2 sessions at once and the engine has 1"),
    ],
)
def test_what_can_never_fit_is_refused_by_name(limits, message):
    engine, scheduler = reasoner(**limits), Scheduler()
    kind = "trial" if "most_sessions" in limits else "plain"
    schedule(scheduler, "big", kind, 0, 40, engine, engine)
    schedule(scheduler, "small", "plain", 1, 8, engine, engine)
    ended = {output.key: output.error for output in scheduler if isinstance(output, Ended)}
    assert isinstance(ended["big"], ControllerError) and message in str(ended["big"])
    assert ended["small"] is None


def test_a_slow_reader_stalls_its_own_run_only():
    engine, scheduler = reasoner(), Scheduler(most_unread=3)
    traces = [schedule(scheduler, number, "tree", number, 40, engine, engine) for number in range(3)]
    got = defaultdict(list)
    while scheduler.step():
        for number in (0, 2):
            got[number] += (
                scheduler.read(number) if number not in got or got[number][-1:] != [Ended(number, None)] else []
            )
    for number in (0, 2):
        assert tokens_of(got[number]) == alone("tree", number, 40) and got[number][-1] == Ended(number, None)
    assert len(traces[1].tokens) == 3 and len(engine.open) == 1
    while got[1][-1:] != [Ended(1, None)]:
        scheduler.step()
        got[1] += scheduler.read(1)
    assert tokens_of(got[1]) == alone("tree", 1, 40) and not engine.open


def test_the_same_additions_make_the_same_forwards():
    def forwards():
        engine, drafts, scheduler, made = reasoner(batch=4, room=400), reasoner(batch=2), Scheduler(), []
        for name, used in (("target", engine), ("draft", drafts)):
            stock = used.forward
            used.forward = lambda requests, name=name, stock=stock: (
                made.append((name, [(r.session.length, tuple(r.pending), r.draft.tokens) for r in requests]))
                or stock(requests)
            )
        for number in range(10):
            schedule(scheduler, number, GOOD[number % len(GOOD)], number, 30, engine, drafts)
        list(scheduler)
        return made

    first = forwards()
    assert first == forwards()
    assert {name for name, _ in first} == {"target", "draft"} and max(len(rows) for _, rows in first) == 4


def test_loops_wait_for_a_draft_model_while_others_wait_for_the_target():
    engine, drafts, scheduler = reasoner(), reasoner(), Scheduler()
    for number in range(4):
        schedule(scheduler, number, "model" if number % 2 else "plain", number, 40, engine, drafts)
    list(scheduler)
    longest = max(len(alone("plain" if number % 2 == 0 else "model", number, 40)) for number in range(4))
    assert engine.forwards <= longest + 4 and drafts.forwards > 10


def test_names_are_unique_and_room_is_counted():
    engine, scheduler = reasoner(), Scheduler()
    schedule(scheduler, "a", "plain", 0, 8, engine, engine)
    with pytest.raises(ControllerError, match="'a' is scheduled already"):
        schedule(scheduler, "a", "plain", 1, 8, engine, engine)
    with pytest.raises(ControllerError, match="most_unread is 0"):
        Scheduler(most_unread=0)
    needs = KINDS["drafted exit"](engine).needs(engine, TOKENIZER, call(0, 40))
    assert needs == (Need(engine, 42 + 32, 2),)
    assert Controller(drafter=PromptLookup()).needs(engine, TOKENIZER, call(0, 40)) == (Need(engine, 42),)
    scheduler.close()
    assert list(scheduler) == [] and not engine.open


def soak(generations: int, seed: int) -> None:
    """Random runs join, are read at random, are cancelled and fail, under little room; nothing leaks or mixes."""
    rng = random.Random(seed)
    engine, drafts, scheduler = reasoner(batch=5, room=420, most_sessions=9), reasoner(batch=3, room=200), Scheduler(4)
    forward = engine.forward

    poisoned = WeakSet()

    def failing(requests):
        if any(request.session in poisoned for request in requests):
            raise MemoryError
        return forward(requests)

    engine.forward = failing
    alive: dict[int, tuple[str, int, int]] = {}
    got: dict[int, list[int]] = defaultdict(list)
    ends = Counter()
    added = 0
    while added < generations or alive:
        while added < generations and len(alive) < 12 and rng.random() < 0.4:
            run = (rng.choice([*KINDS]), added % 50, rng.choice([6, 15, 30, 60]))
            alive[added] = run
            schedule(scheduler, added, *run, engine, drafts)
            added += 1
        if engine.open and rng.random() < 0.01:
            poisoned.add(rng.choice(sorted(engine.open, key=lambda session: (session.length, session.tokens))))
        scheduler.step()
        held = sum(session.length for session in engine.open)
        assert held <= 420 and len(engine.open) <= 9 and len(drafts.open) <= len(alive)
        for key in rng.sample([*alive], rng.randint(0, len(alive))):
            if rng.random() < 0.02:
                scheduler.cancel(key)
                ends["cancelled"] += 1
                expected = alone(*alive.pop(key))
                assert got[key] == list(expected[: len(got[key])])
                continue
            for output in scheduler.read(key):
                if isinstance(output, Emitted):
                    got[key].append(output.event.token)
                    continue
                run = alive.pop(key)
                ends[type(output.error).__name__] += 1
                assert output.error is not None or got[key] == list(alone(*run))
                assert got[key] == list(alone(*run)[: len(got[key])])
    gc.collect()
    assert not engine.open and not drafts.open
    assert set(ends) == {"cancelled", "NoneType", "ZeroDivisionError", "MemoryError"}
    assert min(ends.values()) > generations / 100


def test_a_soak_of_joins_leaves_and_failures():
    soak(300, seed=1)


@pytest.mark.slow
def test_a_long_soak():
    soak(3_000, seed=2)


def test_a_forward_that_is_timed_serves_one_request():
    served = []

    class Counted(ToyEngine):
        batch = 8

        def forward(self, requests):
            served.append([request.clock.alone for request in requests])
            return super().forward(requests)

    engine = Counted(vocabulary=3)

    def asks(timed):
        session = engine.session()
        for _ in range(3):
            yield Decode(session, [1], clock=Clock(alone=timed))
        session.close()

    scheduler = Scheduler()
    for name, timed in (("a", False), ("timed", True), ("b", False)):
        scheduler.add(name, asks(timed))
    assert len(list(scheduler)) == 3
    assert all(len(flags) == 1 for flags in served if any(flags))
    assert sum(map(len, served)) == 9 and max(map(len, served)) == 2
