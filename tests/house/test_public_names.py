"""`from reasonctl import ...`: each name is the package's own object, and is read when it is first used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import reasonctl
from reasonctl.controller import Trace
from reasonctl.controller.core.trace import ThinkingSpan
from support.source import ROOT


@pytest.mark.parametrize("name", reasonctl.__all__)
def test_a_name_is_the_packages_own(name: str) -> None:
    made = getattr(reasonctl, name)
    if name == "__version__":
        assert made.split(".")[0].isdigit()
        return
    homes = [home for home, names in reasonctl._HOMES.items() if name in names]
    assert len(homes) == 1 and getattr(sys.modules[homes[0]], name) is made


def test_names_are_complete() -> None:
    listed = {name for names in reasonctl._HOMES.values() for name in names} | {"__version__"}
    assert listed == set(reasonctl.__all__) and set(reasonctl.__all__) <= set(dir(reasonctl))


def test_unknown_names_are_errors_of_python() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'attached'"):
        _ = reasonctl.attached  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'attached'"):
        exec("from reasonctl import attached")


def run(code: str, **where: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **where)


def test_importing_reads_nothing_heavy() -> None:
    code = "import reasonctl, sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    read = set(json.loads(run(code).stdout))
    assert read.isdisjoint({"numpy", "torch", "transformers", "llama_cpp", "scipy", "click"})


def test_attach_reads_no_library_of_models() -> None:
    code = "from reasonctl import Controller, attach, load_exit; import sys; print('torch' in sys.modules)"
    assert run(code).stdout == "False\n"


def test_a_folder_of_the_name_hides_no_installed_copy(tmp_path: Path) -> None:
    """Python puts the working directory first, and a checkout has a folder `reasonctl` without the packages."""
    installed = tmp_path / "site" / "reasonctl"
    (installed / "controller").mkdir(parents=True)
    (installed / "controller" / "__init__.py").write_text("WHERE = 'installed'\n", encoding="utf-8")
    face = (ROOT / "reasonctl" / "__init__.py").read_text(encoding="utf-8")
    checkout = tmp_path / "checkout" / "reasonctl"
    checkout.mkdir(parents=True)
    for folder in (installed, checkout):
        (folder / "__init__.py").write_text(face, encoding="utf-8")
    code = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path[1:1] = [{str(tmp_path / "site")!r}]
import reasonctl
from reasonctl.controller import WHERE
print(reasonctl.__file__, WHERE)
"""
    assert run(code, cwd=checkout.parent, env={}).stdout == f"{checkout / '__init__.py'} installed\n"


def test_a_notebook_shows_a_trace() -> None:
    trace = Trace(tokens=[1, 2, 3], spans=[ThinkingSpan(0, 2, "model")], finish_reason="stop", forwards=3, cost=3)
    trace.warnings.append("<script>alert(1)</script>" + "x" * 1000)
    shown = trace._repr_html_()
    assert "2 tokens; closed by: model" in shown and "<script" not in shown and len(shown) < 2000
    assert shown.startswith("<table><caption>no exit rule was set</caption>")
