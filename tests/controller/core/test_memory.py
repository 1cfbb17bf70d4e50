"""The one check of memory: what runs, worker processes and further models take together, by device."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import ControllerError, Need
from reasonctl.controller.core import Memory, check_memory


class Sized(ToyEngine):
    """An engine whose caches take a byte a token, on a device with so many bytes free."""

    def __init__(self, free: int | None, *, place: str = "cpu", loaded: int = 0) -> None:
        super().__init__(vocabulary=4)
        self.loaded_bytes, self._free, self._place = loaded, free, place

    def memory(self, sessions: int, tokens: int) -> Memory:
        return Memory(self._place, self._free, sessions * tokens)


def fits(needs: list[Need], at_once: int, **more: int) -> bool:
    try:
        check_memory(needs, at_once, **more)
    except ControllerError as error:
        assert "of memory are free; " in str(error)
        return False
    return True


def test_a_batch_needs_all_of_its_sessions() -> None:
    need = [Need(Sized(80), 10, sessions=2)]
    assert fits(need, 4) and not fits(need, 5)
    assert fits([Need(Sized(79), 10, sessions=2)], 1), "a single run isn't asked about"
    assert not fits([Need(Sized(79), 10, sessions=2)], 4)
    assert fits([Need(Sized(None), 10**9)], 8), "nobody knows what is free"
    assert fits([], 8)


def test_each_worker_has_a_model_and_a_cache_of_its_own() -> None:
    need = [Need(Sized(360, loaded=100), 10, sessions=2)]
    assert fits(need, 1, processes=3) and not fits(need, 1, processes=4)
    assert not fits([Need(Sized(359, loaded=100), 10, sessions=2)], 1, processes=3)
    assert fits(need, 4, processes=2) and not fits(need, 5, processes=2)
    assert fits(need, 18), "this process has the model already"


def test_what_each_process_takes_besides_counts_as_often_as_there_are_processes() -> None:
    engine = Sized(240, loaded=50)
    assert fits([Need(engine, 10)], 4, besides=200) and not fits([Need(engine, 10)], 4, besides=201)
    assert fits([Need(engine, 10)], 4, processes=2, besides=30)
    assert not fits([Need(engine, 10)], 4, processes=2, besides=31)


def test_a_draft_model_shares_the_memory_of_its_place() -> None:
    target, draft = Sized(100), Sized(100)
    assert fits([Need(target, 25), Need(draft, 25)], 2) and not fits([Need(target, 26), Need(draft, 25)], 2)
    elsewhere = Sized(100, place="cuda:0")
    assert fits([Need(target, 50), Need(elsewhere, 50)], 2) and not fits([Need(target, 50), Need(elsewhere, 51)], 2)


def test_a_model_that_is_needed_twice_is_loaded_once() -> None:
    engine = Sized(240, loaded=100)
    assert fits([Need(engine, 10), Need(engine, 10)], 1, processes=2)


def test_the_error_names_value_limit_and_remedy() -> None:
    need = [Need(Sized(5 * 10**9, loaded=10**9), 10**9, sessions=2)]
    with pytest.raises(ControllerError, match=r"a batch of 6 sequences of up to 1000000000 tokens may take 6\.0 GB of"):
        check_memory(need, 3)
    with pytest.raises(ControllerError, match=r"2 worker processes, .* may take 14\.0 GB, and 5\.0 GB .* --workers"):
        check_memory(need, 3, processes=2)
