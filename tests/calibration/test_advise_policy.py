"""`ctl advise policy`: risk and recall by hand, golden numbers, planted errors, and the command on both backends."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from reasonctl.backends.load import load_model
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.calibration.advice import truncation as advise_policy
from reasonctl.calibration.advice.equal_risk import Curve, Family, Measured, Place, families, measure, recommended
from reasonctl.calibration.advice.prefix_trie import PrefixTrie, fork_rows, text_trie
from reasonctl.calibration.cli.main import main
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.controller import ControllerError, MinP, MirostatV2, TopH, TopK, TopNSigma, TopP, Typical
from support.run_records import run

GOLDEN = [3, 10, 50]


def ranked(size: int = 200) -> np.ndarray:
    """Logits whose ranking is a known shuffle: token order[k] has rank k."""
    rng = np.random.default_rng(0)
    logits = np.empty(size)
    logits[rng.permutation(size)] = -0.01 * np.arange(size)
    return logits


def places(needed=GOLDEN) -> list[Place]:
    logits = ranked()
    order = np.argsort(-logits)
    return [Place(logits, {int(order[0]), int(order[k - 1])}) for k in needed]


@pytest.mark.parametrize(
    ("k", "recalls", "recall", "risk", "error"),
    [
        (5, [1, 0.5, 0.1], 0.5333, 0.2222, 0.1814),
        (8, [1, 0.8, 0.16], 0.6533, 0.5556, 0.4536),
        (20, [1, 1, 0.4], 0.8000, 2.2222, 1.4258),
    ],
)
def test_golden_numbers(k, recalls, recall, risk, error):
    """samplers.md, section 13: K* = 3, 10, 50."""
    found = measure(TopK(k), places())
    assert [place.needed for place in places()] == GOLDEN
    assert found.recalls == pytest.approx(recalls)
    assert (found.recall, found.risk, found.risk_error) == pytest.approx((recall, risk, error), abs=5e-5)
    assert found.recall_error == pytest.approx(np.std(recalls) / np.sqrt(3))


@pytest.mark.parametrize(("target", "policy", "risk"), [(1.0, "top_k(12)", 1.0667), (5.0, "top_k(39)", 4.9667)])
def test_golden_choices(target, policy, risk):
    found = Curve(families(200)[0], places()).at_risk(target)
    assert found.policy == policy and found.risk == pytest.approx(risk, abs=5e-5)


P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


@pytest.mark.parametrize(
    ("stage", "inside", "outside"),
    [
        # Reasonable are tokens 1 and 2, so the three best are needed.
        (TopK(1), 1, 0),
        (TopK(4), 3, 1),
        (TopP(0.6), 2, 0),
        (TopP(0.9), 3, 1),
        (MinP(0.3), 3, 0),
        (MinP(0.2), 3, 1),
        (TopNSigma(10.0), 3, 2),
        (TopH(0.01), 1, 0),
        (TopH(1.0), 3, 2),
        # Surprises 0.92 1.20 1.90 2.30 3.00, entropy 1.39: token 1, then 0, then 2.
        (Typical(0.25), 1, 0),
        (Typical(0.75), 3, 0),
        # mu = 2 tau bits; surprises in bits 1.32 1.74 2.74 3.32 4.32.
        (MirostatV2(0.9), 2, 0),
        (MirostatV2(1.7), 3, 1),
    ],
)
def test_risk_and_recall_by_hand(stage, inside, outside):
    recall, risk, log_z = Place(np.log(P), {1, 2}).measure(stage)
    assert (recall, risk) == pytest.approx((inside / 3, outside / 3))
    kept = {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3], 5: range(5)}[inside + outside]
    kept = [1] if stage == Typical(0.25) else list(kept)
    assert log_z == pytest.approx(np.log(P[kept].sum()), abs=1e-12)


def test_a_set_that_is_no_prefix_is_counted_on_both_sides():
    """typical leaves the most probable token out here; counting its size alone would call that full recall."""
    law = np.array([0.7, 0.1, 0.1, 0.1])
    recall, risk, _ = Place(np.log(law), {0, 1}).measure(Typical(0.05))
    kept = Typical(0.05).apply(Place(np.log(law), {0}).scores, None).ids
    size = min(1.0, len(kept) / 2)
    assert 0 in kept or recall < size
    law = np.array([0.45, 0.45, 0.1]) if 0 in kept else law
    place = Place(np.log(np.array([0.6, 0.2, 0.1, 0.1])), {0})
    kept = Typical(0.1).apply(place.scores, None).ids.tolist()
    assert 0 not in kept and place.measure(Typical(0.1))[:2] == (0.0, float(len(kept)))


def test_ties_are_ranked_by_id():
    flat = np.zeros(4)
    assert Place(flat, {2}).needed == 3 and Place(flat, {0}).needed == 1
    assert measure(TopK(3), [Place(flat, {2})]).risk == 0.0


def test_planted_errors_are_seen():
    """A rank that starts at 0, sets counted without K*, and recall taken for risk give other numbers."""
    found = measure(TopK(8), places())
    wrong_rank = measure(TopK(8), places([k - 1 for k in GOLDEN]))
    assert abs(found.risk - wrong_rank.risk) > 0.1
    assert found.risk != pytest.approx(np.mean([max(0, 8 - k) for k in GOLDEN]))
    assert found.recall != pytest.approx(1 - found.risk)


@pytest.mark.parametrize("family", families(60), ids=lambda family: family.name)
def test_sets_of_a_family_are_nested_and_its_equal_risk_is_the_nearest(family):
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 3, (20, 60))
    mine = [Place(row, set(rng.choice(np.argsort(-row)[:9], 2, replace=False).tolist())) for row in rows]
    curve = Curve(family, mine)
    risks = [found.risk for found in curve.grid]
    assert risks == sorted(risks) and risks[0] < 0.3
    found = curve.at_risk(1.0)
    other = min((curve.measured(u) for u in np.linspace(0, 1, 400)), key=lambda one: abs(one.risk - 1.0))
    assert abs(found.risk - 1.0) <= abs(other.risk - 1.0) + 1e-12
    assert curve.at_risk(1e5) is None


def measured(policy: str, recalls: list[float], error: float) -> Measured:
    return Measured(policy, float(np.mean(recalls)), 0.0, 1.0, error, 0.0, 0.0, tuple(recalls))


def test_the_recommended_one_is_the_steadiest_of_those_that_can_t_be_told_from_the_best():
    best, near = measured("a", [0.5, 0.7, 0.6, 0.4], 0.3), measured("b", [0.6, 0.5, 0.6, 0.45], 0.2)
    worse, steady = measured("c", [0.4, 0.6, 0.5, 0.3], 0.1), measured("d", [0.1, 0.1, 0.1, 0.1], 0.01)
    assert recommended([best, near, worse, steady]).policy == "b"
    assert recommended([best, worse, steady]).policy == "a"


def test_the_trie_keeps_texts_under_what_precedes_them():
    trie = PrefixTrie()
    for before, text in (((1,), (5, 6)), ((1,), (7,)), ((2,), (5, 8)), ((), (3, 4)), ((), (3, 9)), ((), (4, 4))):
        trie.add(before, text)
    found = {(fork.before, fork.prefix): (set(fork.tokens), fork.count) for fork in trie.forks(10)}
    # Without a token before them the beginnings of texts are no place: nothing can be fed there.
    assert found == {((1,), ()): ({5, 7}, 2), ((), (3,)): ({4, 9}, 2)}
    assert len(trie.forks(1)) == 1


class Toy(SimpleNamespace):
    def prompt(self, question):
        return self.tokenizer.encode(question)


TOY = ToyEngine(vocabulary=6, order=2, seed=5, concentration=0.9)
MODEL = Toy(
    engine=TOY,
    tokenizer=ToyTokenizer([*"abc", " ", ".", "d"]),
    start=(),
    eos=frozenset(),
    can=TOY.session().can,
)


def test_rows_are_the_model_s_own_at_each_fork(tmp_path):
    (tmp_path / "t.txt").write_text(
        "abc. abd.\nab a. abcd. abc. ba\n" + "abcabcabc" * 6 + "a. " + "abcabcabc" * 6 + "b."
    )
    trie = text_trie(MODEL, [str(tmp_path / "t.txt")])
    assert trie.texts == 8
    forks = trie.forks(20)
    assert max(len(fork.prefix) for fork in forks) == 54 and forks[0].prefix == (0, 1)
    for fork, row in fork_rows(MODEL, forks).items():
        assert row == pytest.approx(np.log(TOY.probs(fork.prefix)))
        assert len(fork.tokens) > 1
    before = [replace(fork, before=(2, 0)) for fork in forks]
    for fork, row in fork_rows(MODEL, before).items():
        assert row == pytest.approx(np.log(TOY.probs([2, 0, *fork.prefix])))


def test_jsonl_and_collected_runs_are_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "abc. abd."}\n\n{"text": "ab"}\n')
    with closing(RunFile(tmp_path / "b.runs.jsonl", {})) as collected:
        collected.open(force=False)
        collected.append(run(text="abc.\nabd"))
    assert text_trie(MODEL, [str(tmp_path / "a.jsonl")]).texts == 3
    assert text_trie(MODEL, [str(tmp_path / "b.runs.jsonl")]).texts == 2


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["advise", "policy", *arguments])
    told = capsys.readouterr()
    return int(stop.value.code), told.out, told.err


TEXT = "\n".join(f"{a} a+{b} b-{c} c" for a in range(50, 58) for b in range(1, 6) for c in (3, 6))


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_the_command_on_texts(capsys, tmp_path, backend):
    (tmp_path / "mine.txt").write_text(TEXT)
    page = tmp_path / "page.html"
    code, out, err = command(
        capsys,
        "tiny",
        "--texts",
        str(tmp_path / "mine.txt"),
        "--backend",
        backend,
        "--at",
        "0.5,2",
        "--json",
        "--max-new-tokens",
        "8",
        "--temperature",
        "0.7",
        "--out",
        str(page),
    )
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    rows = [row for row in result["table"] if row["reached"] and row["target"] == 0.5]
    assert {row["family"] for row in result["table"]} == {family.name for family in families(9)}
    assert len(rows) >= 6 and all(abs(row["risk"] - 0.5) < 0.4 and 0 < row["recall"] <= 1 for row in rows)
    chain = result["recommended"][0]["policy"]
    assert chain.endswith("| temperature(0.7)") and "mirostat" not in chain
    assert chain.split(" | ")[0] in {row["policy"] for row in rows}
    assert 0 < result["distortion"]["ess"] <= 1 and result["distortion"]["kl"] >= 0
    assert result["vocabulary"] > 400 and result["needed"] >= 2
    html = page.read_text()
    assert "<svg" in html and chain.split("(")[0] in html
    code, _, err = command(capsys, "tiny", "--texts", str(tmp_path / "mine.txt"), "--out", str(page))
    assert code == 2 and "exists already" in err


def test_texts_that_the_model_would_not_write_are_told_so(capsys, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "odd.txt").write_text("\n".join("~" + "".join(rng.choice(list("xyz{}%&"), 4)) for _ in range(200)))
    code, out, err = command(
        capsys, "tiny", "--texts", str(tmp_path / "odd.txt"), "--at", "0.2", "--max-new-tokens", "4"
    )
    assert code == 0 and "would hardly write such texts" in out and "K* is" in out, err


def test_right_answers_are_what_is_reasonable():
    """Only texts that the grader accepts are counted; with none of them it says so."""
    model, problem = load_model("tiny", threads=1), SimpleNamespace(question="52 a+3 b-6 c+8", answer="57")
    seen: list[str] = []

    def every(text, _):
        seen.append(text)
        return len(seen) % 2 == 0

    task = SimpleNamespace(grader=SimpleNamespace(right=every))
    trie = advise_policy.answer_trie(model, task, [problem, problem], advise_policy.SamplePlan(40, 0), lambda *_: None)
    assert len(seen) == 16 and trie.texts == 8
    assert set(trie.roots) == {tuple(model.prompt(problem.question))}
    never = SimpleNamespace(grader=SimpleNamespace(right=lambda *_: False))
    with pytest.raises(ControllerError, match="none of 8 runs"):
        advise_policy.answer_trie(model, never, [problem], advise_policy.SamplePlan(4, 0), lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "nothing to learn from"),
        (["--texts", "nowhere.txt"], "nowhere.txt is no file"),
        (["--tasks", "nowhere"], "unknown task"),
        (["--texts", "FILE", "--at", "1,x"], "--at is '1,x'"),
        (["--texts", "FILE", "--at", "0"], "--at is '0'"),
        (["--texts", "FILE", "--policy", "top_k(4)"], "a policy is what is searched for"),
        (["--texts", "FILE", "--temperature", "0"], "greedy truncates nothing"),
        (["--texts", "FILE", "--out", "a.gif"], "it must end in .html"),
        (["--texts", "FILE", "--out", "/nowhere/a.svg"], "is no folder"),
        (["--texts", "EMPTY"], "hold no text"),
        (["--texts", "SHORT"], "2 texts go on in several ways at 1 places only, and it takes 8"),
        (["--texts", "BYTES"], "is not UTF-8 text"),
        (["--texts", "FILE", "--at", "900000"], "no truncation reaches a risk of 900000"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, why):
    files = {"FILE": TEXT.encode(), "EMPTY": b" \n\n", "SHORT": b"52 a\n52 b\n", "BYTES": b"a\xff"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    given = [str(tmp_path / part) if part in files else part for part in arguments]
    code, _, err = command(capsys, "tiny", *given)
    last = [line for line in err.strip().splitlines() if not re.match(r"(comparing|reading)", line)]
    assert code == 2 and why in last[-1] and len(last) == 1


def test_a_dry_run_says_what_it_would_do(capsys):
    code, out, _ = command(capsys, "tiny", "--tasks", "tiny", "-n", "3", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["runs"] == 24


def test_nothing_fixed_reaches_the_target():
    family = Family("mirostat_v2", MirostatV2, lambda u: 0.1 + u, adapts=True)
    curve = Curve(family, [Place(np.log(P), {1})])
    assert advise_policy.chain_of({"mirostat_v2": curve.grid[0]}, {"mirostat_v2": curve}, 1.0) is None
