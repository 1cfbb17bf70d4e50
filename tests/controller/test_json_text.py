"""Reading JSON of others: what is refused, in which words, and how long it takes."""

from __future__ import annotations

import json

import pytest

from reasonctl.controller import ControllerError
from reasonctl.controller.core.json_text import MOST_DEPTH, Fields, lines, parse, read_bytes
from support.fuzz import broken_bytes, refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("{", "no JSON: .*character 2"),
        ("[1,]", "no JSON"),
        ("{} {}", "no JSON: Extra data"),
        ("NaN", "holds NaN.*null"),
        ("[-Infinity]", "holds -Infinity"),
        ("9" * 5000, "whole number of 5,000 digits"),
        ("[" * 100_000, f"more than {MOST_DEPTH} brackets"),
        ('{"a":' * 40 + "1" + "}" * 40, "brackets deep"),
        ('["\\ud83d"]', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
        (b'"\xff"', "not UTF-8 text .byte 2"),
        ("\ud83d", "not UTF-8"),
    ],
)
def test_no_json(text, message):
    with pytest.raises(ControllerError, match=message) as caught:
        parse(text, "the text")
    assert len(str(caught.value)) < 200 and str(caught.value).startswith("the text")


def test_brackets_and_escapes_in_texts_are_no_nesting():
    value = {"a": "[" * 1000, "b": '\\"{', "c": "😀 \u2028", "d": [[[[1]]]]}
    assert parse(json.dumps(value), "x") == value == parse(json.dumps(value, ensure_ascii=False).encode(), "x")


def test_long_texts_are_read_in_linear_time():
    for text in (
        '"' + '\\"' * 150_000,
        '"' + '\\"' * 150_000 + "\\",
        '"' * 300_000,
        "\\" * 300_000,
        '["' + "\\\\" * 300_000,
        "[]" * 150_000 + "[",
        '{"a":1,' * 100_000,
    ):
        assert refused(lambda text=text: parse(text, "x"), seconds=3.0)


def test_lines_end_at_a_line_feed_only(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "one\u2028two\u2029three\x85four"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"q": text}, ensure_ascii=False).encode() + b"\r\n\n  \n" + b'{"q": 2}'
    )
    assert list(lines(path, "tasks")) == [(1, {"q": text}), (4, {"q": 2})]
    assert list(lines(path, "tasks", torn_end=True)) == [(1, {"q": text})]


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"q": 1}\n{"q": }\n')
    with pytest.raises(ControllerError, match="line 2 of .*a.jsonl.* is no JSON"):
        list(lines(path, "tasks"))
    path.write_bytes('{"q": "é"}\n'.encode("latin-1"))
    with pytest.raises(ControllerError, match="line 1 of .* not UTF-8"):
        list(lines(path, "tasks"))


def test_files_that_are_none(tmp_path):
    for path, message in ((tmp_path, "is no file"), (tmp_path / "no", "is no file"), ("a\0b", "is no file|can't be")):
        with pytest.raises(ControllerError, match=message):
            read_bytes(path, "a probe")
    with pytest.raises(ControllerError, match="can't be read as tasks"):
        list(lines(tmp_path / "no", "tasks"))
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(ControllerError, match="larger than 10 bytes"):
        read_bytes(tmp_path / "large", "a probe", most=10)
    assert read_bytes(tmp_path / "large", "a probe", most=11) == b"x" * 11


def test_fields_have_types_and_bounds():
    fields = Fields.of({"t": "x", "n": 2, "f": 0.5, "b": True, "l": [1, 2.5], "o": {"n": None}, "z": None}, "record 7")
    assert (fields.text("t"), fields.whole("n"), fields.number("f", 0, 1), fields.flag("b")) == ("x", 2, 0.5, True)
    assert fields.numbers("l") == [1.0, 2.5] and fields.inner("o").values == {"n": None}
    assert fields.optional(fields.text, "z") is None and fields.optional(fields.text, "missing") is None
    for read, message in (
        (lambda: fields.text("n"), "'n' in record 7 is 2; it must be a text"),
        (lambda: fields.text("t", 0), "at most 0 characters"),
        (lambda: fields.whole("b"), "is True; it must be a whole number"),
        (lambda: fields.whole("f"), "is 0.5; it must be a whole number"),
        (lambda: fields.whole("n", 3, 9), "from 3 to 9"),
        (lambda: fields.number("b"), "is True; it must be a number"),
        (lambda: fields.number("f", 1, 2), "a number from 1 to 2"),
        (lambda: fields.flag("n"), "true or false"),
        (lambda: fields.numbers("t"), "it must be a list"),
        (lambda: fields.inner("l"), "'l' in record 7 is a list of 2 values; it must be an object"),
        (lambda: fields.inner("o").whole("n"), "'n' in 'o' in record 7 is null"),
        (lambda: fields.text("q"), "'q' is missing in record 7"),
        (lambda: Fields.of([], "line 1"), "line 1 is a list of 0 values"),
    ):
        with pytest.raises(ControllerError, match=message):
            read()


def test_broken_texts_are_refused_or_read():
    """A few hundred broken texts by default; nothing but ControllerError comes out."""
    whole = json.dumps({"a": [1, 2, {"b": "x é \\u00e9"}], "c": None, "d": [[1.5, -2e3], True]}).encode()
    found = [refused(lambda data=data: parse(data, "x")) for data in broken_bytes(whole, 600, seed=1)]
    assert 300 < sum(found) < 600


def test_a_field_s_name_stays_on_its_line():
    with pytest.raises(ControllerError, match=r"the fields of it differ by 'f\\nish', finish$"):
        Fields.of({"f\nish": 1}, "it").only(["finish"])
