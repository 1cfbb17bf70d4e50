"""Who may import whom, room by room, and what a file may hold: the rules are tables, and code finds the breaches.

Every import counts: at the top of a file, in a function, and for type checkers only.
"""

from __future__ import annotations

import ast

import pytest

from support.source import PACKAGES, Module, circles, modules, ours

MODULES = modules()

ONE_STOREY = (
    "extras",
    "hooks",
    "handle",
    "attachment",
    "model",
    "processors",
    "grammar",
    "gguf",
    "machine",
    "memory",
    "class_swap",
    "token_ids",
    "turns",
    "checkpoints",
    "masked",
)
"""What both libraries share: these files may import one another."""

STOREYS = {
    "controller": [
        ["core"],
        ["thinking"],
        ["sampling", "audits"],
        ["drafting", "diffusion"],
        ["decoding", "selection", "settings"],
        ["controller"],
    ],
    "backends": [
        [
            *ONE_STOREY,
            "tiny",
            "tiny_hybrid",
            "tiny_masked",
            "tiny_probe",
        ],
        ["hf", "llama", "toy"],
        ["vllm"],
        ["attach", "load"],
        ["listing", "server"],
    ],
    "probes": [["risk"], ["signals"], ["promise"], ["files"], ["fixed_exits"], ["exit", "autodeco"]],
    "calibration": [
        ["tasks", "parallel"],
        ["runs"],
        ["fitting"],
        ["evaluation", "learning"],
        ["advice", "diagnostics"],
        ["pages"],
        ["cli"],
    ],
}
"""The rooms of each package from the ground up. A room imports itself and lower storeys, never its neighbours."""

BELOW = {
    "controller": set(),
    "backends": {"controller"},
    "probes": {"controller"},
    "calibration": {"controller", "backends", "probes"},
}
"""The packages that each package may import."""

ROOMS_BELOW = {"backends.vllm": {"probes"}}
"""What single rooms may import besides. vLLM's workers are processes of its own, which get a probe file's name."""

APART = [
    ("controller.sampling.chain", "controller.sampling.stages"),
    ("controller.sampling.stages", "controller.sampling.chain"),
    ("controller.sampling.stages", "controller.sampling.composed"),
    ("controller.sampling.stages", "controller.sampling.parse"),
    ("controller.sampling.stages", "controller.sampling.presets"),
]
"""The first never imports the second: a chain names no stage, and a stage names no chain."""

ONLY_IN = {
    "click": ["calibration.cli"],
    "rich": ["calibration.cli"],
    "prompt_toolkit": ["calibration.cli"],
    "fastapi": ["backends.server"],
    "uvicorn": ["backends.server"],
    "openai": ["backends.server"],
    "pydantic": ["backends.server"],
    "matplotlib": ["calibration.pages"],
    "jinja2": ["calibration.pages", "controller.thinking.sandbox", "backends.llama.load", "backends.hf.load"],
    "markupsafe": ["calibration.pages"],
    "sklearn": ["calibration.fitting", "calibration.evaluation"],
    "torch": ["backends.hf", "backends.vllm", "calibration.fitting.heads", "calibration.fitting.heads_job"],
    "joblib": ["calibration.parallel"],
    "dask": ["calibration.parallel"],
    "distributed": ["calibration.parallel"],
    "llama_cpp": ["backends.llama"],
    "transformers": ["backends.hf", "backends.vllm"],
    "vllm": ["backends.vllm"],
    "gguf": ["backends.gguf"],
    "xgrammar": ["backends.grammar"],
    "fastchrf": ["controller.selection.text_utilities"],
    "sacrebleu": ["controller.selection.text_utilities"],
    "sentence_transformers": ["controller.selection.text_utilities"],
    "mapie": ["calibration.fitting.cross_check"],
    "pickle": ["calibration.tasks.grading.limited"],
}
"""The rooms that may import a library; one that isn't named here may be imported anywhere."""

FOREIGN: dict[str, str] = {}
"""getattr, hasattr and callable in controller/, and why each is right."""

BY_MODULE = (
    "backends.hf",
    "backends.llama",
    "backends.server",
    "backends.vllm",
    "backends.extras",
    "controller.sampling.distortion",
)
"""Read module by module across packages: libraries that may be missing, and a module that has its function's name."""

MOST_LINES = 400
MOST_FUNCTION_LINES = 40

KNOWN: dict[str, str] = {}
"""Breaches that are being mended, and how. One that isn't a breach any more fails the test: take it out."""


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def storey(name: str) -> int | None:
    """The height of a module's room in its package; None for the package's face."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return next((height for height, rooms in enumerate(STOREYS[package]) if room in rooms), None)


def may_import(name: str, other: str) -> bool:
    """Whether the module may import the other one, by the tables."""
    package, their = name.partition(".")[0], other.partition(".")[0]
    if package != their:
        return their in BELOW[package] or any(
            within(name, room) and their in more for room, more in ROOMS_BELOW.items()
        )
    mine, theirs = storey(name), storey(other)
    if mine is None:
        return True  # a face names everything
    if theirs is None:
        return False  # nobody reads the face of its own package
    if any(within(name, first) and within(other, second) for first, second in APART):
        return False
    rooms = [part.split(".")[1] for part in (name, other)]
    return theirs < mine or rooms[0] == rooms[1] or set(rooms) <= set(ONE_STOREY)


def library_breaches(module: Module) -> set[str]:
    found = set()
    for imported in module.imports:
        library = imported.name.partition(".")[0]
        rooms = ONLY_IN.get(library)
        if rooms is not None and not any(within(module.name, room) for room in rooms):
            found.add(f"{module.file} imports {library}")
        if library in ("examples", "tests", "support"):
            found.add(f"{module.file} imports {library}")
    return found


def room_breaches(module: Module) -> set[str]:
    found = set()
    for imported in module.imports:
        other = ours(imported, MODULES)
        if other is None:
            continue
        if not may_import(module.name, other):
            found.add(f"{module.file} imports {other}")
        same = other.partition(".")[0] == module.name.partition(".")[0]
        if imported.relative != same:
            found.add(f"{module.file} imports {other} {'by its absolute name' if same else 'by dots'}")
    return found


def size_breaches(module: Module) -> set[str]:
    found = {
        f"{module.file}: {name} has more than {MOST_FUNCTION_LINES} lines"
        for name, lines in module.functions()
        if lines > MOST_FUNCTION_LINES
    }
    if len(module.text.splitlines()) > MOST_LINES:
        found.add(f"{module.file} has more than {MOST_LINES} lines")
    if "fmt: skip" in module.text or "fmt: off" in module.text:
        found.add(f"{module.file} keeps the formatter out")
    return found


def reflections(module: Module) -> set[str]:
    """Calls that ask an object what it has."""
    return {
        f"{module.file}: {ast.unparse(node)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("getattr", "hasattr", "callable")
    }


def groups() -> set[str]:
    edges = {
        name: {other for imported in module.imports if (other := ours(imported, MODULES)) is not None}
        for name, module in MODULES.items()
    }
    return {" and ".join(group) + " import one another" for group in circles(edges)}


def breaches() -> set[str]:
    found = groups()
    for module in MODULES.values():
        found |= room_breaches(module) | library_breaches(module) | size_breaches(module)
        if within(module.name, "controller"):
            found |= reflections(module) - set(FOREIGN)
    return found


def test_packages_meet_at_the_rooms_faces() -> None:
    """Across packages a room is read by its `__init__.py`; what only one library's code has is read where it is."""
    deep = set()
    for name, module in MODULES.items():
        for imported in module.imports:
            other = ours(imported, MODULES)
            if other is None or other.partition(".")[0] == name.partition(".")[0]:
                continue
            is_face = MODULES[other].is_package
            if not is_face and not any(within(other, room) for room in BY_MODULE):
                deep.add(f"{module.file} imports {other}")
    assert not deep, "\n".join(sorted(deep))


def test_the_rules_hold() -> None:
    found = breaches()
    assert not found - set(KNOWN), "\n".join(sorted(found - set(KNOWN)))
    assert not set(KNOWN) - found, f"mended: take these out of KNOWN: {sorted(set(KNOWN) - found)}"


def test_no_exception_is_left_over() -> None:
    found = set().union(*(reflections(module) for module in MODULES.values()))
    assert set(FOREIGN) <= found


def test_every_room_has_a_storey() -> None:
    homeless = [name for name in MODULES if "." in name and storey(name) is None]
    assert not homeless and {name.partition(".")[0] for name in MODULES} == set(PACKAGES)


# The checks see what they forbid


def planted(name: str, text: str) -> Module:
    return Module(name, text)


@pytest.mark.parametrize(
    ("name", "text", "breach"),
    [
        ("controller.core.trace", "from ..sampling.chain import Chain", "imports controller.sampling.chain"),
        ("controller.core.trace", "def f():\n    from ..thinking import cues", "imports controller.thinking.cues"),
        ("controller.sampling.chain", "from .stages.grammar import Grammar", "imports controller.sampling.stages"),
        ("controller.sampling.stages.grammar", "from ..chain import Chain", "imports controller.sampling.chain"),
        ("controller.decoding.loop", "from reasonctl.controller import Chain", "imports controller"),
        ("controller.decoding.loop", "from reasonctl.controller.core import trace", "by its absolute name"),
        ("controller.decoding.loop", "from reasonctl.probes import Probe", "imports probes"),
        ("probes.risk.table", "from ...controller.core import trace", "by dots"),
        (
            "probes.risk.table",
            "if TYPE_CHECKING:\n    from ..signals.probe import Probe",
            "imports probes.signals.probe",
        ),
        ("backends.hf.load", "from ..llama.load import load_gguf", "imports backends.llama.load"),
        ("backends.hf.load", "from ..attach import attach", "imports backends.attach"),
        ("backends.hf.load", "from reasonctl.probes import load_exit", "imports probes"),
        ("backends.model", "from .hf.engine import HFEngine", "imports backends.hf.engine"),
        ("calibration.advice.truncation", "from ..cli.options import Options", "imports calibration.cli.options"),
        ("calibration.tasks.tiny", "from ..parallel.run_jobs import run_jobs", "imports calibration.parallel.run_jobs"),
    ],
)
def test_a_wrong_import_of_ours_is_seen(name: str, text: str, breach: str) -> None:
    assert any(breach in found for found in room_breaches(planted(name, text)))


def test_a_right_import_is_none() -> None:
    right = "from ..model import Model\nfrom .engine import LlamaEngine\nfrom reasonctl.controller import Controller\n"
    assert not room_breaches(planted("backends.llama.load", right))
    assert not library_breaches(planted("backends.llama.load", "import llama_cpp\nimport numpy\n"))


def test_a_wrong_library_is_seen() -> None:
    wrong = planted("calibration.runs.worker", "import torch.nn\ndef f():\n    from rich.table import Table\n")
    assert library_breaches(wrong) == {
        "calibration/runs/worker.py imports torch",
        "calibration/runs/worker.py imports rich",
    }


def test_circles_are_seen_through_others() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [] and circles({"a": {"a"}}) == [["a"]]


def test_sizes_and_reflections_are_seen() -> None:
    long = "def f():\n" + "    pass\n" * 40 + "x = 1  # fmt: skip\n" + "\n" * 400
    assert len(size_breaches(planted("probes.exit", long))) == 3
    assert reflections(planted("controller.a", "def f(x):\n    return getattr(x, 'y')\n")) == {
        "controller/a.py: getattr(x, 'y')"
    }
