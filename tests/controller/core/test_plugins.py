"""Another package adds parts without a change of ours; a broken one is an error of its own name only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reasonctl.calibration.tasks.graders import load_grader
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError, parse_draft, parse_policy
from reasonctl.controller.core.plugins import find_plugin, installed, plugin_names
from reasonctl.controller.sampling.parse import STAGES
from reasonctl.probes import Promise
from reasonctl.probes.signals import Observation, make_signal
from support.plugins import EXAMPLE, install, install_example

BROKEN = {
    "reasonctl.stages": {
        "missing": "no_such_module:Stage",
        "loud": "loud_plugin:Stage",
        "number": "quiet_plugin:SEVEN",
    },
    "reasonctl.drafters": {
        "number": "quiet_plugin:SEVEN",
        "raises": "quiet_plugin:raises",
        "seven": "quiet_plugin:seven",
    },
    "reasonctl.signals": {"number": "quiet_plugin:SEVEN", "ends": "quiet_plugin:Ends"},
    "reasonctl.graders": {"number": "quiet_plugin:SEVEN"},
    "reasonctl.tasks": {"seven": "quiet_plugin:seven", "number": "quiet_plugin:SEVEN"},
}
MODULES = {
    "loud_plugin.py": "raise SystemExit('this\\nends everything')\n",
    "quiet_plugin.py": "SEVEN = 7\ndef seven(*_): return 7\ndef raises(): raise KeyError('size')\n"
    "class Ends:\n    def __init__(self): raise SystemExit(3)\n",
}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example package is installed, next to one that is broken in every way."""
    install(install_example(tmp_path), "reasonctl-broken", BROKEN, MODULES)
    monkeypatch.syspath_prepend(tmp_path)
    known = dict(STAGES)
    yield tmp_path
    STAGES.clear()
    STAGES.update(known)
    for name in ("reasonctl_example", "quiet_plugin"):
        sys.modules.pop(name, None)


def test_nothing_is_imported_before_it_is_named(plugins: Path) -> None:
    assert "gap" in plugin_names("stages") and find_plugin("stages", "gap") is not None
    parse_policy("temperature(0.6)"), parse_draft("ngram(4)"), make_signal("trial", None), load_task("tiny")
    assert "reasonctl_example" not in sys.modules and "quiet_plugin" not in sys.modules


def test_a_stage_of_another_package_samples(plugins: Path) -> None:
    policy = parse_policy("temperature(0.8) | gap(1.5)")
    assert str(policy) == "temperature(0.8) | gap(1.5)" and parse_policy(str(policy)) == policy
    found = policy.probs(np.log([0.6, 0.3, 0.1]))
    kept = np.array([0.6, 0.3]) ** (1 / 0.8)  # 0.1 lies log(6) / 0.8 > 1.5 nats below the largest
    np.testing.assert_allclose(found, [*(kept / kept.sum()), 0], rtol=1e-12)
    with pytest.raises(ControllerError, match="gap takes no gapp; did you mean gap"):
        parse_policy("gap(gapp=1)")


def test_a_drafter_of_another_package_drafts(plugins: Path) -> None:
    drafter = parse_draft("same_again(5)")
    assert drafter is not None and parse_draft("same_again(size=5)") == drafter and parse_draft("same_again") != drafter
    for text in ("same_again(1, 2)", "same_again(length=3)"):
        with pytest.raises(ControllerError, match="draft same_again takes other arguments.*see reasonctl-example 1.0"):
            parse_draft(text)


def test_a_signal_of_another_package_scores(plugins: Path) -> None:
    seen = [Observation(i, 10 * i, p, entropy=1.0) for i, p in enumerate([0.1, 0.2, 0.4, 0.9])]
    assert make_signal("last_three", None).score(seen) == pytest.approx(0.5)
    assert Promise(signal="last_three").signal == "last_three"


def test_a_grader_and_a_task_of_another_package(plugins: Path) -> None:
    task = load_task("sums:50", grader="ends_with")
    problems = task.problems(20, stream=3)
    assert len({problem.question for problem in problems}) == 20 and task.name == "sums:50"
    assert task.grader.name == "ends_with" and task.grader.right(f"It is {problems[0].answer}.", problems[0])
    assert not task.grader.right("It is unknown.", problems[0])
    assert load_task("sums:50").problems(20, stream=3) == problems != load_task("sums:50").problems(20, stream=4)
    with pytest.raises(ControllerError, match="task sums needs the numbers' bound"):
        load_task("sums:x")


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: parse_policy("missing(1)"), r"'missing' \(stages\).*ModuleNotFoundError.*no_such_module"),
        (lambda: parse_policy("loud(1)"), r"'loud' \(stages\).*SystemExit: this ends everything"),
        (lambda: parse_policy("number(1)"), "must be a Stage"),
        (lambda: parse_draft("number(1)"), "takes other arguments"),
        (lambda: parse_draft("raises"), "makes no drafter.*KeyError: 'size'"),
        (lambda: parse_draft("seven"), "gives a Drafter"),
        (lambda: make_signal("number", None), "must be a Signal"),
        (lambda: make_signal("ends", None), "can't be made.*SystemExit: 3"),
        (lambda: load_grader("number"), "'number' is no function"),
        (lambda: load_task("seven"), "from a text to a Task"),
        (lambda: load_task("number:3"), "makes no task.*TypeError"),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_its_package(plugins: Path, use, words: str) -> None:
    with pytest.raises(ControllerError, match=words) as error:
        use()
    assert "\n" not in str(error.value)
    if "number(1)" not in words and "is no function" not in words and "other arguments" not in words:
        assert "reasonctl-broken 1.0" in str(error.value)
    assert parse_policy("gap(1)").probs(np.zeros(3)).tolist() == [1 / 3] * 3, "the others work on"


def test_unknown_names_are_said_with_the_plugins(plugins: Path) -> None:
    with pytest.raises(ControllerError, match="did you mean gap"):
        parse_policy("gapp(1)")
    with pytest.raises(ControllerError, match="did you mean same_again"):
        parse_draft("same_agai")
    with pytest.raises(ControllerError, match=r"module:function or a plugin's name \(ends_with, number\)"):
        load_grader("ends")
    with pytest.raises(ControllerError, match="reasoning-gym:NAME, number, seven, sums or a .jsonl file"):
        load_task("nothing")


def test_names_of_ours_are_ours(plugins: Path, tmp_path: Path) -> None:
    groups = {"reasonctl.stages": {"top_p": "no_such:x"}, "reasonctl.drafters": {"ngram": "no_such:x"}}
    install(tmp_path, "reasonctl-bold", {**groups, "reasonctl.signals": {"hidden": "no_such:x"}})
    assert str(parse_policy("top_p(0.9)")) == "top_p(0.9)" and parse_draft("ngram(4)") is not None
    assert type(make_signal("hidden", None)).__name__ == "Hidden"


def test_two_packages_with_one_name_are_named(plugins: Path, tmp_path: Path) -> None:
    install(tmp_path, "reasonctl-second", {"reasonctl.stages": {"gap": "quiet_plugin:SEVEN"}})
    with pytest.raises(ControllerError, match="both bring 'gap'"):
        parse_policy("gap(1)")


def test_a_damaged_list_of_entry_points_hides_its_own_package_only(plugins: Path, tmp_path: Path) -> None:
    install(tmp_path, "reasonctl-damaged", "[reasonctl.stages]\nno equals sign\n")
    install(tmp_path, "reasonctl-binary", "")
    (tmp_path / "reasonctl_binary-1.0.dist-info" / "entry_points.txt").write_bytes(b"[reasonctl.stages]\n\xff = x:y\n")
    assert "gap" in {plugin.name for plugin in installed("stages")}
    assert str(parse_policy("gap(1)")) == "gap(1)"


def test_the_first_copy_on_the_path_counts(
    plugins: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch
) -> None:
    monkeypatch.syspath_prepend(install_example(tmp_path_factory.mktemp("again")))
    assert str(parse_policy("gap(1)")) == "gap(1)", "one package, found twice, is one package"


@pytest.mark.slow
def test_pip_installs_the_example(tmp_path: Path) -> None:
    """What pip makes of the example's own pyproject.toml is found the same way."""
    copy = tmp_path / "source"
    copy.mkdir()
    for path in EXAMPLE.glob("*.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(copy)], check=True, timeout=300)
    code = f"""
import sys
sys.path.append({str(target)!r})
from reasonctl import parse_policy
print(parse_policy('gap(2)'))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "gap(2)\n"


def test_problems_of_the_example_are_right(plugins: Path) -> None:
    for problem in load_task("sums:30").problems(10, stream=0):
        left, right = problem.question.split("+")
        assert isinstance(problem, Problem) and int(left) + int(right) == int(problem.answer or "")
