"""Drafting under the libraries' own calls: streams, stop strings, draft models on both backends, `ctl` commands."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from llama_cpp import Llama, LlamaGrammar, LogitsProcessorList
from transformers import TextIteratorStreamer

from reasonctl.backends.attach import attach
from reasonctl.backends.load import load_model
from reasonctl.calibration.advice.draft_model import LogLine, fit_line, open_drafts, rank_acceptance
from reasonctl.calibration.cli.bench import verdict
from reasonctl.calibration.cli.main import main
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Greedy,
    Hierarchy,
    Keys,
    ModelDrafter,
    PromptLookup,
    Sampling,
    Trace,
)
from reasonctl.controller.drafting.ngrams import load_table
from support.exact_probs import P, Q
from support.llama_models import CHAT, PROMPT, TINY
from support.toy_drafts import CHEAP, FLAT
from support.toy_models import writing


def llama():
    return Llama(model_path=str(TINY), n_ctx=512, n_threads=1, n_threads_batch=1, seed=5, verbose=False)


@pytest.mark.parametrize("stop", [[], ["43"], ["</think>"]], ids=str)
def test_streams_and_stop_strings_of_llama_cpp(stop):
    texts, finishes = [], []
    for drafter in (None, Hierarchy(curve=FLAT)):
        llm = llama()
        with attach(llm, Controller(drafter=drafter)) as handle:
            chunks = list(llm(PROMPT, max_tokens=150, temperature=0.0, stop=stop, stream=True))
            whole = llm(PROMPT, max_tokens=150, temperature=0.0, stop=stop)
            chat = llm.create_chat_completion(messages=CHAT, max_tokens=60, temperature=0.0)
            texts.append(
                [
                    "".join(c["choices"][0]["text"] for c in chunks),
                    whole["choices"][0]["text"],
                    chat["choices"][0]["message"]["content"],
                ]
            )
            finishes.append([chunks[-1]["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]])
            accepted = handle.trace.accepted
        llm.close()
    assert texts[0] == texts[1] and finishes[0] == finishes[1]
    assert accepted > 0


@pytest.mark.parametrize("stop", [None, ["c-3 42\nHmm"], ["</think>"]], ids=str)
def test_streams_and_stop_strings_of_transformers(stop):
    """A stop string inside an accepted block ends the text there; a streamer gets what a plain call gives it."""
    model = load_model("tiny", backend="transformers", threads=1)
    tokenizer = model.tokenizer.tokenizer
    ids = torch.tensor([model.prompt("48 a-9 b+6 c-3")])
    more = {"stop_strings": stop, "tokenizer": tokenizer} if stop else {}
    call = {"inputs": ids, "max_new_tokens": 120, "do_sample": False, **more}
    plain = model.library.generate(**call)
    for drafter in (PromptLookup(), Hierarchy(curve=FLAT)):
        streamer, out = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60), []
        with attach(model.library, Controller(drafter=drafter), tokenizer=tokenizer) as handle:
            thread = threading.Thread(target=lambda: out.append(model.library.generate(**call, streamer=streamer)))  # noqa: B023
            thread.start()
            text = "".join(streamer)
            thread.join()
            assert handle.trace.accepted > 5
        assert out[0].tolist() == plain.tolist()
        assert text == tokenizer.decode(plain[0, ids.shape[1] :])
        assert not stop or stop[0] in text


@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
@pytest.mark.parametrize("kind", ["chain", "sequoia", "dyspec"])
def test_draft_models_on_real_engines(backend, kind):
    """The model drafts for itself: greedy runs are plain ones, up to near-ties; nearly everything drawn is accepted."""
    target, small = (load_model("tiny", backend=backend, threads=1) for _ in range(2))
    drafter = ModelDrafter(small, kind=kind, size=6, depth=4, curves=(FLAT, CHEAP), adaptive=False)
    prompt = target.prompt("48 a-9 b+6 c-3")
    for policy in (Greedy(), Sampling(temperature=0.8)):
        traces = []
        for used in (None, drafter):
            trace, session = Trace(), target.engine.session()
            call = Call(prompt, 80, target.eos, Keys(seed=2), policy)
            list(Controller(drafter=used).stream(session, target.tokenizer, call, trace))
            session.close()
            traces.append(trace)
        assert traces[1].accepted > 30 and len(traces[1].tokens) / traces[1].forwards > 1.8
        if isinstance(policy, Greedy):
            assert traces[1].tokens == traces[0].tokens
    if backend == "llama.cpp":
        engine = small.engine
        assert len(engine.sequences.free) == engine.context.sequences - 1  # the draft's sessions are closed


@pytest.mark.parametrize("drafter", ["chain", "sequoia", "dyspec", "cascade", "hierarchy"])
def test_a_call_s_processors_and_grammar_see_the_target_s_rows_only(drafter):
    """A function that counts its calls, and a grammar that admits few tokens: as in plain runs, whatever drafts."""
    small = load_model("tiny", threads=1)
    inner, kind = PromptLookup(size=3) if drafter == "cascade" else None, "chain" if drafter == "cascade" else drafter
    made = (
        Hierarchy(curve=FLAT)
        if drafter == "hierarchy"
        else ModelDrafter(small, kind=kind, size=4, depth=4, adaptive=False, inner=inner)
    )

    class Counting:
        def __init__(self):
            self.calls = 0

        def __call__(self, ids, scores):
            self.calls += 1
            scores = scores.copy()
            scores[5 + self.calls % 7] += 3.0
            return scores

    found = []
    for used in (None, made):
        llm, counting = llama(), Counting()
        with attach(llm, Controller(drafter=used)) as handle:
            texts = [
                llm(PROMPT, max_tokens=40, temperature=0.0, logits_processor=LogitsProcessorList([counting])),
                llm(PROMPT, max_tokens=40, temperature=0.0, grammar=LlamaGrammar.from_string("root ::= [0-9 a-d+-]*")),
            ]
            found.append([[text["choices"][0]["text"] for text in texts], counting.calls])
            accepted = handle.trace.accepted
        llm.close()
    assert found[0] == found[1] and found[0][1] > 30 and accepted > 0


def test_the_log_line():
    sizes = [1e6, 1e7, 1e8, 1e9]
    line = fit_line(sizes, [0.2 + 0.1 * np.log10(n) for n in (1, 10, 100, 1000)], [0.01] * 4)
    assert (line.slope, line.r2) == pytest.approx((0.1, 1.0)) and line.at(5e9) == pytest.approx(0.2 + 0.1 * 3.69897)
    with pytest.raises(ControllerError, match="decade"):
        line.at(2e10)
    assert LogLine(0.0, 0.2, 1.0, 1e6, 1e9).at(1e9) < 1.0
    assert fit_line(sizes[:2], [0.1, 0.2], [0.01] * 2) is None
    assert fit_line([1e6] * 3, [0.1, 0.2, 0.3], [0.01] * 3) is None
    noisy = fit_line(sizes, [0.5, 0.1, 0.9, 0.4], [0.01] * 4)
    assert noisy.r2 < 0.3
    # A point that is hardly known hardly counts.
    assert fit_line(sizes, [0.2, 0.3, 0.4, 0.9], [0.001] * 3 + [10.0]).slope == pytest.approx(0.1, abs=1e-4)


def test_rank_acceptance_is_the_verifier_s():
    rng, total = np.random.default_rng(0), np.zeros(3)
    for _ in range(4000):
        keys = np.log(rng.random(5)) / Q
        total += rank_acceptance(P, Q, [int(t) for t in np.argsort(-keys)[:3]])
    # Three standard errors of a mean of 4,000 values in [0, 1] are below 0.024.
    assert total / 4000 == pytest.approx([0.65, 0.088333, 0.107724], abs=0.024)


def test_the_verdict_of_a_bench():
    assert "costs" in verdict(0.9) and "pays" in verdict(1.2) and "no difference" in verdict(1.01)


def ctl(capfd, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capfd.readouterr()
    return ended.value.code, out, err


def test_advice(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    code, out, err = ctl(
        capfd, "advise", "draft", "tiny", "--drafts", "tiny", "-n", "1", "--max-new-tokens", "20", "--json"
    )
    assert "up to 20 tokens" in err and "measuring drafts: 0 of 2" in err and "measuring drafts: 2 of 2" in err
    found = json.loads(out.splitlines()[-1])
    assert code == 0 and found["law"] is None and found["positions"] > 5
    assert found["drafts"][0]["alpha"] == pytest.approx(1.0, abs=0.02)  # it drafts for itself
    assert found["best"] is None and found["itself"] == ["tiny"]  # however fast the clock found it


def test_a_draft_of_another_vocabulary_is_refused_before_anything_is_written():
    with pytest.raises(ControllerError, match="'tiny' has other token ids than 'toy'"):
        open_drafts(writing([b"a"]), ["tiny"], None)


def test_a_corpus_becomes_a_database(capfd, tmp_path):
    text, out = tmp_path / "text.jsonl", tmp_path / "words.ngrams"
    text.write_text('{"text": "Wait, 52 a+3 55 b-6 49 c+8 57 ok"}\n' * 3)
    assert ctl(capfd, "ngrams", "tiny", str(text), "--out", str(out))[0] == 0
    code, printed, _ = ctl(
        capfd,
        "run",
        "tiny",
        "--probe",
        "none",
        "--draft",
        f"hierarchy(corpus={out})",
        "--json",
        "--max-new-tokens",
        "40",
    )
    assert code == 0 and json.loads(printed.splitlines()[-1])["text"]
    for arguments, word in [
        (("ngrams", "tiny", str(text), "--out", str(out)), "exists"),
        (("ngrams", "tiny", str(tmp_path / "no"), "--out", str(tmp_path / "x")), "is no file"),
        (("run", "tiny", "--draft", f"hierarchy(corpus={text})"), "no n-gram database"),
        (("run", "tiny", "--draft", "sequoia"), "needs a smaller model"),
    ]:
        code, _, err = ctl(capfd, *arguments)
        assert code == 2 and word in err and len(err.strip().splitlines()) == 1, arguments


@pytest.mark.slow
def test_calibration_s_runs_become_a_database(capfd, tmp_path):
    """Of runs just collected and of finished ones; what can't be written is refused before any run."""
    probe, out, again = (tmp_path / name for name in ("p.safetensors", "p.ngrams", "q.ngrams"))
    job = ("calibrate", "tiny", "--tasks", "tiny", "--out", str(probe), "-n", "40", "--fit", "20", "--workers", "1")
    job = (*job, "--no-report")
    runs = tmp_path / "p.safetensors.runs.jsonl"
    (tmp_path / "taken").touch()
    for wrong, word in [
        (tmp_path / "taken", "exists"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x", "is no folder"),
        (probe, "the job itself writes"),
        (runs, "the job itself writes"),
    ]:
        code, _, err = ctl(capfd, *job, "--ngrams", str(wrong))
        assert code == 2 and word in err and len(err.strip().splitlines()) == 1, wrong
        assert not runs.exists()
    code, printed, _ = ctl(capfd, *job, "--max-new-tokens", "300", "--ngrams", str(out))
    assert code == 0 and f"hierarchy(model={out})" in printed.replace("\n", "")
    collected = runs.read_bytes()
    assert ctl(capfd, *job, "--max-new-tokens", "300", "--ngrams", str(again), "--force")[0] == 0
    assert runs.read_bytes() == collected and again.read_bytes() == out.read_bytes()

    table, model = load_table(out), load_model("tiny", threads=1)
    written = [json.loads(line)["text"] for line in collected.splitlines()[1:] if b'"plan"' not in line[:8]]
    grams = {tuple(t[i : i + 6]) for t in map(model.tokenizer.encode, written) for i in range(len(t) - 5)}
    pairs = [(int(key) >> 32, int(key) & 0xFFFFFFFF) for key in table.keys]
    assert len(pairs) > 100 and {(*pair, *rest) for pair, rest in zip(pairs, table.rest.tolist(), strict=True)} <= grams
    drafter = Hierarchy(curve=FLAT, model=table, recent=None)
    trace, session = Trace(), model.engine.session()
    call = Call(model.prompt("48 a-9 b+6 c-3"), 80, model.eos, Keys(seed=2), Greedy())
    list(Controller(drafter=drafter).stream(session, model.tokenizer, call, trace))
    assert drafter.rates.weight("model") > 5.0 and trace.accepted > 0


def test_first_use_measures_and_changes_no_token(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    texts = []
    for drafter in (None, Hierarchy()):
        llm = llama()
        with attach(llm, Controller(drafter=drafter)):
            texts += [llm(PROMPT, max_tokens=60, temperature=0.0)["choices"][0]["text"] for _ in range(2)]
        llm.close()
    assert len(set(texts)) == 1
    assert len(list(tmp_path.glob("costs/*.json"))) == 1
    model = load_model("tiny", backend="transformers", threads=1)
    ids = torch.tensor([model.prompt("48 a-9 b+6 c-3")])
    plain = model.library.generate(ids, max_new_tokens=30, do_sample=False)
    with attach(model.library, Controller(drafter=Hierarchy()), tokenizer=model.tokenizer.tokenizer):
        drafted = model.library.generate(ids, max_new_tokens=30, do_sample=False)
    assert plain.tolist() == drafted.tolist()
    assert len(list(tmp_path.glob("costs/*.json"))) == 2
