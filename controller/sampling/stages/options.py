"""Debiased multiple choice: where the letter of an option is drawn, the letters' probabilities are corrected.

A model prefers some letters and places whatever stands there (Zheng et al., "Large Language Models Are Not Robust
Multiple Choice Selectors", arXiv 2309.03882). `option_prior` divides by a known preference, as that paper's PriDe does.
`cyclic_options` averages over rotations of the options. Both leave the mass of the letters together as it is, and all
other tokens, so that they work under any decoding. `option_letter` begins a run with the opening and a letter, so that
there is a place to correct, and nothing but letters at it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.decode import ROOT, Decode, Floats, Step
from ...core.errors import ControllerError
from ...core.probability import softmax
from ...core.tokenizer import Tokenizer
from ..candidates import Candidates, Indices
from ..draw import Row, RunContext
from ..option_text import AROUND, LETTERS, letter_logits, letter_tokens, option_spans, with_contents
from ..stage import Pure, Stage, require

_QUESTION, _FOUND = "Which?\nA. first\nB. second", ["first", "second"]
"""A question that a chat template is tried on, and its options."""
_MOST_BETWEEN = 6
"""Tokens between the cue and the letter, at most."""


@dataclass(frozen=True)
class OptionLetter(Pure):
    """Begins a run with an opening, in the tokenizer's own tokens, and one letter; what follows is free.

    A letter's mass stands on its most probable token (`B`, ` B`), so that greedy, temperature and truncation act on
    letters and not on ways to write them. For models that think first it belongs to no run: the opening would stand
    within the thoughts.
    """

    name = "option_letter"
    kind = "constraint"
    reads_text = True
    options: int = 4
    """Number of letters, from 2 to 10."""
    opening: str = "Answer:"
    """What the run begins with."""

    def __post_init__(self) -> None:
        require(2 <= self.options <= len(LETTERS), "option_letter's options", self.options, "from 2 to 10")
        require(bool(self.opening.strip(AROUND)), "option_letter's opening", repr(self.opening), "a text")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        place = len(row.tokens) - row.context.start
        if place > len(self.opening.encode()) + 1:  # no token is shorter than a byte; one may be sentencepiece's space
            return candidates
        tokenizer = row.context.read(self.name)
        opening = tokenizer.encode(self.opening)
        if place > len(opening):
            return candidates
        logits = np.full(candidates.logits.shape, -np.inf)
        if place < len(opening):
            logits[opening[place]] = 0.0
            return Candidates(logits)
        for ids in letter_tokens(tokenizer, self.options):
            own = candidates.logits[ids].astype(np.float64)
            logits[ids[np.argmax(own)]] = np.logaddexp.reduce(own)
        return Candidates(logits)


@dataclass(frozen=True)
class Options(Stage):
    """Corrects the letters' probabilities after the cue that opens the answer."""

    kind = "constraint"
    reads_text = True

    def at_answer(self, row: Row, after: str) -> bool:
        """Whether the text written so far ends with the cue, but for space and quotes."""
        written = row.tokens[row.context.start :][-(len(after) + _MOST_BETWEEN) :]
        text = row.context.read(self.name).decode(written).rstrip(AROUND)
        return bool(written) and text.endswith(after.strip(AROUND))

    def corrected(self, candidates: Candidates, tokens: Sequence[Indices], shares: Floats) -> Candidates:
        """The candidates with the letters' mass shared out anew.

        Args:
            candidates: A whole row.
            tokens: The tokens of each letter.
            shares: Each letter's share of their mass. Shape (letters,), sums to 1.
        """
        logits = candidates.logits.astype(np.float64)
        before = letter_logits(logits, tokens)
        with np.errstate(divide="ignore"):
            wanted = np.log(shares) + np.logaddexp.reduce(before)
        for ids, old, new in zip(tokens, before, wanted, strict=True):
            if old > -np.inf:
                logits[ids] += new - old
        return Candidates(logits)


@dataclass(frozen=True)
class OptionPrior(Options):
    """PriDe: divides the letters' probabilities by the model's prior for them, and normalises.

    `ctl mcq` estimates the prior. It costs nothing per run, and takes no account of what stands at the letters.
    """

    name = "option_prior"
    prior: tuple[float, ...]
    """The model's prior for A, B, C ...; positive."""
    after: str = "Answer:"
    """The text that the letter follows."""

    def __post_init__(self) -> None:
        fits = 2 <= len(self.prior) <= len(LETTERS) and all(0.0 < one < np.inf for one in self.prior)
        require(fits, "option_prior's prior", self.prior, "a list of 2 to 10 positive numbers, such as [0.4,0.3,0.3]")
        require(bool(self.after.strip(AROUND)), "option_prior's after", repr(self.after), "the text before the letter")

    def step(self, state: Any, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        if not self.at_answer(row, self.after):
            return state, candidates
        tokens = letter_tokens(row.context.read(self.name), len(self.prior))
        shares = softmax(letter_logits(row.raw, tokens) - np.log(self.prior))
        return state, self.corrected(candidates, tokens, shares)


@dataclass(frozen=True)
class CyclicOptions(Options):
    """Averages the options' probabilities over the rotations of the question's options, option by option.

    The options are first put into alphabetical order, and that order is rotated. So the rotations are the same
    whatever order the question shows, and the probability of an option doesn't depend on it at all. It costs a prefill
    for each option, once a run. What was written before the letter is read as it stands: where an explanation comes
    first, let whole runs vote instead, as `ctl mcq` does.
    """

    name = "cyclic_options"
    stateful = True
    needs_forwards = True
    drafts = False  # its forwards are the target's
    after: str = "Answer:"
    """The text that the letter follows."""

    def __post_init__(self) -> None:
        require(bool(self.after.strip(AROUND)), "cyclic_options' after", repr(self.after), "the text before the letter")

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        if not self.at_answer(row, self.after):
            return None
        if row.context.engine is None:
            raise ControllerError("cyclic_options needs the model for further forwards; run it through a Controller")
        tokenizer = row.context.read(self.name)
        prompts, ranks = rotations(tokenizer, row.tokens[: row.context.start])
        tokens, written = letter_tokens(tokenizer, len(ranks)), row.tokens[row.context.start :]
        shares = []
        for prompt in prompts:
            session = row.context.engine.session()
            try:
                step = yield Decode(session, [*prompt, *written])
                shares.append(softmax(letter_logits(step.logits(ROOT), tokens)))
            finally:
                session.close()
        return mean_by_option(shares, ranks)

    def step(self, state: Any, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        if state is None:
            return None, candidates
        tokens = letter_tokens(row.context.read(self.name), len(state))
        return None, self.corrected(candidates, tokens, state)

    def check(self, model: Any) -> list[str]:
        """ControllerError for a model whose template hides where the last option ends."""
        text = model.tokenizer.decode(model.prompt(_QUESTION))
        if (found := [text[first:end] for first, end in option_spans(text)]) != _FOUND:
            raise ControllerError(
                f"cyclic_options can't tell the last option from what this model's chat template writes: of {_FOUND} "
                f"it reads {found!r:.80}; use option_prior, or another template"
            )
        return []

    def check_run(self, context: RunContext) -> None:
        context.read(self.name)

    def extra_sequences(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        return (max(map(len, rotations(tokenizer, prompt)[0])),)


def rotations(tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """The prompts with the options in alphabetical order, rotated by 0, 1, ... places.

    Args:
        tokenizer: The model's.
        prompt: The prompt's tokens.

    Returns:
        The prompts, and the place of each shown option in alphabetical order.

    Raises:
        ControllerError: The prompt has no options.
    """
    text = tokenizer.decode(prompt)
    spans = option_spans(text)
    if not spans:
        raise ControllerError("cyclic_options finds no options in the prompt; write each in a line, 'A. text'")
    contents = [text[first:end] for first, end in spans]
    order = sorted(range(len(contents)), key=contents.__getitem__)
    ranks = [order.index(i) for i in range(len(contents))]
    ordered = [contents[i] for i in order]
    turned = [ordered[-by:] + ordered[:-by] if by else ordered for by in range(len(ordered))]
    return [tokenizer.encode(with_contents(text, spans, one)) for one in turned], ranks


def mean_by_option(shares: Sequence[Floats], ranks: Sequence[int]) -> Floats:
    """The mean probability of each shown option over the rotations.

    Args:
        shares: Of each rotation, the letters' probabilities. Shape (options,) each.
        ranks: The place of each shown option in the order that was rotated.

    Returns:
        Shape (options,), in the order shown; sums to 1.
    """
    m = len(ranks)
    return np.array([sum(float(shares[by][(rank + by) % m]) for by in range(m)) / m for rank in ranks])
