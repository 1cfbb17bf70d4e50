"""A rule that learns from simulated traffic whose questions change half way.

Prints when each promise came, what was saved net of audits and trials, and when the alarm rang. A run that was exited
is made again without a rule, with the same keys, so what it saved and whether its answer differs are measured too.

    python -m examples.studies.learning_traffic [requests] [llama.cpp|transformers] [fitting runs] [risk]
    python -m examples.studies.learning_traffic 160 llama.cpp 24 0.2 --model M.gguf --tasks A.jsonl --then B.jsonl

`tiny` has its own questions and its own closing; another model has those of the files, and closes with a box.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from reasonctl.backends import Model, load_model
from reasonctl.calibration.learning import LearnedSettings, learn
from reasonctl.calibration.learning.learned import Learned
from reasonctl.calibration.learning.status import status_of
from reasonctl.calibration.tasks.graders import MATH, NUMBER, Grader
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import Call, Controller, Keys, Policy, Trace, drive, parse_policy
from reasonctl.controller.thinking import default_cues, read_template
from reasonctl.controller.thinking.answers import after_thinking

CUES = ("wait", "hmm", "alternatively")
BOXED = "\n\nThe final answer is \\boxed{"
"""How a model that isn't `tiny` is asked for its answer."""
EVERY = 20
"""After so many requests a line says how things stand."""


class LearningStudy:
    """One rule under one stream of requests."""

    def __init__(self, model: Model, rule: Learned, grader: Grader, policy: Policy, most: int) -> None:
        self.model, self.rule, self.grader, self.policy, self.most = model, rule, grader, policy, most
        thinking = read_template(model.template).thinking
        self.learning, self.plain = Controller(exit=rule).knowing(thinking), Controller().knowing(thinking)
        self.sums = {"tokens": 0, "exits": 0, "differ": 0, "saved": 0, "audited": 0}
        self.seconds = {"requests": 0.0, "labels": 0.0}

    def ask(self, number: int, question: str) -> None:
        """One request, the labels that it allows, and a line for each thing that happened."""
        rule, was, before = self.rule, self.rule.live, self.rule.why.partition(":")[0]
        start = time.perf_counter()
        trace = self._run(self.learning, number, question)
        self.seconds["requests"] += time.perf_counter() - start
        self._count(number, question, trace)
        if was is not None and rule.live is not None and rule.live.ledger.alarm:
            self.say(number, "alarm")
        start = time.perf_counter()
        while (own := rule.idle()) is not None:  # what a server does while nobody asks
            for _ in drive(own.loop):
                pass
        self.seconds["labels"] += time.perf_counter() - start
        if was is None and rule.live is not None:
            self.say(number, "promise")
        elif before != rule.why.partition(":")[0]:
            self.say(number, "change")
        elif number % EVERY == EVERY - 1:
            self.say(number, "so far")

    def _run(self, controller: Controller, number: int, question: str) -> Trace:
        model, trace = self.model, Trace()
        call = Call(model.prompt(question), self.most, model.eos, Keys(seed=5, run=number), self.policy)
        session = model.engine.session()
        for _ in controller.stream(session, model.tokenizer, call, trace):
            pass
        session.close()
        return trace

    def _count(self, number: int, question: str, trace: Trace) -> None:
        """Add a run to the sums; an exited one is made again without a rule."""
        sums = self.sums
        sums["tokens"] += len(trace.tokens)
        sums["audited"] += bool(trace.audit and trace.audit["drawn"])
        if trace.exit is None:
            return
        full = self._run(self.plain, number, question)
        texts = [
            self.model.tokenizer.decode([t for t in one.tokens if t not in self.model.eos]) for one in (trace, full)
        ]
        answers = [after_thinking(text, self.rule.markers) for text in texts]
        sums["exits"] += 1
        sums["saved"] += len(full.tokens) - len(trace.tokens)
        sums["differ"] += not self.grader.same(*answers)

    def say(self, number: int, what: str) -> None:
        """One line about what happened after a request."""
        status = status_of(self.rule.traffic.store, learns=True)
        spent = sum(stage.trial_tokens for stage in status.stages) + sum(one.tokens for one in status.audits)
        line: dict[str, Any] = {"request": number, "what": what, **self.sums, "spent": spent}
        line |= {"net_estimated": round(status.net_saved), "net_measured": self.sums["saved"] - spent}
        line |= {f"seconds_{name}": round(value, 1) for name, value in self.seconds.items()}
        print(json.dumps({**line, "why": self.rule.why[:240]}), flush=True)


def other_questions(n: int) -> list[str]:
    """Chains as the model was never shown: their numbers are too large, so that what it settles on is a guess."""
    rng = random.Random(7)
    found = dict[str, None]()
    while len(found) < n:
        steps = "".join(f" {letter}{rng.choice('+-')}{rng.randint(20, 99)}" for letter in "abcdef"[: rng.randint(3, 6)])
        found[f"{rng.randint(100, 999)}{steps}"] = None
    return list(found)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requests", type=int, nargs="?", default=2000)
    parser.add_argument("backend", choices=("llama.cpp", "transformers"), nargs="?", default="llama.cpp")
    parser.add_argument("fit", type=int, nargs="?", default=100)
    parser.add_argument("risk", type=float, nargs="?", default=0.05)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tasks", help="questions of the first half, for a model that isn't tiny")
    parser.add_argument("--then", help="questions of the second half")
    parser.add_argument("--most", type=int, default=768, help="most tokens of a run")
    return parser.parse_args()


def questions_of(args: argparse.Namespace) -> list[str]:
    """The questions of all requests, in order."""
    half, rest = args.requests // 2, args.requests - args.requests // 2
    if args.model == "tiny":
        return [one.question for one in fresh_problems(half, 3)] + other_questions(rest)
    first, second = load_task(args.tasks), load_task(args.then)
    return [one.question for one in [*first.problems(half, stream=0), *second.problems(rest, stream=0)]]


def settings_of(args: argparse.Namespace, model: Model) -> LearnedSettings:
    """What is fixed for the store's life."""
    found = read_template(model.template)
    markers = None if found.markers is None else (found.markers.open, found.markers.close)
    if args.model == "tiny":
        return LearnedSettings(fit=args.fit, markers=markers, suffix=found.suffix, cues=CUES)
    cues = default_cues(found.markers)
    return LearnedSettings(fit=args.fit, markers=markers, suffix=BOXED, answer_ends="box", cues=cues)


def main() -> None:
    """One JSON line for each thing that happens, and the store's own status last."""
    args = parsed()
    model = load_model(args.model, backend=args.backend if args.model == "tiny" else None, threads=1)
    grader = NUMBER if args.model == "tiny" else MATH
    with tempfile.TemporaryDirectory() as folder:
        rule = learn(Path(folder) / "my.store", risk=args.risk, settings=settings_of(args, model), grader=grader)
        rule.check(model)
        study = LearningStudy(model, rule, grader, parse_policy("temperature(0.6)"), args.most)
        for number, question in enumerate(questions_of(args)):
            study.ask(number, question)
        study.say(args.requests - 1, "end")
        print(json.dumps({"requests": args.requests, **status_of(rule.traffic.store, learns=True).to_dict()}))


if __name__ == "__main__":
    main()
