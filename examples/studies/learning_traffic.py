"""A rule that learns from simulated traffic of the bundled model, whose questions change half way.

Prints when each promise came, what was saved net of audits and trials, and when the alarm rang.

    python -m examples.studies.learning_traffic [requests] [llama.cpp|transformers] [fitting runs] [risk]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

from reasonctl.backends import load_model
from reasonctl.calibration.learning import LearnedSettings, learn
from reasonctl.calibration.learning.learned import Learned
from reasonctl.calibration.learning.status import status_of
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import Call, Controller, Keys, Trace, drive, parse_policy
from reasonctl.controller.thinking import read_template

POLICY, MOST = parse_policy("temperature(0.6)"), 768
CUES = ("wait", "hmm", "alternatively")


def other_questions(n: int) -> list[str]:
    """Chains as the model was never shown: their numbers are too large, so that what it settles on is a guess."""
    rng = random.Random(7)
    found = dict[str, None]()
    while len(found) < n:
        steps = "".join(f" {letter}{rng.choice('+-')}{rng.randint(20, 99)}" for letter in "abcdef"[: rng.randint(3, 6)])
        found[f"{rng.randint(100, 999)}{steps}"] = None
    return list(found)


def main() -> None:
    """One JSON line for each thing that happens, and the store's own status last."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    backend = sys.argv[2] if len(sys.argv) > 2 else "llama.cpp"
    fit = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    risk = float(sys.argv[4]) if len(sys.argv) > 4 else 0.05
    model = load_model("tiny", backend=backend, threads=1)  # type: ignore[arg-type]  # one of the two names
    found = read_template(model.template)
    assert found.markers is not None
    markers = (found.markers.open, found.markers.close)
    settings = LearnedSettings(fit=fit, markers=markers, suffix=found.suffix, cues=CUES)
    with tempfile.TemporaryDirectory() as folder:
        rule = learn(Path(folder) / "my.store", risk=risk, settings=settings, grader=NUMBER)
        rule.check(model)
        controller = Controller(exit=rule).knowing(found.thinking)
        questions = [one.question for one in fresh_problems(n // 2, 3)] + other_questions(n - n // 2)
        tokens = 0
        for number, question in enumerate(questions):
            trace, session = Trace(), model.engine.session()
            call = Call(model.prompt(question), MOST, model.eos, Keys(seed=5, run=number), POLICY)
            before, was = rule.why.partition(":")[0], rule.live
            for _ in controller.stream(session, model.tokenizer, call, trace):
                pass
            session.close()
            tokens += len(trace.tokens)
            if was is not None and rule.live is not None and rule.live.ledger.alarm:
                say(number, "alarm", rule, tokens)
            label(rule)
            if rule.live is not None and was is None:
                say(number, "promise", rule, tokens)
            elif before != rule.why.partition(":")[0]:
                say(number, "change", rule, tokens)
        print(json.dumps({"requests": n, "tokens": tokens, **status_of(rule.traffic.store, learns=True).to_dict()}))


def label(rule: Learned) -> None:
    """What a server does while nobody asks."""
    while (own := rule.idle()) is not None:
        for _ in drive(own.loop):
            pass


def say(number: int, what: str, rule: Learned, tokens: int) -> None:
    """One line about what happened after a request."""
    status = status_of(rule.traffic.store, learns=True)
    print(
        json.dumps(
            {"request": number, "what": what, "tokens": tokens, "net saved": status.net_saved, "why": rule.why[:160]}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
