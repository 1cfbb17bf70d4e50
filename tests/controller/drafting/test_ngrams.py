"""N-gram databases: lookups against a plain search, bounds, and files that are refused."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from reasonctl.backends.hf.tokenizer import NoTokenizer
from reasonctl.controller import ControllerError
from reasonctl.controller.core.tokenizer import vocabulary_hash
from reasonctl.controller.drafting.ngrams import KEPT, LONGEST, Context, Recent, build_table, load_table, save_table


def searched(tokens):
    """Every earlier place whose last token matches, with its length of match."""
    found = {}
    for place in range(1, len(tokens)):
        n = 0
        while n < min(place, LONGEST) and tokens[place - 1 - n] == tokens[-1 - n]:
            n += 1
        if n:
            found[place] = n
    return found


def test_the_context_finds_what_a_search_finds():
    rng = np.random.default_rng(1)
    for vocabulary in (2, 5, 40):
        tokens, context = [], Context()
        for token in rng.integers(vocabulary, size=300).tolist():
            tokens.append(token)
            matches = context.matches(tokens)
            everything = searched(tokens)
            assert all(everything[place] == length for place, length in matches)
            assert len(matches) == len({p for p, _ in matches}) == min(KEPT, len(everything))
            assert matches == sorted(matches, key=lambda m: (-m[1], -m[0]))
            # Among three or more matching tokens the newest are found.
            longer = sorted((p for p, n in everything.items() if n >= 3), reverse=True)[:KEPT]
            assert set(longer) <= {p for p, _ in matches}


def test_the_context_after_an_exit_took_tokens_back():
    context = Context()
    context.matches([1, 2, 3, 4, 1, 2, 3, 9, 9, 9])
    cut = [1, 2, 3, 4, 1, 7, 8, 1, 2, 3]
    assert context.matches(cut) == [(3, 3)]
    assert context.matches([1, 2, 3]) == []


def test_recent_keeps_the_newest_and_stays_bounded():
    recent = Recent(capacity=50)
    for i in range(10):
        recent.add([1, 2, i, i, i, i])
    assert recent.continuations([0, 1, 2]) == [(i,) * 4 for i in range(9, 9 - KEPT, -1)]
    recent.add([1, 2, 4, 4, 4, 4])
    assert recent.continuations([1, 2])[0] == (4, 4, 4, 4)
    for i in range(200):
        recent.add([i, i + 1, 0, 0, 0, 0])
        recent.continuations([1, 2])  # what is used stays
    assert len(recent) == 50 and recent.continuations([1, 2])
    assert recent.continuations([30, 31]) == [] and recent.continuations([9]) == []
    with pytest.raises(ControllerError, match="capacity is 0"):
        Recent(0)


def test_memory_does_not_grow_over_ten_thousand_generations():
    recent, rng = Recent(capacity=100), np.random.default_rng(0)
    texts = rng.integers(1000, size=(10_000, 8)).tolist()
    tracemalloc.start()
    for text in texts[:1000]:
        recent.add(text)
    before, _ = tracemalloc.get_traced_memory()
    for text in texts[1000:]:
        recent.add(text)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(recent) == 100
    assert after - before < 50_000


def test_a_table_gives_the_most_frequent_first():
    texts = [[1, 2, 3, 3, 3, 3]] * 3 + [[1, 2, 4, 4, 4, 4]] * 5 + [[9, 9, 9, 9, 9, 9]]
    table = build_table(texts, vocabulary="v", source="test")
    assert table.continuations([0, 1, 2]) == [(4, 4, 4, 4), (3, 3, 3, 3)]
    assert table.continuations([2, 1]) == [] and table.continuations([1]) == []
    assert len(build_table(texts, vocabulary="v", source="test", capacity=1).keys) == 1
    many = [[1, 2, i, i, i, i] for i in range(30)]
    assert len(build_table(many, vocabulary="v", source="test").continuations([1, 2])) == KEPT
    with pytest.raises(ControllerError, match="too short"):
        build_table([[1, 2, 3]], vocabulary="v", source="test")


def test_rare_grams_are_dropped_while_counting():
    rng = np.random.default_rng(2)
    texts = [rng.integers(50_000, size=20).tolist() + [1, 2, 3, 4, 5, 6] for _ in range(600)]
    table = build_table(texts, vocabulary="v", source="test", capacity=100)
    assert len(table.keys) <= 100 and table.continuations([1, 2]) == [(3, 4, 5, 6)]
    assert table.megabytes() < 0.01


def test_a_file_gives_the_table_back_and_the_same_bytes(tmp_path):
    rng = np.random.default_rng(3)
    table = build_table([rng.integers(20, size=500).tolist()], vocabulary="v", source="words")
    for name in ("a", "b"):
        save_table(tmp_path / name, table)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = load_table(tmp_path / "a")
    assert (found.keys == table.keys).all() and (found.rest == table.rest).all()
    assert (found.vocabulary, found.source) == ("v", "words")
    with pytest.raises(ControllerError, match="--force"):
        save_table(tmp_path / "a", table)
    save_table(tmp_path / "a", table, force=True)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    table = build_table([[1, 2, 3, 4, 5, 6, 7, 8] * 9], vocabulary="v", source="words")
    path = tmp_path / "table"
    save_table(path, table)
    whole = path.read_bytes()
    broken = {"cut": whole[:-9], "text": b"hello", "empty": b"", "pickle": b"\x80\x04N."}
    for i in (9, 40, len(whole) - 3):  # header, card, arrays
        broken[f"byte {i}"] = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
    for name, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(ControllerError) as caught:
            load_table(path)
        assert "\n" not in str(caught.value), name
    save_file({"keys": table.keys, "rest": table.rest}, path)
    with pytest.raises(ControllerError, match="no n-gram database"):
        load_table(path)
    with pytest.raises(ControllerError, match="is a folder"):
        load_table(tmp_path)
    with pytest.raises(ControllerError, match="does not exist"):
        load_table(tmp_path / "nothing")


def test_files_with_a_right_digest_and_senseless_content_are_refused(tmp_path):
    table = build_table([[1, 2, 3, 4, 5, 6, 7, 8] * 9], vocabulary="v", source="words")
    keys, rest = table.keys, table.rest
    for name, changes in {
        "unsorted": {"keys": keys[::-1].copy()},
        "negative": {"rest": rest - 9},
        "negative key": {"keys": keys - (1 << 40)},
        "empty": {"keys": keys[:0], "rest": rest[:0]},
    }.items():
        save_table(tmp_path / name, replace(table, **changes))
        with pytest.raises(ControllerError, match="holds no n-grams, unsorted ones or negative"):
            load_table(tmp_path / name)
    assert table.largest == 8


def test_vocabularies_are_compared_by_their_bytes():
    class Pieces:
        def __init__(self, *pieces):
            self._pieces = pieces

        def pieces(self):
            return iter(enumerate(self._pieces))

    assert vocabulary_hash(Pieces(b"a", b"b")) == vocabulary_hash(Pieces(b"a", b"b"))
    assert vocabulary_hash(Pieces(b"a", b"b")) != vocabulary_hash(Pieces(b"b", b"a"))
    with pytest.raises(ControllerError, match="tokenizer"):
        vocabulary_hash(NoTokenizer())
