"""The notebook for newcomers runs from its first cell to its last, and shows what its text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.example_scripts import EXAMPLES

nbformat: Any = pytest.importorskip("nbformat")
NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def printed(cell: Any) -> str:
    return "".join(output.get("text") or output.get("data", {}).get("text/html", "") for output in cell.outputs)


def test_it_is_kept_without_outputs() -> None:
    """Outputs would grow old, and the repository with them."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.outputs or cell.execution_count for cell in cells if cell.cell_type == "code")
    assert cells[0].cell_type == "markdown" and len(NOTEBOOK.read_bytes()) < 20_000


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    first, second, risks, many, page = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "The answer is 57." in first and "The answer is 57." in second
    assert "exit above" in second and "<table>" in second and "warning" not in second.lower()
    assert len(risks.splitlines()) == 4 and "more runs are needed" in risks.splitlines()[-1]
    tokens = {name: int(n) for name, n in re.findall(r"(\w+): (\d+) tokens a run", many)}
    assert tokens["controlled"] < 0.6 * tokens["plain"]
    assert re.search(r"open (\S+run\.html) in a browser", page)
