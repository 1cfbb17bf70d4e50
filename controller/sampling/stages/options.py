"""Debiased multiple choice: where the letter of an option is drawn, the letters' probabilities are corrected.

A model prefers some letters and places whatever stands there (Zheng et al., "Large Language Models Are Not Robust
Multiple Choice Selectors", arXiv 2309.03882). `option_prior` divides by a known preference, as that paper's PriDe does.
`cyclic_options` averages over rotations of the options. Both leave the mass of the letters together as it is, and all
other tokens, so that they work under any decoding.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ...core.decode import ROOT, Decode, Floats, Step
from ...core.errors import ControllerError
from ...core.probability import softmax
from ...core.tokenizer import Tokenizer
from ..candidates import Candidates, Indices
from ..draw import Row, RunContext
from ..option_text import LETTERS, option_spans, with_contents
from ..stage import Stage, require

_AROUND = " \t\n\"'(*`"
"""What may stand between the cue and the letter, and in the letter's token."""
_AFTER = _AROUND + ".):,"
_MOST_BETWEEN = 6
"""Tokens between the cue and the letter, at most."""


def letter_tokens(tokenizer: Tokenizer, options: int) -> list[Indices]:
    """The tokens that write each letter, alone or with space and quotes around it: `A`, ` A`, `"A"`.

    Args:
        tokenizer: The model's.
        options: How many letters.

    Raises:
        ControllerError: A letter has no token.
    """
    known = _letters.get(tokenizer)
    if known is None:
        found: list[list[int]] = [[] for _ in LETTERS]
        for token, piece in tokenizer.pieces():
            text = piece.decode("utf-8", "replace").lstrip(_AROUND).rstrip(_AFTER) if len(piece) < 5 else ""
            if len(text) == 1 and text in LETTERS:
                found[LETTERS.index(text)].append(token)
        known = _letters[tokenizer] = [np.array(ids, dtype=np.intp) for ids in found]
    if any(not len(ids) for ids in known[:options]):
        raise ControllerError(f"a letter of {LETTERS[:options]} has no token in this model; options need letters")
    return known[:options]


_letters: WeakKeyDictionary[Tokenizer, list[Indices]] = WeakKeyDictionary()


def letter_logits(logits: Floats, tokens: Sequence[Indices]) -> Floats:
    """The logit of each letter, over all tokens that write it. Shape (letters,), float64."""
    parts = [logits[ids].astype(np.float64) for ids in tokens]
    return np.array([np.logaddexp.reduce(one) if len(one) else -np.inf for one in parts])


@dataclass(frozen=True)
class Options(Stage):
    """Corrects the letters' probabilities after the cue that opens the answer."""

    kind = "constraint"
    reads_text = True

    def at_answer(self, row: Row, after: str) -> bool:
        """Whether the text written so far ends with the cue, but for space and quotes."""
        written = row.tokens[row.context.start :][-(len(after) + _MOST_BETWEEN) :]
        text = row.context.read(self.name).decode(written).rstrip(_AROUND)
        return bool(written) and text.endswith(after.strip(_AROUND))

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
        require(bool(self.after.strip(_AROUND)), "option_prior's after", repr(self.after), "the text before the letter")

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
        require(
            bool(self.after.strip(_AROUND)), "cyclic_options' after", repr(self.after), "the text before the letter"
        )

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
