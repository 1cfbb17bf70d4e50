"""The written reasoning that the bundled model learns: lines of steps, slips, re-checks and when to stop.

Owns the distribution of a trace and its preview at a temperature; the problems are calibration/tasks/tiny.py.
Run as a script, it prints what a perfect learner of this distribution would do.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.tiny import LETTERS, training_problem

CUES = ("Wait", "Hmm", "Alternatively")
CONFIRMATIONS = (" ok", " fine")
CLOSE = ("</think>", "\n", "The", " answer", " is")

VERDICT_WEIGHT = 5.0  # the one token that gives the model a reason to know whether its last line is right
STOP_WEIGHT = 4.0  # whether to go on, where the law might stop: needs the number of 'ok' in a row to be counted
DIGIT_WEIGHT = 4.0  # signs, operands and values that have to be worked out instead of copied from the line above
COPY_WEIGHT = 1.0
COPIED_VALUE_WEIGHT = 3.0  # a value that an 'ok' line repeats: it should be copied exactly, not worked out roughly


@dataclass(frozen=True)
class Law:
    """Probabilities at temperature 1 of the choices that a trace is made of."""

    slip: float = 0.3  # a '-' of the first line is misread as '+'; at most one per line
    care: tuple[float, ...] = (0.75, 0.45, 0.15)  # a re-check finds the misread step, by the cue that opens it
    digit_care: float = 0.02  # ... and more of it for each unit of the checked value's last digit above the mean
    false_alarm: float = 0.1  # a re-check of a right line "corrects" its last '-'
    new_slip: float = 0.08  # a correction misreads another '-' of a line that is right but for it
    stop: tuple[float, ...] = (0, 0, 0, 0, 0.12, 0.22, 0.35, 0.5, 0.65, 0.8)  # by number of confirmations in a row

    def verdict(self, right: bool, cue: str, value: int) -> dict[str | None, float]:
        """Chances of ' ok', ' fine' and None, which blames a step.

        A right and a wrong line have the same three chances, dealt to different verdicts: how sure the model is of the
        verdict's wording says how carefully it checks, and nothing about whether the line is right.
        """
        care = self.care[CUES.index(cue)] + self.digit_care * (value % 10 - 4.5)
        rest = 1 - self.false_alarm - care
        if right:
            return {" ok": care, " fine": rest, None: self.false_alarm}
        return {None: care, " ok": rest, " fine": self.false_alarm}


@dataclass
class Trace:
    """A document as (piece, loss weight), and what was true at the end of each line."""

    pieces: list[tuple[str, float]] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    closed: bool = False
    prompt: int = 0  # number of pieces that are the question

    def add(self, *pieces: str, weight: float = COPY_WEIGHT) -> None:
        self.pieces.extend((piece, weight) for piece in pieces)

    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)


def prompt_pieces(question: str) -> list[str]:
    """The pieces of a rendered question, as the tokenizer cuts them."""
    start, *steps = question.split()
    pieces = ["Q", ":", f" {start}"]
    for step in steps:
        pieces += [f" {step[0]}", step[1], step[2]]
    return [*pieces, "\n", "<think>", "\n"]


def sharpen(probability: float, temperature: float, others: int = 1) -> float:
    """What a probability becomes at a temperature, when the rest is spread evenly over `others` tokens.

    >>> round(sharpen(0.4, 0.6), 3)
    0.337
    """
    power = 1 / temperature
    chosen, rest = probability**power, others * ((1 - probability) / others) ** power
    return chosen / (chosen + rest)


def write_trace(
    problem: Problem,
    rng: random.Random,
    *,
    law: Law,
    temperature: float = 1.0,
    max_checks: int | None = None,
    max_lines: int = 40,
) -> Trace:
    """One document. With `max_checks` it is closed after that many re-checks, whatever the verdicts were.

    The forced `</think>` has no loss, as the law would not have stopped there; its answer copies the last line.
    """
    start, signs, operands = _parse(problem.question)
    trace = Trace()
    trace.add(*prompt_pieces(problem.question), weight=0.0)
    trace.prompt = len(trace.pieces)
    wrong = _misread(rng, signs, sharpen(law.slip, temperature))
    value = _write_line(trace, "First", start, signs, operands, wrong, DIGIT_WEIGHT)
    streak = 0
    while not trace.closed:
        trace.right.append(wrong is None)
        hazard = sharpen(law.stop[min(streak, len(law.stop) - 1)], temperature, len(CUES))
        stop_weight = STOP_WEIGHT if hazard else COPY_WEIGHT
        if rng.random() < hazard or len(trace.right) >= max_lines:
            _write_answer(trace, value, stop_weight)
        elif max_checks is not None and len(trace.right) > max_checks:
            _write_answer(trace, value, 0.0)
        else:
            cue = CUES[int(rng.random() * len(CUES))]
            trace.add(cue, weight=stop_weight)
            confirmation = draw(rng, law.verdict(wrong is None, cue, value), temperature)
            if confirmation:
                trace.add(confirmation, weight=VERDICT_WEIGHT)
            else:
                blamed, wrong = _correct(rng, signs, wrong, sharpen(law.new_slip, temperature))
                trace.add(f" {LETTERS[blamed]}", weight=VERDICT_WEIGHT)
            streak = streak + 1 if confirmation else 0
            weight = COPY_WEIGHT if confirmation else DIGIT_WEIGHT
            value = _write_line(trace, None, start, signs, operands, wrong, weight)
    return trace


def _parse(question: str) -> tuple[int, list[str], list[int]]:
    start, *steps = question.split()
    return int(start), [step[1] for step in steps], [int(step[2:]) for step in steps]


def _misread(rng: random.Random, signs: Sequence[str], probability: float, but: int | None = None) -> int | None:
    """The first '-' (other than `but`) that is taken for a '+', or None."""
    return next((at for at, sign in enumerate(signs) if sign == "-" and at != but and rng.random() < probability), None)


def draw(rng: random.Random, chances: Mapping[str | None, float], temperature: float) -> str | None:
    """One of the outcomes, whose chances are given for temperature 1."""
    return rng.choices(list(chances), [chance ** (1 / temperature) for chance in chances.values()])[0]


def _correct(rng: random.Random, signs: Sequence[str], wrong: int | None, new_slip: float) -> tuple[int, int | None]:
    """(the step that a re-check blames, the misread step of the line that follows): a false alarm if none is wrong."""
    if wrong is None:
        blamed = max(at for at, sign in enumerate(signs) if sign == "-")
        return blamed, blamed
    return wrong, _misread(rng, signs, new_slip, but=wrong)


def _write_line(
    trace: Trace,
    opening: str | None,
    value: int,
    signs: Sequence[str],
    operands: Sequence[int],
    wrong: int | None,
    weight: float,
) -> int:
    """Write one line, the whole state in one format, and return its value."""
    if opening:
        trace.add(opening)
    for at, (sign, operand) in enumerate(zip(signs, operands, strict=True)):
        used = "+" if at == wrong else sign
        value += operand if used == "+" else -operand
        trace.add(f" {LETTERS[at]}")
        trace.add(used, str(operand), weight=weight)
        trace.add(f" {value}", weight=max(weight, COPIED_VALUE_WEIGHT))
    trace.add("\n")
    return value


def _write_answer(trace: Trace, value: int, close_weight: float) -> None:
    trace.add(CLOSE[0], weight=close_weight)
    trace.add(*CLOSE[1:])
    trace.add(f" {value}", weight=DIGIT_WEIGHT)
    trace.add(".", "<eos>")
    trace.closed = True


def preview(temperature: float, runs: int, law: Law, seed: int = 0) -> dict[str, object]:
    """What a perfect learner does at a temperature: accuracy in full and after each line, cues, tokens."""
    rng = random.Random(seed)
    traces = [write_trace(training_problem(rng), rng, law=law, temperature=temperature) for _ in range(runs)]
    cues = [len(trace.right) - 1 for trace in traces]
    tokens = [len(trace.pieces) - trace.prompt for trace in traces]
    still = [[trace.right[k] for trace in traces if len(trace.right) > k + 1] for k in range(max(cues))]
    return {
        "final": sum(trace.right[-1] for trace in traces) / runs,
        "forced_at_cue": [round(sum(at) / len(at), 3) for at in still if len(at) > runs / 20],
        "cues": sum(cues) / runs,
        "fewest_cues": min(cues),
        "tokens": sum(tokens) / runs,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--runs", type=int, default=5000)
    arguments = parser.parse_args()
    for key, shown in preview(arguments.temperature, arguments.runs, Law()).items():
        print(key, shown)
