"""Small Llamas on the bundled model, scripted policies and exit rules: shared by the llama.cpp tests."""

from __future__ import annotations

from itertools import islice

import numpy as np
from llama_cpp import Llama

from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import (
    ROOT,
    Controller,
    Cues,
    Decision,
    Decode,
    Draft,
    ExitForm,
    ExitRule,
    Markers,
    Policy,
    Stateless,
)

TINY = tiny_folder() / "tiny.gguf"
PROMPT = "Q: 52 a+3 b-6 c+8\n<think>\n"
CHAT = [{"role": "user", "content": "52 a+3 b-6 c+8"}]
F32 = 0

CALLS = {
    "call": lambda llm, **more: llm(PROMPT, **more),
    "completion": lambda llm, **more: llm.create_completion(PROMPT, **more),
    "ids": lambda llm, **more: llm.create_completion(llm.tokenize(PROMPT.encode(), special=True), **more),
    "chat": lambda llm, **more: llm.create_chat_completion(CHAT, **more),
}


def open_llama(**arguments) -> Llama:
    """The bundled model on one thread."""
    given = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False, **arguments}
    return Llama(str(TINY), **given)


def bare(answer):
    """A response, or the list of its chunks, without what differs between two stock calls."""
    if not isinstance(answer, dict):
        return [bare(chunk) for chunk in answer]
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


def first(n: int, tokens, eos: int) -> list[int]:
    """The first n tokens; stock generates past EOS when asked directly, we end there."""
    found = list(islice(tokens, n))
    return found[: found.index(eos) + 1] if eos in found else found


def margin(llm: Llama, tokens) -> float:
    """Distance of the two largest logits after `tokens`."""
    engine = LlamaEngine(llm, hidden=False)
    (step,) = engine.forward((Decode(engine.session(), list(tokens)),))
    second, first = np.sort(step.logits(ROOT))[-2:]
    engine.close()
    return float(first - second)


class Prophet(Stateless):
    """Drafts what the plain run wrote, with a wrong end; as a tree with wrong siblings too."""

    def __init__(self, tree: bool) -> None:
        self.tree, self.tokens, self.drafts = tree, [], 0

    def propose(self, tokens, room):
        right = self.tokens[len(tokens) : len(tokens) + 3]
        if len(right) < 3 or room < 3:
            return Draft()
        self.drafts += 1
        wrong = [(token + 7) % 400 + 10 for token in right]
        if self.tree:
            return Draft((wrong[0], right[0], right[1], wrong[1], wrong[2]), (ROOT, ROOT, 1, 1, 2))
        return Draft.chain((right[0], right[1], wrong[2]))
        yield


class Scripted(Policy):
    """A policy that writes a given text while thinking and another one as the answer."""

    def __init__(self, tokenizer, think: str, answer: str) -> None:
        self.tokens = {"think": tokenizer.encode(think), "answer": tokenizer.encode(answer)}
        self.seen = []

    def start(self):
        return ("think", 0)

    def step(self, state, row):
        phase, i = state if state[0] == row.phase else (row.phase, 0)
        self.seen.append(list(row.tokens))
        return (phase, i + 1), self.tokens[phase][i]


class ExitAt(ExitRule):
    """Exits at cue number `at`; remembers what it saw."""

    cues, suffix, max_cues = Cues(["wait", "hmm", "alternatively", "paragraph"]), "\n</think>\n", 100
    markers = Markers("<think>", "</think>")

    def __init__(self, at: float, trials: bool = False, form: ExitForm = "replace") -> None:
        self.first, self.trials, self.boundaries, self.answers, self.form = at, trials, [], [], form

    def layers(self, depth):
        return (1, depth - 1)

    def decide(self, at):
        self.boundaries.append((list(at.tokens), at.cue, at.hidden))
        if self.trials:
            self.answers.append(list((yield from at.answer(4)).tokens))
        return Decision(at.cue.index >= self.first, at.cue.name, at.cue.index, at.cue.first - at.prompt, 1.0, 0.5)


def scripted(llm: Llama, rule: ExitAt) -> Controller:
    """A controller with a scripted policy and this rule."""
    think = "52 a+3 55\nWait, b-6 49\nWait, c+8 57\n\nok</think>\nanswer is 57<eos>"
    return Controller(exit=rule, policy=Scripted(LlamaTokenizer(llm), think, "answer is 49<eos>"))
