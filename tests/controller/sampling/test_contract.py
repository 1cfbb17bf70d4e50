"""The contract of a policy: what wraps one asks it everything, and what is no policy is refused by name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonctl.controller import (
    Call,
    Candidates,
    Chain,
    Constrained,
    Controller,
    ControllerError,
    Keys,
    Markers,
    MinP,
    ModelDrafter,
    PerPhase,
    Policy,
    PolicyWrapper,
    PromptLookup,
    Pure,
    Row,
    RunContext,
    Thinking,
    Trace,
    Weighed,
)
from reasonctl.controller.decoding.trial import LogprobRecorder
from support.engines import Plain
from support.toy_drafts import TARGET, TOKENS, small

MEMBERS = sorted(name for name in vars(Policy) if not name.startswith("_"))
FLAGS = [name for name in MEMBERS if isinstance(vars(Policy)[name], bool)]
METHODS = [name for name in MEMBERS if name not in FLAGS]

STATE = "the spied policy's state"
ANSWERS: dict[str, Any] = {
    "start": STATE,
    "step": (STATE, 2),
    "samples": True,
    "distribution": Candidates(np.zeros(5)),
    "for_drafts": Chain(MinP(0.3)),
    "prepare": STATE,
    "layers": (1,),
    "check": ["warned"],
    "extra_sequences": (7,),
    "explain": ["spied"],
}
"""What the spied policy says; None where a method gives nothing."""


def row(phase: str) -> Row:
    return Row(Plain(np.zeros(5)), -1, [0, 1], phase, Keys(seed=0))


def argument(name: str, phase: str) -> Any:
    """Something to pass for a parameter of a hook."""
    return {
        "row": row(phase),
        "phase": phase,
        "trace": Trace(),
        "depth": 3,
        "model": "a model",
        "context": RunContext(tokenizer=TOKENS),
        "tokenizer": TOKENS,
        "prompt": [0, 1],
    }[name]


def recording(name: str) -> Callable[..., Any]:
    """A method that records its call in `calls` and answers as ANSWERS says."""

    def asked(self: Any, *arguments: Any) -> Any:
        self.calls.append((name, arguments))
        return ANSWERS.get(name)

    def preparing(self: Any, *arguments: Any) -> Any:
        self.calls.append((name, arguments))
        return ANSWERS[name]
        yield

    return preparing if inspect.isgeneratorfunction(vars(Policy)[name]) else asked


def spied(base: type[Policy] = Policy, **flags: bool) -> Any:
    """A policy whose every method is recorded."""
    methods = {name: recording(name) for name in METHODS} | {"__str__": lambda self: "spied"}
    policy = type("Spied", (base,), {**methods, **flags})()
    policy.calls = []
    return policy


class Still(Policy):
    """Does nothing."""

    def start(self) -> None:
        return None

    def step(self, state: None, row: Row) -> tuple[None, int]:
        return None, 0


class Off(Pure):
    """A constraint that constrains nothing."""

    name, kind = "off", "constraint"

    def apply(self, scores: Candidates, row: Row) -> Candidates:
        return scores

    def __str__(self) -> str:
        return "off"


WRAPPERS: dict[str, Callable[[Any], Policy]] = {
    "PolicyWrapper": PolicyWrapper,
    "LogprobRecorder": LogprobRecorder,
    "Constrained": lambda inner: Constrained([Off()], inner),
    "think": lambda inner: PerPhase(inner, Still()),
    "answer": lambda inner: PerPhase(Still(), inner),
    "Weighed": Weighed,
}
OWN = {("Weighed", "step"): "follows the chain's stages itself, to add up their ln Z"}


def result_of(method: Callable[..., Any], arguments: list[Any]) -> Any:
    """What a hook returns; one that asks for forwards is followed to its end."""
    found = method(*arguments)
    if not inspect.isgenerator(found):
        return found
    with pytest.raises(StopIteration) as stop:
        next(found)
    return stop.value.value


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_wrapper_asks_the_inner_policy_everything_with_its_own_state(wrapper, name):
    if (wrapper, name) in OWN:
        return
    inner = spied(Chain if wrapper == "Weighed" else Policy)
    policy, phase = WRAPPERS[wrapper](inner), "answer" if wrapper == "answer" else "think"
    state = policy.start()
    parameters = list(inspect.signature(vars(Policy)[name]).parameters)[1:]
    inner.calls.clear()
    result = result_of(getattr(policy, name), [state if p == "state" else argument(p, phase) for p in parameters])
    asked = [arguments for called, arguments in inner.calls if called == name]
    assert len(asked) == 1
    if "state" in parameters:
        assert asked[0][parameters.index("state")] == STATE
    if isinstance(ANSWERS.get(name), list | tuple):
        assert all(any(str(part) in str(said) for said in result) for part in ANSWERS[name])
    elif name == "distribution" or name == "samples":
        assert result is ANSWERS[name]


CONSTANT = {
    ("think", "phased"): True,
    ("think", "reads_text"): True,
    ("answer", "phased"): True,
    ("answer", "reads_text"): True,
    ("answer", "suppresses_cues"): False,  # rules wait for cues while the model thinks
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("flag", FLAGS)
def test_a_wrapper_has_the_flags_of_what_it_wraps(wrapper, flag):
    for value in (True, False):
        if wrapper == "Weighed":
            if value and flag == "needs_forwards":  # a chain that asks for forwards can't be weighed
                continue
            inner = spied(Chain, **{flag: value})
        else:
            inner = spied(**{flag: value})
        assert getattr(WRAPPERS[wrapper](inner), flag) is CONSTANT.get((wrapper, flag), value)


@pytest.mark.parametrize("made", [lambda stage: Chain(stage), lambda stage: Constrained([stage], Still())])
def test_stages_are_asked_too(made):
    for flag in FLAGS:
        policy = made(type("Flagged", (Off,), {flag: True})())
        assert [getattr(policy, name) for name in FLAGS] == [name == flag for name in FLAGS]
    hooks = ("layers", "check", "extra_sequences")
    told = made(type("Told", (Off,), {name: lambda self, *_, name=name: ANSWERS[name] for name in hooks})())
    assert (told.layers(3), told.check(None), told.extra_sequences(TOKENS, [0])) == ((1,), ["warned"], (7,))

    class Refused(Off):
        def check_run(self, context: RunContext) -> None:
            raise ControllerError("not in this run")

    with pytest.raises(ControllerError, match="not in this run"):
        made(Refused()).check_run(RunContext())


class Second(Policy):
    """A policy of a user's own: the second most probable token, and nothing but what a policy must define."""

    def start(self) -> int:
        return 0

    def step(self, state: int, row: Row) -> tuple[int, int]:
        return state + 1, int(np.argsort(row.logits)[-2])


@pytest.mark.parametrize("made", [PromptLookup, lambda: ModelDrafter(small(), size=4, depth=2, adaptive=False)])
def test_a_policy_needs_start_and_step_only(made):
    def ran(drafter: Any, policy: Policy) -> Trace:
        trace, call = Trace(), Call([0, 1, 0, 1], 24, frozenset(), Keys(seed=1), policy)
        controller = Controller(drafter=drafter, thinking=Thinking(Markers("<", ">"), ">"))
        list(controller.stream(TARGET.session(), TOKENS, call, trace))
        return trace

    for policy in (Second(), Constrained([Off()], Second()), PerPhase(Second(), Second())):
        plain, drafted = ran(None, policy), ran(made(), policy)
        assert plain.tokens == drafted.tokens and len(plain.tokens) == 24 and drafted.drafted > 0
    with pytest.raises(ControllerError, match="Second doesn't say its distribution"):
        Second().distribution(0, row("think"))


def test_what_is_no_policy_is_refused_by_name():
    class Duck:
        def start(self):
            return None

        def step(self, state, row):
            return None, 0

    refused = r"policy is a Duck; make it a subclass of reasonctl\.controller\.Policy"
    with pytest.raises(ControllerError, match=refused):
        Controller(policy=Duck())
    with pytest.raises(ControllerError, match=refused):
        list(Controller().stream(TARGET.session(), TOKENS, Call([0], 2, frozenset(), Keys(seed=0), Duck())))
    with pytest.raises(ControllerError, match=r"policy is the text 'greedy'; give parse_policy\('greedy'\)"):
        Controller(policy="greedy")


ROOM = (
    next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file()) / "controller/sampling"
)


def imported(path: Path) -> set[str]:
    """The modules that a file of the room imports, each by the last parts of its name."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {part for node in nodes for part in (node.module or "").split(".")}


def test_a_chain_names_no_stage_and_a_stage_names_no_chain():
    """Texts and presets name both; everything else goes by what a stage declares."""
    both = {"parse", "presets"}
    files = {path.stem: imported(path) for path in ROOM.glob("*.py")}
    assert {name for name, modules in files.items() if "stages" in modules} == both
    for path in (ROOM / "stages").glob("*.py"):
        assert not imported(path) & {"chain", "composed", "policy", *both}, path.name
