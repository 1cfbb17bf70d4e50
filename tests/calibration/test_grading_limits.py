"""No answer takes long to grade: limits of time and memory in every thread and process, linear reading."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from reasonctl.calibration.tasks.graders import is_right
from reasonctl.calibration.tasks.grading.limited import LimitedProcess
from reasonctl.calibration.tasks.grading.mathematics import is_bounded
from reasonctl.calibration.tasks.grading.plain_answers import agree
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller.thinking.answers import stated_answer, statement

HOSTILE = {
    "tower": "9^{9^{9}}",
    "bare tower": "9^9^9^9",
    "double exponent": "9^{999}^{999}",
    "factorial": "1000000!",
    "factorials": "((9!)!)!",
    "power of a sum": "(x+1)^{5000}",
    "long expansion": "(x+y+z+1)^{30}",
    "braces": "{" * 2000,
    "brackets": "(" * 1000 + "1" + ")" * 1000,
    "fractions": r"\frac{1}{" * 300 + "2" + "}" * 300,
    "digits": "7" * 20_000,
    "exponent of digits": "1e999999999",
    "product in the exponent": r"9^{99\cdot 99\cdot 99\cdot 99\cdot 99}",
    "quotient in the exponent": r"9^{\frac{999999999}{2-1}}",
    "sum": r"\sum_{i=1}^{99999999} \sin(i!)",
    "roots": r"\sqrt{" * 100 + "2" + "}" * 100,
}


# The quotient alone runs into the limit of processor time, once a grade; `_graded_in_a_thread` does so by default.
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=[pytest.mark.slow] if name == "quotient in the exponent" else [])
        for name, text in HOSTILE.items()
    ],
)
def test_no_answer_takes_long(text: str) -> None:
    started = time.monotonic()
    assert not is_right(f"The answer is {text}", "5") and not is_right(rf"\boxed{{{text}}}", r"\frac{x}{2}")
    assert not is_right("5", text) and time.monotonic() - started < 60


def test_what_explodes_is_not_computed() -> None:
    guarded = [text for name, text in HOSTILE.items() if name != "quotient in the exponent"]
    assert not any(map(is_bounded, guarded)) and is_bounded(r"\frac{(x+1)^3}{2!}")


def _graded_in_a_thread() -> list[bool]:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend(map(_graded, ("x/2", r"9^{\frac{999999999}{2-1}}", "2/x"))))
    thread.start()
    thread.join(60)
    return found


def _graded(text: str) -> bool:
    return is_right(rf"\boxed{{{text}}}", r"\frac{x}{2}")


def test_limits_hold_in_a_thread() -> None:
    assert _graded_in_a_thread() == [True, False, False]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[pytest.mark.slow] if method == "spawn" else [])
        for method in multiprocessing.get_all_start_methods()
    ],
)
def test_limits_hold_in_a_child_process_and_its_threads(method: str) -> None:
    """A fork inherits a grading process that is not its own."""
    assert _graded("x/2")
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(_graded_in_a_thread).result(120) == [True, False, False]
    assert _graded("x/2")


def test_threads_take_turns() -> None:
    found: dict[int, bool] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: _graded(f"{i}x/{2 * i}")})) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(1, 9), True)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_runaway_ends_and_the_next_call_works() -> None:
    process = LimitedProcess()
    started = time.monotonic()
    assert process.call("builtins:pow", 9, 9**10, seconds=1) is None
    assert time.monotonic() - started < 20
    assert process.call("operator:add", 2, 3, seconds=1) == 5
    assert process.call("builtins:int", "no number", seconds=1) is None
    with pytest.raises(RuntimeError, match="no_such_module"):
        process.call("no_such_module:f", seconds=1)
    process.close()


def test_a_file_named_like_a_standard_module_is_not_imported(tmp_path, monkeypatch):
    """A script's folder comes first on its path; the limited process imports from there what is nowhere else."""
    for name in ("types", "random", "site"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the standard one')")
    (tmp_path / "own_module.py").write_text("import random\n\ndef double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = LimitedProcess()
    assert process.call("own_module:double", 4, seconds=5) == 8
    process.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_the_process_ends_with_its_caller() -> None:
    code = (
        "from reasonctl.calibration.tasks.grading.limited import LIMITED\n"
        "print(LIMITED.call('os:getpid', seconds=5), flush=True)\n"
        "input()\n"
    )
    for end in (subprocess.Popen.kill, lambda caller: caller.communicate(b"\n")):
        caller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert caller.stdout
        pid = int(caller.stdout.readline())
        assert _running(pid)
        end(caller)
        caller.wait()
        deadline = time.monotonic() + 10
        while _running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _running(pid)
        for pipe in (caller.stdin, caller.stdout):
            if pipe:
                pipe.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupted_call_leaves_no_stale_reply() -> None:
    process = LimitedProcess()
    assert process.call("operator:add", 1, 1, seconds=5) == 2
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        process.call("time:sleep", 3, seconds=5)
    assert process.call("operator:add", 2, 3, seconds=5) == 5
    process.close()


PATTERNS = [
    *(
        "answer:\n",
        "answer to ",
        "answer is ",
        "\\boxed{",
        "\\boxed{3} and ",
        "####",
        "#### ",
        "because ",
        "not ",
        "no ",
    ),
    *(
        "= ",
        "a=b,",
        ". ",
        "B. ",
        "5 or ",
        "5, ",
        "1,000",
        "1.000",
        "5 ",
        "5-",
        "3/",
        "5^",
        "1:30 ",
        "March 5 ",
        "5 cm ",
    ),
    *(
        "five ",
        "and ",
        "is ",
        "to be ",
        "x",
        "- ",
        "$",
        "$5$",
        "**",
        "\n",
        " ",
        "%",
        "'",
        "{",
        "(",
        "²",
        "½",
        "<answer>",
    ),
    *("\\frac{1}{2}", "\\text{", "\\text{a}", "a\n\n", "!", "?! ", "1 1/2 ", "one half ", "9!", "\\{", "e-5", "A, "),
]

GOLDS = (
    "5",
    "Paris",
    "B",
    "yes",
    "1, 2",
    "(1, 2)",
    "\\{1, 2\\}",
    "March 5, 2024",
    "12:30",
    "5-10",
    "3:4",
    "2 h",
    "x+1",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_reading_is_linear_in_the_text(pattern: str) -> None:
    """Four times the text takes four times the time at most; the bound leaves room for a cold cache."""

    def seconds(size: int) -> float:
        text = (pattern * size)[:size]
        started = time.process_time()
        stated_answer(text)
        statement(text + " answer")
        return time.process_time() - started

    short, long = (min(seconds(size) for _ in range(3)) for size in (6_000, 24_000))
    assert long < 10 * short + 0.05
    assert seconds(500_000) < 1


@pytest.mark.parametrize(
    ("pattern", "golds"),
    [(pattern, GOLDS[i % 3 :: 3]) for i, pattern in enumerate(PATTERNS)]
    + [pytest.param(pattern, GOLDS, marks=pytest.mark.slow) for pattern in PATTERNS],
)
def test_grading_is_linear_in_the_answer(pattern: str, golds: tuple[str, ...]) -> None:
    def seconds(size: int) -> float:
        text = (pattern * size)[:size]
        started = time.process_time()
        for gold in golds:
            agree(gold, text)
        return time.process_time() - started

    short, long = (min(seconds(size) for _ in range(3)) for size in (450, 1_800))
    assert long < 12 * short + 0.05
    assert seconds(50_000) < 1


def test_a_thousand_plain_answers_take_a_moment() -> None:
    started = time.perf_counter()
    for i in range(1000):
        assert is_right(f"So the answer is {i:,} people.", str(i)) and not is_right(f"It is {i + 1}.", str(i))
    assert time.perf_counter() - started < 5


def test_a_scorer_that_evaluates_answers_is_limited() -> None:
    """reasoning-gym parses and evaluates what a model says."""
    task = load_task("reasoning-gym:countdown")
    problem = task.problems(1, stream=0)[0]
    started = time.monotonic()
    assert not task.grader.right("The answer is 9**9**9**9", problem) and time.monotonic() - started < 40
    assert task.grader.right(f"The answer is {problem.answer}.", problem)
    sums = load_task("reasoning-gym:chain_sum")
    problem = sums.problems(1, stream=0)[0]
    assert sums.grader.right(f"The answer is {problem.answer} apples.", problem)
    assert not sums.grader.right(f"The answer is {problem.answer}0 apples.", problem)
