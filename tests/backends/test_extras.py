"""What runs without the libraries that only others need, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

import reasonctl.backends

FOREIGN = (
    "accelerate",
    "dask",
    "distributed",
    "gguf",
    "joblib",
    "mapie",
    "math_verify",
    "matplotlib",
    "reasoning_gym",
    "sklearn",
    "threadpoolctl",
    "xgrammar",
)
"""Installed for tests; a controlled call of either library needs none of them."""

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""

LLAMA = """
from llama_cpp import Llama
from reasonctl.backends import attach
from reasonctl.backends.load import BUNDLED_PROBE, tiny_folder
from reasonctl.controller import Controller
from reasonctl.probes import load_exit

llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
with attach(llm, Controller(exit=load_exit(BUNDLED_PROBE, risk=0.1, confidence=None))) as handle:
    llm("Q: 52 a+3 b-6 c+8\\n<think>\\n", max_tokens=200, seed=3)
print("decisions", len(handle.trace.decisions))
"""

TRANSFORMERS = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from reasonctl.backends import attach
from reasonctl.backends.load import BUNDLED_PROBE, tiny_folder
from reasonctl.controller import Controller
from reasonctl.probes import load_exit

tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
model = AutoModelForCausalLM.from_pretrained(tiny_folder())
with attach(model, Controller(exit=load_exit(BUNDLED_PROBE, risk=0.1, confidence=None)), tokenizer=tokenizer) as handle:
    model.generate(**tokenizer("Q: 52 a+3 b-6 c+8\\n<think>\\n", return_tensors="pt"), max_new_tokens=120)
print("decisions", len(handle.trace.decisions))
"""


def run(code: str, absent: tuple[str, ...], python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """A process of its own in which these libraries can't be found."""
    code = ABSENT.format(absent=set(absent)) + textwrap.dedent(code)
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)


def decisions(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("decisions ")[2])


def test_llama_cpp_runs_under_a_probe_without_torch_and_scikit_learn() -> None:
    assert decisions(run(LLAMA, (*FOREIGN, "torch", "transformers", "click", "rich"))) > 0


def test_transformers_run_under_a_probe_without_llama_cpp() -> None:
    absent = tuple(name for name in FOREIGN if name not in ("accelerate", "sklearn"))  # transformers' own to import
    assert decisions(run(TRANSFORMERS, (*absent, "llama_cpp"))) > 0


def test_a_library_that_is_hidden_is_really_missing() -> None:
    """The negative control of this file."""
    assert "No module named 'llama_cpp'" in run(LLAMA, ("llama_cpp",)).stderr


@pytest.mark.parametrize(
    ("absent", "codes", "extra"),
    [
        ("llama_cpp", ["load_model('tiny')", "import_module('reasonctl.backends.llama.engine')"], "llama"),
        ("gguf", ["load_model('tiny')"], "llama"),
        (
            "torch",
            ["load_model('tiny', backend='transformers')", "import_module('reasonctl.backends.hf.engine')"],
            "hf",
        ),
        ("transformers", ["load_model('tiny', backend='transformers')"], "hf"),
    ],
)
def test_a_missing_extra_is_one_line(absent: str, codes: list[str], extra: str) -> None:
    done = run(
        f"""
        from importlib import import_module
        from reasonctl.backends.load import load_model
        from reasonctl.controller import ControllerError
        for code in {codes}:
            try:
                eval(code)
            except ControllerError as error:
                print(error)
        """,
        (absent,),
    )
    said = f"{absent} not installed; install with: pip install 'reasonctl[{extra}]'"
    assert done.stdout.splitlines() == [said] * len(codes), done.stderr


def test_the_command_line_says_so_too() -> None:
    code = "from reasonctl.calibration.cli.main import main\nmain(['run', 'tiny', '52 a+3'])"
    done = run(code, ("llama_cpp",))
    assert done.returncode != 0 and "pip install 'reasonctl[llama]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_shared_modules_load_no_library() -> None:
    shared = ("attach", "attachment", "gguf", "grammar", "handle", "load", "model", "processors")
    done = run(
        f"""
        from importlib import import_module
        for module in {shared}:
            import_module(f"reasonctl.backends.{{module}}")
            print(module, *{{"torch", "llama_cpp", "gguf"}} & set(sys.modules))
        """,
        (),
    )
    assert done.stdout.splitlines() == list(shared), done.stdout + done.stderr


@pytest.mark.slow
def test_a_real_environment_without_torch_runs_llama_cpp(tmp_path: Path) -> None:
    """Only what an attached llama.cpp call needs is installed, from the package index."""
    venv.create(tmp_path, with_pip=True)
    python = str(tmp_path / "bin" / "python")
    needed = ("llama-cpp-python", "numpy", "scipy", "safetensors", "jinja2", "typing_extensions", "diskcache")
    subprocess.run([python, "-m", "pip", "install", "-q", "--prefer-binary", *needed], check=True)
    (packages,) = (tmp_path / "lib").glob("python*/site-packages")
    (packages / "reasonctl").mkdir()
    for name in ("controller", "backends", "probes"):
        source = Path(reasonctl.backends.__file__).resolve().parents[1] / name
        (packages / "reasonctl" / name).symlink_to(source, target_is_directory=True)
    installed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in installed for name in ("torch", "transformers", "scikit-learn", "matplotlib"))
    assert decisions(run(LLAMA, (), python)) > 0
