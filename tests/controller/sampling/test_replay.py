"""A replay writes its text, and what it measures of the text is exact."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Chain, Controller, Keys, TopK, Trace, parse_policy
from reasonctl.controller.drafting import KnownText
from reasonctl.controller.sampling import Explained, Replay
from reasonctl.controller.sampling.candidates import Candidates

TOKENS = ToyTokenizer(["a ", "b ", "wait ", "so ", ". ", "<eos>", "<end>"])
ENDS = frozenset({5, 6})


def run(policy, drafter=None) -> Trace:
    session, trace = ToyEngine(vocabulary=7, seed=6).session(), Trace()
    call = Call(prompt=[0, 1], max_new_tokens=60, eos=ENDS, keys=Keys(seed=3), policy=policy)
    for _ in Controller(drafter=drafter).stream(session, TOKENS, call, trace):
        pass
    return trace


def test_surprisal_and_its_variance_are_those_of_the_distribution():
    """Each token weighted by its probability: the surprisal has the stated mean and variance."""
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    candidates, found = Candidates(np.append(np.log(probs), -np.inf)), []
    for token in range(5):
        found.append(one := Explained())
        one.add(candidates, token)
    assert [one.impossible for one in found] == [0, 0, 0, 0, 1]
    off = np.array([one.surprisal - one.expected for one in found[:4]])
    assert probs @ off == pytest.approx(0, abs=1e-12)
    assert probs @ off**2 == pytest.approx(found[0].variance, abs=1e-12) and found[0].variance > 0.1
    total = found[0] + found[4]
    assert (total.tokens, total.impossible, total.surprisal) == (1, 1, found[0].surprisal)


def test_candidates_by_their_ids_are_found():
    kept = Candidates(np.array([0.0, 1.0, 3.0])).keep(np.array([0, 2]))
    found = Explained()
    for token in range(3):
        found.add(kept, token)
    assert (found.tokens, found.impossible) == (2, 1)
    assert found.surprisal == pytest.approx(2 * np.log(1 + np.exp(-3)) + 3)


@pytest.mark.parametrize("text", ["temperature(0.7)", "greedy", "top_k(3) | temperature(1.5)", "mirostat_v2(tau=2)"])
def test_a_text_is_written_in_few_forwards_and_then_an_end(text):
    given = [2, 3, 0, 1, 4] * 5
    policy = Replay(parse_policy(text), given, ENDS)
    read = run(policy, KnownText(given, most=8))
    assert read.tokens[:-1] == given and read.tokens[-1] in ENDS and read.finish_reason == "stop"
    assert read.forwards == 3 and read.accepted == 23
    assert policy.explained.tokens + policy.explained.impossible == 26


def test_a_policy_that_could_not_have_written_a_token_says_so():
    other = [2, 3, 2, 3, 0, 0, 4]
    for policy in (Chain(TopK(1)), parse_policy("greedy")):
        read = Replay(policy, other, ENDS)
        assert run(read).tokens[: len(other)] == other
        assert read.explained.impossible > 2
