"""The probe file and the exit rule that it makes: whole or an error, the same bytes each time, bound to its model."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import struct
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from reasonctl.controller import Boundary, ControllerError, Cue, Cues
from reasonctl.probes.exit import ProbeExit, load_exit, make_exit
from reasonctl.probes.files.card import Card
from reasonctl.probes.files.probe_file import SignalTable, load_probe, save_probe
from reasonctl.probes.files.sealed import check_target
from reasonctl.probes.fixed_exits import FixedExit, NeverExit
from reasonctl.probes.promise import Promise
from reasonctl.probes.signals.probe import layer_of
from support.probe_files import DEPTH, WIDTH, card, content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "p.safetensors"
    save_probe(target, content())
    return target


def test_round_trip(path: Path) -> None:
    was, now = content(), load_probe(path)
    assert now.card == was.card
    features = np.random.default_rng(1).normal(size=(20, 2 * WIDTH)).astype(np.float32)
    assert (now.probe.scores(features) == was.probe.scores(features)).all()
    for name, array in was.table.arrays().items():
        assert (now.table.arrays()[name] == array).all() and now.table.arrays()[name].dtype == array.dtype
    assert (now.grid.thresholds == was.grid.thresholds).all() and (now.grid.exits == was.grid.exits).all()


def test_the_same_content_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere"
    again.mkdir()
    shuffled = replace(content(), card=card(sampler={"temperature": 0.6, "policy": "sampling"}))
    save_probe(again / "q.safetensors", shuffled)
    save_probe(again / "r.safetensors", load_probe(path))
    assert path.read_bytes() == (again / "q.safetensors").read_bytes() == (again / "r.safetensors").read_bytes()
    assert str(tmp_path).encode() not in path.read_bytes()
    save_probe(again / "s.safetensors", content(max_new_tokens=65))
    assert (again / "s.safetensors").read_bytes() != path.read_bytes()


def test_every_truncation_is_an_error(path: Path) -> None:
    data = path.read_bytes()
    for part in range(20):
        path.write_bytes(data[: len(data) * part // 20])
        one_line(lambda: load_probe(path))
    path.write_bytes(data[:-1])
    one_line(lambda: load_probe(path))
    path.write_bytes(data + b"\0")
    one_line(lambda: load_probe(path))


def test_every_flipped_byte_is_an_error(path: Path) -> None:
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    spots = [*range(header), *np.random.default_rng(0).integers(header, len(data), 100)]
    mismatches = 0
    with path.open("r+b", buffering=0) as file:  # in place: to overwrite a whole file takes the disk milliseconds

        def put(spot: int, byte: int) -> None:
            file.seek(spot)
            file.write(bytes([byte]))

        for spot in spots:
            put(spot, data[spot] ^ 1)
            mismatches += "hash mismatch" in one_line(lambda: load_probe(path))
            put(spot, data[spot])
    assert mismatches >= 100 and path.read_bytes() == data


def test_an_edited_card_is_a_hash_mismatch(path: Path) -> None:
    data = path.read_bytes()
    edited = data.replace(b'\\"max_new_tokens\\":64', b'\\"max_new_tokens\\":65')
    assert edited != data
    path.write_bytes(edited)
    assert "hash mismatch" in one_line(lambda: load_probe(path))


def test_a_newer_format_and_foreign_files_are_named(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'\\"format\\":2', b'\\"format\\":3'))
    assert "format 3" in one_line(lambda: load_probe(path))
    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors")
    assert "no reasonctl card" in one_line(lambda: load_probe(tmp_path / "model.safetensors"))
    (tmp_path / "text").write_text("hello, this is no safetensors file at all")
    assert "no safetensors" in one_line(lambda: load_probe(tmp_path / "text"))
    assert "no such file" in one_line(lambda: load_probe(tmp_path / "missing"))
    assert "is a folder" in one_line(lambda: load_probe(tmp_path))


def test_a_card_with_a_right_hash_is_still_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reasonctl.probes.files import probe_file as file

    was = content()
    tensors = file._tensors(was)
    good = json.loads(json.dumps(was.card.to_dict()))
    broken = [{**good, "depth": "4"}, {**good, "layers": 3}, {**good, "sampler": [1]}, {**good, "more": 1}, [], "x"]
    broken += [{**good, "cues": []}, {**good, "markers": ["a"]}, {**good, "width": 5}, {**good, "layers": [0.5, "1"]}]
    for values in broken:
        file.SEALED.save(path, tensors, values)
        assert "hash mismatch" not in one_line(lambda: load_probe(path))
    file.SEALED.save(path, tensors, good)
    assert load_probe(path).card == was.card


@pytest.mark.parametrize("force", [False, True])
def test_a_failing_write_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    target = path if force else path.with_name("new.safetensors")
    before = sorted(path.parent.iterdir()), path.read_bytes()
    monkeypatch.setattr("reasonctl.probes.files.sealed._CHUNK", 4096)
    calls = failing(monkeypatch, at=None)
    save_probe(target, content(max_cues=9), force=force)
    writes = len(calls)
    assert writes > 6
    for at in range(writes):
        target.unlink()
        path.write_bytes(before[1])
        monkeypatch.undo()
        monkeypatch.setattr("reasonctl.probes.files.sealed._CHUNK", 4096)
        failing(monkeypatch, at=at)
        said = one_line(lambda: save_probe(target, content(max_cues=9), force=force))
        assert "can't be written" in said and "No space left" in said
        assert (sorted(path.parent.iterdir()), path.read_bytes()) == before
        target.write_bytes(b"")


def failing(monkeypatch: pytest.MonkeyPatch, at: int | None) -> list[str]:
    """Every system call of a save is counted; call `at` meets a full disk. Writes are short, as they may be."""
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace")}

    def fake(name: str):
        def call(*args):
            calls.append(name)
            if len(calls) - 1 == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](args[0], args[1][:1000]) if name == "write" else real[name](*args)

        return call

    for name in real:
        monkeypatch.setattr(f"reasonctl.probes.files.probe_file.os.{name}", fake(name))
    return calls


def test_a_really_full_place(path: Path) -> None:
    before = sorted(path.parent.iterdir()), path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        said = one_line(lambda: save_probe(path, content(max_cues=9), force=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "can't be written" in said and (sorted(path.parent.iterdir()), path.read_bytes()) == before


def test_a_read_only_place_is_an_error_of_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # as the system does, whether the file is there or not
    assert "Read-only file system" in one_line(lambda: save_probe(path, content(), force=True))


def test_places_that_are_refused(path: Path, tmp_path: Path) -> None:
    assert "exists already" in one_line(lambda: save_probe(path, content()))
    assert "is a folder" in one_line(lambda: save_probe(tmp_path, content(), force=True))
    assert "is no folder" in one_line(lambda: check_target(tmp_path / "no" / "p.safetensors", False))
    save_probe(path, content(max_cues=9), force=True)
    assert load_probe(path).card.max_cues == 9
    (tmp_path / "link").symlink_to(path)
    save_probe(tmp_path / "link", content(max_cues=10), force=True)
    assert (tmp_path / "link").is_symlink() and load_probe(path).card.max_cues == 10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": "/home/me/tasks.jsonl"}, "a path"),
        ({"settings": {"model": "~/m.gguf"}}, "a path"),
        ({"depth": 0}, "depth is 0"),
        ({"layers": (0.5, 0.51)}, "each once"),
        ({"suffix": " "}, "suffix is empty"),
        ({"mode": "some"}, "mode is 'some'"),
        ({"cues": ()}, "no cue"),
        ({"report": {"auc": math.nan}}, "must be a number"),
        ({"layers": (1.5,)}, "fraction 1.5"),
        ({"max_cues": True}, "whole number"),
        ({"sampler": {"x": [1]}}, "must be a number"),
    ],
)
def test_cards_that_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ControllerError, match=says):
        card(**changes)


def test_layers_are_fractions_of_depth() -> None:
    assert [layer_of(f, 5) for f in (0.0, 0.125, 0.124, 0.5, 1.0)] == [0, 1, 0, 2, 4]
    with pytest.raises(ControllerError, match="6 features"):
        replace(content(), card=card(width=4))


# The rule


@dataclass
class Loaded:
    depth: int = DEPTH
    width: int = WIDTH
    template: str | None = "{{ x }}"
    settings: dict[str, str] = field(default_factory=lambda: {"quantisation": "Q8_0"})
    hash: str = "ab" * 32

    def fingerprint(self) -> str:
        return self.hash


USE = {"sampler": {"policy": "sampling", "temperature": 0.6}, "max_new_tokens": 64, "tasks": "tiny"}


def test_another_model_is_an_error_and_a_setting_a_warning(path: Path) -> None:
    rule = load_exit(path)
    assert rule.check(Loaded()) == []
    said = one_line(lambda: rule.check(Loaded(depth=28, width=8, hash="cd" * 32)))
    assert "4-layer model of width 3; this model has 28 layers of width 8" in said and "ctl calibrate" in said
    assert "another vocabulary" in one_line(lambda: rule.check(Loaded(hash="cd" * 32)))
    (warning,) = rule.check(Loaded(settings={"quantisation": "Q4_K"}))
    assert "'Q4_K', calibrated with 'Q8_0'" in warning and "ctl eval" in warning
    template, settings = rule.check(Loaded(settings={"flash_attn": "on"}, template=None))
    assert "template" in template and settings.count("calibrated with") == 2
    assert rule.layers(DEPTH) == (2, 3)
    assert "5 layers" in one_line(lambda: rule.layers(5))


def test_the_guarantee_lists_every_difference(path: Path) -> None:
    rule = load_exit(path)
    assert rule.guarantee(**USE)["why_not"] == ["the model in use was not compared with the card"]
    rule.check(Loaded())
    promised = {"mode": "harm", "risk": 0.05, "confidence": 0.9, "form": "replace"}
    assert rule.guarantee(**USE) == {"holds": True, **promised, "why_not": []}
    other = {"sampler": {"policy": "greedy"}, "max_new_tokens": 65, "tasks": "other", "grader": "mine:grade"}
    said = rule.guarantee(**other)
    assert not said["holds"] and len(said["why_not"]) == 5
    assert "max_new_tokens is 65, calibrated with 64" in said["why_not"]
    event = load_exit(path, mode="disagree", confidence=None)
    event.check(Loaded())
    assert event.guarantee(**{**USE, "grader": "mine:grade"})["holds"]
    lynx = load_exit(path, mode="event", risk=0.3)
    lynx.check(Loaded())
    assert "per cue" in lynx.guarantee(**USE)["why_not"][0]


def test_too_few_runs_never_exit(path: Path) -> None:
    assert load_exit(path).threshold.value < math.inf
    rule = load_exit(path, risk=0.01)
    assert rule.threshold.value == math.inf and "170 more runs" in rule.why
    at = boundary({2: np.full(WIDTH, 1e6, np.float32), 3: np.full(WIDTH, 1e6, np.float32)})
    assert not decision(rule, at).exit


def test_bad_requests_come_before_the_file_is_read(tmp_path: Path) -> None:
    for changes, says in (
        ({"risk": 0}, "risk is 0"),
        ({"confidence": 2}, "confidence is 2"),
        ({"mode": "x"}, "mode is 'x'"),
    ):
        assert says in one_line(lambda changes=changes: load_exit(tmp_path / "missing", **changes))


def boundary(hidden: dict, index: int = 0) -> Boundary:
    cue = Cue(("wait",), index, 9, 9, "")
    return Boundary(cue, hidden, range(11), (1,), 5, SimpleNamespace(), [], None, None)


def decision(rule, at: Boundary):
    with pytest.raises(StopIteration) as stopped:
        next(rule.decide(at))
    return stopped.value.value


def test_a_decision_is_the_probes_score_strictly_above_the_threshold() -> None:
    was = content()
    states = {2: np.array([0.1, 0.2, 0.3], np.float32), 3: np.array([0.4, 0.5, 0.6], np.float32)}
    score = was.probe.score(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], np.float32).astype(np.float64))

    def rule(value: float) -> ProbeExit:
        return ProbeExit(was, Promise(), SimpleNamespace(value=value))

    said = decision(rule(score), boundary(states, 3))
    assert (said.exit, said.score, said.index, said.position, said.cue) == (False, score, 3, 4, "wait")
    assert decision(rule(math.nextafter(score, 0)), boundary(states)).exit
    with pytest.raises(ControllerError, match="NaN"):
        decision(rule(0.5), boundary({2: states[2], 3: states[3] * np.nan}))
    with pytest.raises(ControllerError, match="reads 6 features"):
        decision(rule(0.5), boundary({2: states[2], 3: states[3][:2]}))


def test_fixed_rules() -> None:
    common = {"cues": Cues(["wait"]), "suffix": "."}
    assert [decision(FixedExit(index=1, **common), boundary({}, i)).exit for i in range(3)] == [False, True, True]
    assert decision(FixedExit(index=0, **common), boundary({}, 0)).exit
    assert not decision(NeverExit(**common), boundary({}, 5)).exit
    with pytest.raises(ControllerError, match="exit at cue 4"):
        FixedExit(index=4, max_cues=4, **common)


def one_line(call) -> str:
    with pytest.raises(ControllerError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_card_says_what_ends_an_answer_and_older_cards_say_the_model(tmp_path: Path) -> None:
    boxed = card(suffix="</think>\n\\boxed{", answer_ends="box")
    values = json.loads(json.dumps(asdict(boxed)))
    assert Card.from_dict(values) == boxed
    values.pop("answer_ends")
    assert Card.from_dict(values).answer_ends == "model"
    for changes, message in (
        ({"answer_ends": "box"}, "the suffix '</think>.* opens none"),
        ({"answer_ends": "end"}, "answer_ends is 'end'"),
        ({"answer_ends": 3}, "answer_ends is 3; it must be a text"),
    ):
        with pytest.raises(ControllerError, match=message):
            card(**changes)
    save_probe(tmp_path / "p.safetensors", replace(content(), card=boxed))
    rule = load_exit(tmp_path / "p.safetensors")
    assert rule.answer_ends == "box" and rule.closing.suffix.endswith("\\boxed{")


def test_a_rule_whose_exits_were_changed_promises_nothing() -> None:
    rule = make_exit(content(), Promise())
    use = {"sampler": rule.card.sampler, "max_new_tokens": 64, "tasks": "tiny"}
    before = rule.guarantee(**use)["why_not"]
    assert not any("answer_ends" in line for line in [*before, *rule.in_use("sampling", 64)])
    rule.answer_ends = "line"
    said = "answer_ends is 'line', calibrated with 'model'"
    assert said in rule.guarantee(**use)["why_not"] and said in rule.in_use("sampling", 64)


def test_a_rule_that_never_exits_reads_nothing() -> None:
    """No hidden state, no logits, no trial; one that can give up reads all the same."""

    def unread(*_: object) -> None:
        raise AssertionError("read")

    place = boundary({}, 2)
    place = replace(place, row=unread, answer=unread)
    for signal in ("hidden", "entropy", "trial"):
        file = content()
        file = replace(file, others={n: SignalTable(file.grid, file.table) for n in ("entropy", "trial")})
        never = ProbeExit(file, Promise(signal=signal), SimpleNamespace(value=math.inf))
        said = decision(never, place)
        assert not never.reads and not never.trials and not said.exit and math.isnan(said.score)
        assert "not scored" in str(said) and never.layers(4) == ((2, 3) if signal == "hidden" else ())
        assert ProbeExit(file, Promise(signal=signal), SimpleNamespace(value=0.9)).reads
    gives_up = ProbeExit(content(), Promise(), SimpleNamespace(value=math.inf), lower=SimpleNamespace(why=""))
    assert gives_up.reads


@pytest.mark.parametrize("name", ["always_answer", "later_spans"])
def test_the_card_says_how_its_runs_were_made_and_older_cards_say_plainly(name: str) -> None:
    plain, made = card(), card(**{name: True})
    older, newer = (json.loads(json.dumps(one.to_dict())) for one in (plain, made))
    assert name not in older and Card.from_dict(older) == plain
    assert newer[name] is True and Card.from_dict(newer) == made
    with pytest.raises(ControllerError, match=f"the card's {name} is 'yes'; it must be true or false"):
        card(**{name: "yes"})
    rule = make_exit(replace(content(), card=made), Promise())
    use = {"sampler": rule.card.sampler, "max_new_tokens": 64, "tasks": "tiny"}
    assert vars(rule)[name] is True and not any(name in line for line in rule.guarantee(**use)["why_not"])
    setattr(rule, name, False)
    assert f"{name} is False, calibrated with True" in rule.guarantee(**use)["why_not"]
