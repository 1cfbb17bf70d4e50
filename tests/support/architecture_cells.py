"""What the controller does on one model, cell by cell, against the library's own loop.

Every cell runs the same greedy call with processors that force cues at fixed lengths. A controlled text is compared
with stock, and where the controller has put tokens in, its rest with a fresh stock call over the text before it.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.controller import NO_DRAFT, ROOT, Controller, ControllerError, Cues, Decode, Draft
from support.hf_models import TOKENIZER, Scripted, Twigs, unpadded

LENGTH = 22
"""New tokens of a run: with the prompt, several windows of the windowed models."""

TOLERANCE = 2e-3
"""Largest difference of logits or hidden states that counts as rounding, float32."""

NEAR_TIE = 20.0
"""Two candidates closer than so many times the library's own rounding are a near tie: either may be drawn."""

COARSE = 0.1
"""A library whose own two ways differ by so much can't decide between candidates that are closer: a near tie too."""

_PROMPT = TOKENIZER("so the cat 12 in a hat<think>")["input_ids"]
_PROMPTS = [_PROMPT, TOKENIZER("the answer<think>")["input_ids"], TOKENIZER("a")["input_ids"]]
_WAIT, _THE, _CLOSE = TOKENIZER.convert_tokens_to_ids([" Wait", " the", "</think>"])

APART = "Stock's padded rows aren't what they are in calls of their own"
"""What a batch cell notes: on such a model `batch` and `rows` are equal to different texts."""


@dataclass(frozen=True)
class Cell:
    """What one use of the controller gave on one model."""

    result: str
    """equal, near tie, refused, idle, absent, wrong or crash."""
    why: str = ""


class Forcing:
    """Forces a token where the text has a certain length, and keeps the others out of the text."""

    stateless = True

    def __init__(self, forced: dict[int, int]) -> None:
        self.forced = forced
        self.kept_out = [TOKENIZER.pad_token_id, TOKENIZER.eos_token_id]
        self.kept_out += TOKENIZER.convert_tokens_to_ids(["<think>", "</think>", " Wait", "Wait", " Hmm", "\n\n"])

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, self.kept_out] = -1e9
        scores[:, len(TOKENIZER) :] = -1e9
        token = self.forced.get(ids.shape[1])
        if token is not None:
            scores[:, token] = 1e9
        return scores


class Sink:
    """A streamer that keeps nothing; a call with one is never left to the library's loop."""

    def put(self, tokens: torch.Tensor) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Chain(Twigs):
    """A chain that repeats an earlier run, with a wrong token at every fifth place."""

    def propose(self, tokens: list[int], room: int) -> Iterator[Decode]:
        start = len(tokens)
        right = self.known[start : start + min(4, room)]
        return Draft.chain([(t + 1) % 30 if (start + i) % 5 == 4 else t for i, t in enumerate(right)])
        yield


class Differs(Exception):
    """Two texts that should be equal differ at a place that isn't a near tie."""


class NearTie(Exception):
    """Two texts part where the library's own rounding decides."""


class Bench:
    """One model, and the runs that its cells share."""

    def __init__(
        self, model: Any, prompt: list[int] = _PROMPT, media: Callable[[list[int]], dict[str, Any]] = lambda tokens: {}
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.media = media
        """What a call over some tokens is given besides them: pictures or sound."""
        self.both_ways = False
        """A prompt is masked both ways, so that a fresh call over a longer text reads it in another way."""
        self.start = len(prompt)
        self.cues = {self.start + at + i: token for at in (3, 9, 16) for i, token in enumerate((_WAIT, _THE))}
        self._stock: dict[tuple[int, ...], list[int]] = {}

    def call(self, controller: Controller | None, tokens: list[int], forced: dict[int, int], new: int) -> Any:
        """The tokens of one greedy call, and its trace; without a controller the library's own."""
        named = dict(unpadded(tokens), max_new_tokens=new, do_sample=False, no_repeat_ngram_size=2)
        named |= {"logits_processor": [Forcing(forced)], **self.media(tokens)}
        if controller is None:
            return self.model.generate(**named)[0].tolist(), None
        with attach(self.model, controller, tokenizer=TOKENIZER) as handle:
            return self.model.generate(**named, streamer=Sink())[0].tolist(), handle.trace

    def stock(self, forced: dict[int, int] | None = None) -> list[int]:
        """The library's own text."""
        forced = self.cues if forced is None else forced
        if tuple(forced) not in self._stock:
            self._stock[tuple(forced)], _ = self.call(None, self.prompt, forced, LENGTH)
        return self._stock[tuple(forced)]

    def fresh(self, tokens: list[int], cut: int, forced: dict[int, int]) -> list[int]:
        """A stock call over the first tokens of a text, as long as the text."""
        return self.call(None, tokens[:cut], forced, len(tokens) - cut)[0]

    def compare(self, ours: list[int], theirs: list[int]) -> None:
        """Raises Differs or NearTie where two texts differ."""
        if ours == theirs:
            return
        at = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        if at >= min(len(ours), len(theirs)):
            raise Differs(f"texts of {len(ours)} and {len(theirs)} tokens")
        gap, noise = self.gap(theirs[:at], ours[at], theirs[at])
        if gap <= NEAR_TIE * noise and noise < TOLERANCE or gap <= noise < COARSE:
            raise NearTie(f"logits {gap:.1e} apart, the library's own two ways {noise:.1e}")
        raise Differs(f"token {at} of {len(ours)}: logits {gap:.1e} apart, noise {noise:.1e}")

    @torch.no_grad()
    def whole(self, tokens: list[int]) -> Any:
        """One forward of the library over a whole text, at the positions that generate() gives it."""
        named: dict[str, Any] = {"input_ids": torch.tensor([tokens])}
        if "position_ids" in inspect.signature(type(self.model).forward).parameters:
            named["position_ids"] = torch.arange(len(tokens))[None]
        return self.model(**named, output_hidden_states=True)

    @torch.no_grad()
    def gap(self, tokens: list[int], one: int, other: int) -> tuple[float, float]:
        """How far two candidates are apart, and how far the library's own two ways of computing the row are."""
        if self.media(tokens):
            raise Differs("a text with pictures differs")
        whole = self.whole(tokens).logits[0, -1]
        engine = HFEngine(self.model)
        session = engine.session()
        for token in tokens:
            (step,) = engine.forward([Decode(session, [token])])
        steps = torch.from_numpy(step.logits(ROOT).copy())
        return float(abs(whole[one] - whole[other])), float((whole - steps).abs().max())


def inert(bench: Bench) -> str:
    ours, _ = bench.call(Controller(), bench.prompt, bench.cues, LENGTH)
    bench.compare(ours, bench.stock())
    return ""


def _batch(bench: Bench, controller: Controller | None, tokenizer: Any = TOKENIZER) -> tuple[list[list[int]], Any]:
    """By row, the prompt without its padding and what one greedy call over all prompts wrote; and the call's traces."""
    width = max(map(len, _PROMPTS))
    padded = [[TOKENIZER.pad_token_id] * (width - len(p)) + p for p in _PROMPTS]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in _PROMPTS]
    named = dict(input_ids=torch.tensor(padded), attention_mask=torch.tensor(mask))
    named |= dict(max_new_tokens=LENGTH, do_sample=False, no_repeat_ngram_size=2, logits_processor=[Forcing({})])
    if controller is None:
        out, traces = bench.model.generate(**named), []
    else:
        with attach(bench.model, controller, tokenizer=tokenizer) as handle:
            out, traces = bench.model.generate(**named), handle.traces
    return [row[width - len(p) :] for row, p in zip(out.tolist(), _PROMPTS, strict=True)], traces


def batch(bench: Bench) -> str:
    """Nothing to do, and nobody follows the thinking: stock's own batch, whether or not that is its rows alone."""
    stock, _ = _batch(bench, None)
    ours, traces = _batch(bench, Controller(), tokenizer=None)
    if ours != stock or [len(trace.tokens) for trace in traces] != [LENGTH] * len(_PROMPTS):
        raise Differs("a batch with nothing to do isn't stock's")
    try:
        for row, prompt in zip(stock, _PROMPTS, strict=True):
            bench.compare(row, bench.call(None, prompt, {}, LENGTH)[0])
    except NearTie:
        return ""
    except Differs:
        return APART
    return ""


def rows(bench: Bench) -> str:
    """A budget that is never up: our loop runs the batch, and each row is a call of its own."""
    ours, traces = _batch(bench, Controller(budget=500))
    for row, prompt in zip(ours, _PROMPTS, strict=True):
        bench.compare(row, bench.call(None, prompt, {}, LENGTH)[0])
    notes = [note for trace in traces for note in trace.warnings]
    return notes[0].removeprefix("rows run in turn: ") if notes else "shared"


def _forced(bench: Bench, controller: Controller, forced: dict[int, int]) -> Any:
    """A run with a forced text: equal to stock before it, and to a fresh call after it."""
    ours, trace = bench.call(controller, bench.prompt, forced, LENGTH)
    if trace.forced is None:
        raise Differs("nothing was forced")
    start, length = trace.forced
    cut = bench.start + start + length
    bench.compare(ours[: bench.start + start], bench.stock(forced)[: bench.start + start])
    bench.compare(ours, bench.fresh(ours, cut, forced))
    return trace


def replace(bench: Bench) -> str:
    _forced(bench, Controller(exit=Scripted(1)), bench.cues)
    return ""


def append(bench: Bench) -> str:
    _forced(bench, Controller(exit=Scripted(1, form="append")), bench.cues)
    return ""


class Every(Scripted):
    """Exits after every sixth token, the third time."""

    cues = Cues(["every(6)"])


def every(bench: Bench) -> str:
    _forced(bench, Controller(exit=Every(2)), {})
    return ""


def budget(bench: Bench) -> str:
    trace = _forced(bench, Controller(budget=14), {})
    if not 14 <= trace.forced[0] <= 16:  # a character that is split over tokens is finished first
        raise Differs(f"the budget of 14 closed at {trace.forced[0]}")
    return ""


def reopen(bench: Bench) -> str:
    closing = {bench.start + 8: _CLOSE}
    ours, trace = bench.call(Controller(continue_times=1), bench.prompt, closing, LENGTH)
    if len(trace.reopened) != 1:
        raise Differs(f"re-opened {len(trace.reopened)} times")
    cut = bench.start + trace.reopened[0] + len(TOKENIZER.encode("Wait"))
    bench.compare(ours, bench.fresh(ours, cut, closing))
    return ""


def _drafted(bench: Bench, drafter: Any) -> Cell | str:
    stock = bench.stock()
    ours, trace = bench.call(Controller(drafter=drafter(stock)), bench.prompt, bench.cues, LENGTH)
    bench.compare(ours, stock)
    if not trace.drafted:
        return Cell("idle", "; ".join(trace.warnings))
    return f"{trace.forwards} forwards"


def chain(bench: Bench) -> Cell | str:
    return _drafted(bench, Chain)


def tree(bench: Bench) -> Cell | str:
    found = _drafted(bench, Twigs)
    engine = HFEngine(bench.model)
    return f"first branches: {engine.no_trees}" if engine.can.branches == 1 and isinstance(found, str) else found


@torch.no_grad()
def hidden(bench: Bench) -> Cell | str:
    """Rows of hidden states, fed in three forwards, against the library's own states over the whole text."""
    engine = HFEngine(bench.model)
    depth = engine.can.layers
    if not depth:
        return Cell("refused", "it has no list of blocks")
    text = bench.stock()[:24]
    whole = bench.whole(text).hidden_states
    session = engine.session()
    for first, last in ((0, 20), (20, 21), (21, 24)):
        (step,) = engine.forward([Decode(session, text[first:last], NO_DRAFT, (0, depth - 1))])
        for layer in (0, depth - 1):
            row = torch.from_numpy(step.hidden(ROOT, layer).copy())
            if row.ndim != 1:
                raise Differs(f"a row has the shape {tuple(row.shape)}")
            if layer == 0:  # the last block's states lack the final norm, which the library's have
                nearest = min(_apart(row, states, last - 1) for states in whole)
                if nearest > TOLERANCE:
                    raise Differs(f"layer {layer}, row {last - 1}: {nearest:.1e} apart")
    return f"{depth} blocks"


def _apart(row: torch.Tensor, states: torch.Tensor, place: int) -> float:
    """The largest difference of a row from a place's states; of several streams, from the nearest or their mean."""
    streams = (
        states.reshape(-1, 1, *states.shape[-2:]) if states.shape[-2] == 24 else states[0].transpose(0, 1)[:, None]
    )
    rows = [stream[0, place] for stream in streams]
    rows += [torch.stack(rows).mean(0)]
    apart = [float((row - one).abs().max() / one.abs().max()) for one in rows if one.shape == row.shape]
    return min(apart, default=float("inf"))


CELLS: dict[str, Callable[[Bench], Cell | str]] = {
    "inert": inert,
    "batch": batch,
    "rows": rows,
    "replace": replace,
    "append": append,
    "every(k)": every,
    "budget": budget,
    "re-open": reopen,
    "chain": chain,
    "tree": tree,
    "hidden": hidden,
}
"""By the name of their column."""


def check(bench: Bench, name: str) -> Cell:
    """The result of one cell; whatever happens in it is a result."""
    if bench.both_ways and name not in ("inert", "chain", "tree"):
        return Cell("absent", "its prompt is masked both ways: a fresh call over the text would be another one")
    try:
        bench.stock()
    except Exception as error:  # noqa: BLE001  whatever happens is the cell's result
        return Cell("absent", f"stock fails: {type(error).__name__}: {str(error)[:100]}")
    try:
        found = CELLS[name](bench)
        return found if isinstance(found, Cell) else Cell("equal", found)
    except ControllerError as refusal:
        ours = "ask for a checkpoint" in str(refusal)  # what only our own loop could have done: no refusal of the call
        return Cell("crash" if ours else "refused", str(refusal))
    except NearTie as tie:
        return Cell("near tie", str(tie))
    except Differs as difference:
        return Cell("wrong", str(difference))
    except Exception as error:  # noqa: BLE001  whatever happens is the cell's result
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Cell("crash", f"{type(error).__name__}: {str(error)[:200]} ({place.filename[-40:]}:{place.lineno})")
