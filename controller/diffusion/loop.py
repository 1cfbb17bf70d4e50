"""The loop over a canvas: ask for logits at masks, write some of them, go on until nothing is masked.

It asks for forwards as the decoding loop does, and shares its policies, keyed randomness and record. It is a loop of
its own since it writes in any order.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.decode import ROOT, Floats
from ..core.errors import ControllerError
from ..core.probability import softmax
from ..core.randomness import ORDER, PER_POSITION, SAMPLE, Keys
from ..core.tokenizer import Tokenizer
from ..core.trace import Trace
from ..sampling.draw import OneRow, Row, RunContext
from ..sampling.policy import Policy
from ..thinking.markers import Phase
from .canvas import Canvas, Denoise, PrefixCache
from .commit import Unsure
from .orders import choose, schedule, scores_of
from .settings import Unmasking

_PHASE: Phase = "answer"


@dataclass
class UnmaskingTrace(Trace):
    """The record of a masked model's run. Places are indices of the canvas, from 0."""

    order: list[list[int]] = field(default_factory=list)
    """For each forward the places that were written after it, the first chosen first."""
    remasked: list[int] = field(default_factory=list)
    """Places that were masked again."""
    signals: list[float] = field(default_factory=list)
    """With a `Commit`: its signal at each forward."""
    answers: list[list[int]] = field(default_factory=list)
    """With a `Commit`: the tokens that it would have written at each forward."""
    committed: int | None = None
    """The forward, from 0, after which the whole answer was written; None: there was no commit."""
    threshold: float | None = None
    """Of the commit; None: there was none to be had."""

    @property
    def first_writes(self) -> list[int]:
        """Every place once, in the order in which it was first written: what AR-ness is computed from."""
        return list(dict.fromkeys(place for step in self.order for place in step))

    @property
    def why(self) -> str:
        """One line: why writing ended where it did."""
        if self.committed is not None:
            score = f"{self.signals[self.committed]:.3f} > {self.threshold:.3f}"
            return f"the whole answer was committed at forward {self.committed + 1}: signal {score}"
        if self.threshold is None:
            return f"written in {self.forwards} forwards; no early commit was set"
        best = max(self.signals, default=-math.inf)
        return f"written in {self.forwards} forwards; no commit: highest signal {best:.3f} <= {self.threshold:.3f}"


class TurnKeys(Keys):
    """A run's keys, with fresh uniforms each time that a position is drawn anew; the first time they are the run's."""

    def __init__(self, keys: Keys) -> None:
        self.seed, self.run = keys.seed, keys.run
        self.turn = 0
        """How often the position was drawn before."""
        self._keys = keys

    def uniform(self, position: int, purpose: int = SAMPLE, index: int = 0) -> float:
        return self._keys.uniform(position, purpose, index + PER_POSITION * self.turn)


def unmask(
    prompt: Sequence[int],
    settings: Unmasking,
    policy: Policy,
    keys: Keys,
    trace: UnmaskingTrace,
    *,
    mask: int,
    eos: frozenset[int] = frozenset(),
    tokenizer: Tokenizer | None = None,
) -> Generator[Denoise, Floats, list[int]]:
    """One run: yields requests for forwards, is sent their logits, and returns the answer up to its end token.

    A policy that reads what was written before a token (a grammar, a penalty with a state) writes from left to right,
    several tokens a forward where the settings say so: only there is it defined.

    Args:
        prompt: the prompt's tokens.
        settings: length, steps, blocks, order, remasking, cache, commit.
        policy: draws the token of a position from its row; the mask token is never drawn.
        keys: the run's randomness.
        trace: the record, filled as the run goes on.
        mask: id of the mask token.
        eos: tokens that end the text. Once one is written and nothing before it is masked, the run is over.
        tokenizer: the model's, for policies that read text.

    Raises ControllerError where the policy can't draw at any position.
    """
    context = RunContext(len(prompt), eos, tokenizer)
    check_policy(policy, context)
    trace.prompt_tokens, trace.seed, trace.run = len(prompt), keys.seed, keys.run
    trace.threshold = None if settings.commit is None else settings.commit.threshold
    run = _Run(Canvas(prompt, settings.length, mask), settings, policy, TurnKeys(keys), context, trace)
    yield from run.blocks()
    trace.tokens = run.canvas.answer(eos)
    trace.cost = len(trace.tokens)
    trace.finish_reason = "stop" if trace.tokens and trace.tokens[-1] in eos else "length"
    policy.finish(run.state, trace)
    return trace.tokens


def check_policy(policy: Policy, context: RunContext) -> None:
    """Raises ControllerError for a policy that only a run from left to right can have."""
    for needed, why in (
        (policy.needs_forwards, "asks for forwards of its own"),
        (policy.phased, "needs to know where thinking ends"),
        (bool(policy.layers(1)), "reads hidden states"),
    ):
        if needed:
            raise ControllerError(f"policy {policy} {why}, and a masked model's positions are written in any order")
    policy.check_run(context)


class _Run:
    """The state of one run."""

    def __init__(
        self,
        canvas: Canvas,
        settings: Unmasking,
        policy: Policy,
        keys: TurnKeys,
        context: RunContext,
        trace: UnmaskingTrace,
    ) -> None:
        self.canvas, self.settings, self.policy = canvas, settings, policy
        self.keys, self.context, self.trace = keys, context, trace
        self.state = policy.start()
        self.sequential = self.state is not None or policy.reads_text
        self.cache = PrefixCache()
        self.turns: dict[int, int] = {}
        self.confidence: dict[int, float] = {}
        if self.sequential and settings.remask:
            raise ControllerError(f"remask is {settings.remask}, and policy {policy} can't take back what it has read")

    def blocks(self) -> Generator[Denoise, Floats, None]:
        """Write block after block, until all is written or the text has ended."""
        for first, end, counts in self.settings.plan():
            span = (self.canvas.start + first, self.canvas.start + end)
            yield from self._write(span, counts)
            again = self._remask(span)
            if again and not self._over():
                steps = max(1, round(len(counts) * again / (end - first)))
                yield from self._write(span, schedule(again, steps))
            if self._over():
                return

    def _write(self, span: tuple[int, int], counts: Sequence[int]) -> Generator[Denoise, Floats, None]:
        for step, count in enumerate(counts):
            masks = self.canvas.masked(*span)
            if not masks or self._over():
                return
            commit = self.settings.commit
            wanted = masks if commit is None else self.canvas.masked(span[0], len(self.canvas.tokens))
            logits = yield self._request(wanted, span[0], renew=step == 0)
            self.trace.forwards += 1
            rows = np.array(logits, dtype=np.float64)
            rows[:, self.canvas.mask] = -np.inf
            if commit is not None and self._commits(wanted, rows):
                return
            last = step == len(counts) - 1
            self._take(masks, rows[: len(masks)], len(masks) if last else count, everything=last)

    def _request(self, wanted: Sequence[int], first: int, renew: bool) -> Denoise:
        keep = 0
        if self.settings.cache and renew:  # a block begins: what stands before it is finished
            self.cache.drop()
            keep = first
        return Denoise(tuple(self.canvas.tokens), tuple(wanted), self.cache, keep)

    def _take(self, masks: Sequence[int], rows: Floats, count: int, *, everything: bool) -> None:
        """Write some of the masks, `count` of them unless the order decides, or all."""
        if self.sequential:
            chosen = self._in_turn(masks, rows, count, everything)
        else:
            probs = np.stack([self._probs(at, row) for at, row in zip(masks, rows, strict=True)])
            chosen = self._any_order(masks, rows, probs, count, everything)
        self.trace.order.append([at - self.canvas.start for at in chosen])

    def _any_order(self, masks: Sequence[int], rows: Floats, probs: Floats, count: int, everything: bool) -> list[int]:
        order, drawn = self.settings.order, list[int]()
        if order.reads_drawn:
            drawn = [self._draw(at, row) for at, row in zip(masks, rows, strict=True)]
        scores: Floats = np.zeros(len(masks))
        if order.name not in ("random", "left"):
            scores = scores_of(order, probs, drawn)
        step = len(self.trace.order)
        picked = choose(order, scores, count, lambda row: self.keys.uniform(masks[row], ORDER, step))
        if everything:
            picked += [row for row in range(len(masks)) if row not in picked]
        for row in picked:
            token = drawn[row] if drawn else self._draw(masks[row], rows[row])
            self.canvas.tokens[masks[row]] = token
            self.confidence[masks[row]] = float(probs[row, token])
        return [masks[row] for row in picked]

    def _in_turn(self, masks: Sequence[int], rows: Floats, count: int, everything: bool) -> list[int]:
        """From left to right, each token seen by the next one's state. An entropy bound writes its leading run."""
        if self.settings.order.name == "entropy_bound" and not everything:
            probs = np.stack([softmax(row) for row in rows])
            accepted = set(choose(self.settings.order, scores_of(self.settings.order, probs, None), 0, float))
            count = max(1, next((row for row in range(len(masks)) if row not in accepted), len(masks)))
        for at, row in zip(masks[:count], rows[:count], strict=True):
            self.state, token = self.policy.step(self.state, self._row(at, row))
            self.canvas.tokens[at] = token
            if token in self.context.eos:
                return list(masks[: masks.index(at) + 1])
        return list(masks[:count])

    def _draw(self, at: int, row: Floats) -> int:
        self.keys.turn = self.turns.get(at, 0)
        self.turns[at] = self.keys.turn + 1
        _, token = self.policy.step(self.state, self._row(at, row))
        self.keys.turn = 0
        return token

    def _probs(self, at: int, row: Floats) -> Floats:
        """What a position's token is drawn from; for a policy that takes the largest, the model's own distribution."""
        if not self.policy.samples(_PHASE):
            return softmax(row)
        return self.policy.distribution(self.state, self._row(at, row)).dense(len(row))

    def _row(self, at: int, row: Floats, tokens: Sequence[int] | None = None) -> Row:
        before = (self.canvas.tokens if tokens is None else tokens)[:at]
        return Row(OneRow(row), ROOT, before, _PHASE, self.keys, self.context)

    def _commits(self, masks: Sequence[int], rows: Floats) -> bool:
        """Record the signal; where it is above the threshold, write everything."""
        commit = self.settings.commit
        assert commit is not None
        tokens, confidence = self._best(masks, rows)
        written = self.canvas.filled(tokens)
        start = self.canvas.start
        sure = [confidence.get(start + place, 1.0) for place in range(len(written))]
        score = commit.signal.score(Unsure(written, sure, self.trace.answers))
        self.trace.signals.append(score)
        self.trace.answers.append(written)
        if not score > commit.threshold:
            return False
        self.trace.committed = self.trace.forwards - 1
        for at, token in tokens.items():
            self.canvas.tokens[at] = token
        self.trace.order.append([at - start for at in tokens])
        return True

    def _best(self, masks: Sequence[int], rows: Floats) -> tuple[dict[int, int], dict[int, float]]:
        """The most probable token of each mask and its probability.

        A policy that writes from left to right draws them in turn, since the next row's state needs the token.
        """
        tokens, confidence, state = dict[int, int](), dict[int, float](), self.state
        text = list(self.canvas.tokens)
        for at, row in zip(masks, rows, strict=True):
            if self.sequential:
                probs = softmax(row)
                state, token = self.policy.step(state, self._row(at, row, text))
            else:
                probs = self._probs(at, row)
                token = int(probs.argmax()) if self.policy.samples(_PHASE) else self._largest(at, row)
            tokens[at], confidence[at] = token, float(probs[token])
            text[at] = token
            if self.sequential and token in self.context.eos:
                rest = [later for later in masks if later > at]
                return tokens | dict.fromkeys(rest, token), confidence
        return tokens, confidence

    def _largest(self, at: int, row: Floats) -> int:
        return self.policy.step(self.state, self._row(at, row))[1]

    def _remask(self, span: tuple[int, int]) -> int:
        """Mask the least confident share of a full block again. Returns how many."""
        count = int(self.settings.remask * (span[1] - span[0]))
        written = [at for at in range(*span) if at in self.confidence]
        if not count or self.trace.committed is not None:
            return 0
        weakest = sorted(written, key=lambda at: self.confidence[at])[:count]
        for at in weakest:
            self.canvas.tokens[at] = self.canvas.mask
        self.trace.remasked += [at - self.canvas.start for at in weakest]
        return len(weakest)

    def _over(self) -> bool:
        """Whether an end token stands where nothing before it is masked."""
        for token in self.canvas.tokens[self.canvas.start :]:
            if token == self.canvas.mask:
                return False
            if token in self.context.eos:
                return True
        return True
