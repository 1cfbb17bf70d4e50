"""llama.cpp: an attached Llama's calls against stock calls, exits, prefix reuse, loading, and what is refused."""

from __future__ import annotations

import ctypes
import struct
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import Llama, LlamaRAMCache, LogitsProcessorList, StoppingCriteriaList
from llama_cpp import llama_cpp as C
from reasonctl.backends import llama as backend
from reasonctl.backends.attach import attach
from reasonctl.backends.llama import LlamaEngine
from reasonctl.backends.llama_load import load_gguf
from reasonctl.backends.llama_tokenizer import LlamaTokenizer
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import ROOT, Controller, ControllerError, Cues, Decision, Decode, Draft, Markers, PromptLookup

TINY = tiny_folder() / "tiny.gguf"
PROMPT = "Q: 52 a+3 b-6 c+8\n<think>\n"
CHAT = [{"role": "user", "content": "52 a+3 b-6 c+8"}]
F32 = 0


def open_llama(**arguments) -> Llama:
    given = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False, **arguments}
    return Llama(str(TINY), **given)


@pytest.fixture(scope="module")
def stock():
    return open_llama()


@pytest.fixture
def llm():
    made = open_llama()
    yield made
    made.close()


def bare(answer):
    """A response, or the list of its chunks, without what differs between two stock calls."""
    if not isinstance(answer, dict):
        return [bare(chunk) for chunk in answer]
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


CALLS = {
    "call": lambda llm, **more: llm(PROMPT, **more),
    "completion": lambda llm, **more: llm.create_completion(PROMPT, **more),
    "ids": lambda llm, **more: llm.create_completion(llm.tokenize(PROMPT.encode(), special=True), **more),
    "chat": lambda llm, **more: llm.create_chat_completion(CHAT, **more),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", list(CALLS))
def test_an_inert_controller_changes_nothing(stock, llm, call, stream):
    handle = attach(llm, Controller())
    for more in ({"max_tokens": 12}, {"max_tokens": 30, "repeat_penalty": 1.4, "frequency_penalty": 0.3}):
        arguments = {"temperature": 0.0, "stream": stream, **more}
        expected = bare(CALLS[call](stock, **arguments))
        assert bare(CALLS[call](llm, **arguments)) == expected
    assert handle.runs == 2
    assert handle.trace.finish_reason == "length" and len(handle.trace.tokens) == 30


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_and_eos_end_a_call_as_in_stock(stock, llm, stream):
    handle = attach(llm, Controller())
    full = stock(PROMPT, max_tokens=20, temperature=0.0)["choices"][0]["text"]
    stop = full[7:9]
    eos, prompt = stock.token_eos(), len(stock.tokenize(PROMPT.encode(), special=True))

    def end(ids, scores):
        scores[eos] = 1e9 if len(ids) >= prompt + 6 else -1e9
        return scores

    for more in ({"stop": [stop]}, {"logits_processor": LogitsProcessorList([end])}, {"logit_bias": {eos: 1e9}}):
        arguments = {"temperature": 0.0, "max_tokens": 20, "stream": stream, **more}
        expected = bare(stock(PROMPT, **arguments))
        assert bare(llm(PROMPT, **arguments)) == expected
        last = expected[-1] if stream else expected
        assert last["choices"][0]["finish_reason"] == "stop"
    assert handle.runs == 3 and handle.trace.finish_reason == "stop"


def test_stopping_criteria_see_what_stock_shows_them(stock, llm):
    attach(llm, Controller())
    results = []
    for one in (stock, llm):
        seen = []

        def long_enough(ids, scores, seen=seen):
            seen.append(ids.tolist())
            return len(ids) >= 25

        criteria = StoppingCriteriaList([long_enough])
        answer = one.create_completion(PROMPT, max_tokens=40, temperature=0.0, stopping_criteria=criteria)
        results.append((bare(answer), seen))
    assert results[0] == results[1]
    assert results[0][0]["choices"][0]["finish_reason"] == "stop"


def test_a_budget_that_ends_inside_a_character_is_overrun_as_in_stock(stock, llm):
    attach(llm, Controller())
    pieces = stock.tokenize("€".encode(), add_bos=False)
    start = len(stock.tokenize(PROMPT.encode(), special=True))
    assert len(pieces) == 3

    def write(ids, scores):
        scores[pieces[(len(ids) - start) % 3]] = 1e9
        return scores

    processors = LogitsProcessorList([write])
    arguments = {"max_tokens": 4, "temperature": 0.0, "logits_processor": processors}
    expected = bare(stock(PROMPT, **arguments))
    assert expected["choices"][0]["text"].startswith("€€")
    assert bare(llm(PROMPT, **arguments)) == expected


def test_the_cache_is_reused_between_calls_as_in_stock(stock, llm, monkeypatch):
    handle = attach(llm, Controller())
    fed, real = [], C.llama_decode
    monkeypatch.setattr(C, "llama_decode", lambda ctx, batch: fed.append(batch.n_tokens) or real(ctx, batch))
    counts = []
    for one in (stock, llm):
        one.reset()
        fed.clear()
        first = one(PROMPT, max_tokens=6, temperature=0.0)["choices"][0]["text"]
        second = one(PROMPT + first + " 7", max_tokens=6, temperature=0.0)
        again = one(PROMPT, max_tokens=6, temperature=0.0)
        counts.append((list(fed), bare(second), bare(again)))
    assert counts[0] == counts[1]
    assert handle.runs == 3 and counts[0][0][6] < 10  # the second prompt's shared part was not fed again


def test_the_library_s_own_cache_and_methods_still_work(stock, llm):
    attach(llm, Controller())
    llm.set_cache(LlamaRAMCache())
    expected = [bare(stock(PROMPT + extra, max_tokens=8, temperature=0.0)) for extra in ("", "1 2", "")]
    assert [bare(llm(PROMPT + extra, max_tokens=8, temperature=0.0)) for extra in ("", "1 2", "")] == expected
    tokens = llm.tokenize(PROMPT.encode(), special=True)
    llm.reset()
    llm.eval(tokens)
    assert llm.sample(temp=0.0) == next(llm.generate(tokens, temp=0.0))
    assert llm.n_tokens == len(tokens)


def test_generate_continues_without_reset(stock, llm):
    attach(llm, Controller())
    tokens = stock.tokenize(PROMPT.encode(), special=True)
    lines = []
    for one in (stock, llm):
        one.reset()
        one.eval(tokens[:5])
        out = one.generate(tokens[5:], temp=0.0, reset=False)
        lines.append([next(out) for _ in range(8)])
    assert lines[0] == lines[1]


def test_a_prompt_longer_than_n_batch_is_fed_in_parts(stock):
    narrow = open_llama(n_batch=16)
    plain = bare(narrow(PROMPT * 4, max_tokens=8, temperature=0.0))
    handle = attach(narrow, Controller())
    assert bare(narrow(PROMPT * 4, max_tokens=8, temperature=0.0)) == plain
    assert handle.trace.prompt_tokens > 48


def first(n: int, tokens, eos: int) -> list[int]:
    """The first n tokens; stock generates past EOS when asked directly, we end there."""
    found = list(islice(tokens, n))
    return found[: found.index(eos) + 1] if eos in found else found


def margin(llm: Llama, tokens) -> float:
    """Distance of the two largest logits after `tokens`."""
    engine = LlamaEngine(llm, hidden=False)
    (step,) = engine.forward((Decode(engine.session(), list(tokens)),))
    second, first = np.sort(step.logits(ROOT))[-2:]
    engine.close()
    return float(first - second)


def test_drafts_change_the_number_of_forwards_and_not_the_tokens():
    plain, drafted = open_llama(type_k=F32, type_v=F32), open_llama(type_k=F32, type_v=F32)
    handle = attach(drafted, Controller(drafter=PromptLookup(longest=2, size=4)))
    ties = accepted = 0
    for question in ("12 a+1 b+1 c+1", "52 a+3 b-6", "52 52 52 52", "a+1 a+1 a+1"):
        prompt = plain.tokenize(f"Q: {question}\n<think>\n".encode(), special=True)
        expected, got = (first(60, one.generate(prompt, temp=0.0), one.token_eos()) for one in (plain, drafted))
        accepted += handle.trace.accepted
        assert handle.trace.forwards < len(handle.trace.tokens)
        if got != expected:
            split = next(i for i, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1])
            assert margin(open_llama(), prompt + expected[:split]) < 1e-2
            ties += 1
    assert accepted > 0 and ties <= 1


class Scripted:
    """A policy that writes a given text while thinking and another one as the answer."""

    def __init__(self, tokenizer, think: str, answer: str) -> None:
        self.tokens = {"think": tokenizer.encode(think), "answer": tokenizer.encode(answer)}
        self.seen = []

    def start(self):
        return ("think", 0)

    def step(self, state, row):
        phase, i = state if state[0] == row.phase else (row.phase, 0)
        self.seen.append(list(row.tokens))
        return (phase, i + 1), self.tokens[phase][i]


class ExitAt:
    """Exits at cue number `at`; remembers what it saw."""

    cues, suffix, max_cues = Cues(["wait", "paragraph"]), "\n</think>\n", 100
    markers = Markers("<think>", "</think>")

    def __init__(self, at: float, trials: bool = False) -> None:
        self.at, self.trials, self.boundaries, self.answers = at, trials, [], []

    def layers(self, depth):
        return (1, depth - 1)

    def decide(self, at):
        self.boundaries.append((list(at.tokens), at.cue, at.hidden))
        if self.trials:
            self.answers.append((yield from at.answer(4)))
        return Decision(at.cue.index >= self.at, at.cue.name, at.cue.index, at.cue.first - at.prompt, 1.0, 0.5)


def scripted(llm: Llama, rule: ExitAt) -> Controller:
    think = "52 a+3 55\nWait, b-6 49\nWait, c+8 57\n\nok</think>\nanswer is 57<eos>"
    return Controller(exit=rule, policy=Scripted(LlamaTokenizer(llm), think, "answer is 49<eos>"))


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_exit_takes_the_cue_s_place_and_is_streamed_once(llm, stream, trials):
    rule = ExitAt(1, trials)
    handle = attach(llm, scripted(llm, rule))
    answer = llm(PROMPT, max_tokens=100, stream=stream)
    chunks = list(answer) if stream else [answer]
    text, seen = "", []
    for chunk in chunks:
        text += chunk["choices"][0]["text"]
        seen.append(text)
    expected = "52 a+3 55\nWait, b-6 49\n\n</think>\nanswer is 49"
    assert text == expected
    assert all(expected.startswith(part) for part in seen)  # no retracted cue was ever shown
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    tokens = handle.trace.tokens
    assert tokens.count(llm.tokenize(b"</think>", add_bos=False, special=True)[0]) == 1
    assert handle.trace.exit.index == 1 and handle.trace.finish_reason == "stop"
    start, length = handle.trace.forced
    tokenizer = LlamaTokenizer(llm)
    assert tokenizer.decode(tokens[start : start + length]) == "\n</think>\n"
    assert rule.answers == ([tokenizer.encode("answer is 49<eos>")[:4]] * 2 if trials else [])
    assert llm.n_tokens == handle.trace.prompt_tokens + len(tokens) - 1
    assert llm._input_ids.tolist()[handle.trace.prompt_tokens :] == tokens[:-1]


def test_the_cache_after_an_exit_is_that_of_a_fresh_prompt(stock, llm):
    handle = attach(llm, scripted(llm, ExitAt(0)))
    llm(PROMPT, max_tokens=100)
    tokens = llm._input_ids.tolist()
    handle.controller.exit = handle.controller.policy = None
    continued, fresh = (first(5, one.generate([*tokens, 40], temp=0.0), 1) for one in (llm, stock))
    assert continued == fresh


def test_the_hidden_state_at_a_cue_is_that_of_its_last_token(llm):
    rule = ExitAt(float("inf"))
    handle = attach(llm, scripted(llm, rule))
    llm(PROMPT, max_tokens=100)
    handle.detach()
    assert [cue.name for _, cue, _ in rule.boundaries] == ["wait", "wait", "paragraph"]
    assert "highest score" in handle.trace.why or not handle.trace.exit
    engine = LlamaEngine(llm, hidden=True)
    for tokens, cue, hidden in rule.boundaries:
        (step,) = engine.forward((Decode(engine.session(), tokens[: cue.last + 1], layers=(1, 3)),))
        for layer in (1, 3):
            expected = step.hidden(ROOT, layer)
            assert np.abs(hidden[layer] - expected).max() / np.abs(expected).max() < 0.02
    engine.close()


def test_max_tokens_is_the_run_s_budget_and_an_exit_counts(llm):
    handle = attach(llm, scripted(llm, ExitAt(0)))
    answer = llm(PROMPT, max_tokens=11)
    assert answer["usage"]["completion_tokens"] == 11 == len(handle.trace.tokens)
    assert answer["choices"][0]["finish_reason"] == "length" == handle.trace.finish_reason


def test_hidden_rows_are_right_when_a_batch_is_split_into_ubatches():
    tokens = list(range(20, 33))
    tree = Draft(tokens=(40, 41, 42), parents=(ROOT, ROOT, 0))
    wide, narrow = (
        LlamaEngine(open_llama(n_batch=16, n_ubatch=size), hidden=True) for size in (16, 3)
    )
    rows = []
    for engine in (wide, narrow):
        (step,) = engine.forward((Decode(engine.session(), tokens, tree, (0, 3)),))
        rows.append([step.hidden(node, layer).copy() for node in (ROOT, 0, 1, 2) for layer in (0, 3)])
    for a, b in zip(*rows, strict=True):
        assert np.abs(a - b).max() / np.abs(a).max() < 0.02
    assert np.abs(rows[0][0] - rows[0][2]).max() > 1e-3


def library_law(llm: Llama, logits, generated, **arguments):
    """(ids, probabilities) that llama.cpp's own sampler chain leaves for these logits."""
    sampler = llm._init_sampler(**arguments)
    for token in generated:
        sampler.accept(token)
    data = (C.llama_token_data * len(logits))()
    for i, value in enumerate(logits):
        data[i].id, data[i].logit, data[i].p = i, value, 0.0
    array = C.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    C.llama_sampler_apply(sampler.sampler, ctypes.byref(array))
    kept = sorted((array.data[i].id, array.data[i].logit) for i in range(array.size))
    values = np.array([value for _, value in kept], dtype=np.float64)
    weights = np.exp(values - values.max())
    return [token for token, _ in kept], weights / weights.sum()


@pytest.mark.parametrize(
    "arguments",
    [
        {"temp": 0.8},
        {"temp": 0.3, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
        {"temp": 1.3, "top_k": 0, "top_p": 0.7, "min_p": 0.0},
        {"temp": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.2},
        {"temp": -1.0},
        {"temp": 0.7, "repeat_penalty": 1.5, "frequency_penalty": 0.4, "presence_penalty": 0.6},
    ],
)
def test_the_call_s_law_is_the_library_s(llm, arguments):
    from reasonctl.backends.llama_sampling import DEFAULTS, call_policy

    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal(llm.n_vocab())).astype(np.float32)
    generated = [int(token) for token in rng.integers(0, 12, 80)]
    prompt = [int(logits.argmax())] * 7  # the library's penalties don't see the prompt
    policy = call_policy({**DEFAULTS, **arguments}, prompt=len(prompt), window=64)
    ids, expected = library_law(llm, logits, generated, **arguments)

    class Row:
        tokens = prompt + generated

        def __init__(self, uniform):
            self._uniform, self.logits = uniform, logits

        def uniform(self):
            return self._uniform

    grid = (np.arange(4000) + 0.5) / 4000
    drawn = [policy.step(None, Row(uniform))[1] for uniform in grid]
    assert set(drawn) <= set(ids)
    counts = np.array([drawn.count(token) for token in ids]) / len(grid)
    assert np.abs(counts - expected).max() < 1 / 1000


def test_seeds_decide_the_draws_as_in_stock(llm):
    attach(llm, Controller())

    def text(**more):
        return llm(PROMPT, max_tokens=24, temperature=1.5, top_p=1.0, min_p=0.0, top_k=0, **more)["choices"][0]["text"]

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text() != text()
    llm.set_seed(5)
    one = text()
    llm.set_seed(5)
    assert text() == one


def test_the_controller_s_own_policy_wins_and_says_so_once(llm, recwarn):
    handle = attach(llm, scripted(llm, ExitAt(float("inf"))))
    llm(PROMPT, max_tokens=5)
    assert handle.trace.warnings == [] and not recwarn.list
    for _ in range(2):
        text = llm(PROMPT, max_tokens=5, temperature=0.0, top_k=3)["choices"][0]["text"]
        assert handle.trace.warnings and "temperature, top_k" in handle.trace.warnings[0]
    assert text.startswith("52 a+3")
    assert len([w for w in recwarn.list if "own policy" in str(w.message)]) == 1


def test_detach_gives_the_llama_back(stock):
    llm = open_llama()
    expected = bare(stock(PROMPT, max_tokens=10, temperature=0.0))
    with attach(llm, scripted(llm, ExitAt(0))) as handle:
        assert C.llama_n_seq_max(llm.ctx) == backend.SEQUENCES
        assert bare(llm(PROMPT, max_tokens=10)) != expected
    handle.detach()
    assert C.llama_n_seq_max(llm.ctx) == 1
    assert "generate" not in vars(llm) and "_create_completion" not in vars(llm)
    assert bare(llm(PROMPT, max_tokens=10, temperature=0.0)) == expected
    assert handle.runs == 1
    attach(llm, Controller()).detach()


def test_no_callback_is_installed_unless_states_are_read(llm):
    with attach(llm, Controller(drafter=PromptLookup())):
        assert not llm._ctx.params.cb_eval
    with attach(llm, Controller(exit=ExitAt(0))):
        assert llm._ctx.params.cb_eval


@pytest.mark.parametrize(
    "more",
    [{"typical_p": 0.5}, {"mirostat_mode": 2}, {"grammar": object()}, {"logprobs": 3}],
    ids=lambda more: next(iter(more)),
)
def test_what_cannot_be_honoured_is_refused_by_name(llm, more):
    attach(llm, Controller())
    with pytest.raises(ControllerError, match=next(iter(more))):
        llm.create_completion(PROMPT, **more)
    assert llm(PROMPT, max_tokens=2, temperature=0.0)["usage"]["completion_tokens"] == 2


def test_attaching_twice_or_over_a_draft_model_is_refused(llm):
    handle = attach(llm, Controller())
    with pytest.raises(ControllerError, match="detach"):
        attach(llm, Controller())
    handle.detach()
    llm.draft_model = lambda ids: ids
    with pytest.raises(ControllerError, match="draft_model"):
        attach(llm, Controller())


def test_a_call_made_inside_a_stream_ends_the_stream_loudly(llm):
    attach(llm, Controller())
    outer = llm(PROMPT, max_tokens=10, temperature=0.0, stream=True)
    next(outer)
    inner = llm("Q: 1\n", max_tokens=3, temperature=0.0)
    assert inner["usage"]["completion_tokens"] == 3
    with pytest.raises(RuntimeError, match="another call"):
        list(outer)


def test_limits_are_named(llm):
    engine = LlamaEngine(llm, hidden=False)
    session = engine.session()
    cases = [
        (Decode(session, [5] * 300), "256"),
        (Decode(session, []), "pending"),
        (Decode(session, [5], layers=(0,)), "hidden=True"),
        (Decode(session, [5], Draft(tuple(range(20)), (ROOT,) * 20)), "fewer leaves"),
    ]
    for request, words in cases:
        with pytest.raises(ControllerError, match=words):
            engine.forward((request,))
        assert session.length == 0
    with pytest.raises(RuntimeError, match="n_vocab"):
        engine.forward((Decode(session, [10**6]),))
    full = engine.session()
    engine.forward((Decode(full, [5] * 250),))
    with pytest.raises(ControllerError, match="no room"):
        engine.forward((Decode(session, [5] * 10),))
    full.close()
    engine.forward((Decode(session, [5] * 10),))
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.forward((Decode(session, [5]),))
    session.close()


def test_sequence_ids_come_back(llm):
    engine = LlamaEngine(llm, hidden=False)
    main = engine.session()
    assert main.can.branches == backend.SEQUENCES - 1
    engine.forward((Decode(main, [5, 6], Draft((7, 8, 9), (ROOT, ROOT, 0))),))
    fork_room = main.can.branches
    main.keep([1])
    assert main.can.branches == fork_room + 1
    for _ in range(40):
        main.fork().close()
    assert main.can.branches == backend.SEQUENCES - 1
    with pytest.raises(ControllerError, match="layers"):
        LlamaEngine(open_llama(), hidden=True).forward((Decode(engine.session(), [5], layers=(9,)),))


def test_a_cache_that_cannot_forget_is_said_so(llm, monkeypatch):
    monkeypatch.setattr(C, "llama_model_is_recurrent", lambda model: True)
    engine = LlamaEngine(llm, hidden=False)
    session = engine.session()
    assert (session.can.rollback, session.can.branches, session.can.fork) == (False, 0, False)
    engine.forward((Decode(session, [5, 6]),))
    for wrong in (lambda: session.rollback(1), session.fork):
        with pytest.raises(ControllerError, match="recurrent"):
            wrong()
    with pytest.raises(ControllerError, match="no drafts"):
        engine.forward((Decode(session, [7], Draft.chain([8])),))
    engine.close()
    handle = attach(llm, Controller(exit=ExitAt(0)))
    with pytest.raises(ControllerError, match="early exits are refused"):
        llm(PROMPT, max_tokens=3)
    handle.detach()
    attach(llm, Controller(drafter=PromptLookup()))
    first = llm(PROMPT, max_tokens=5, temperature=0.0)["choices"][0]["text"]
    assert llm(PROMPT, max_tokens=5, temperature=0.0)["choices"][0]["text"] == first


def test_a_loaded_model_states_its_facts():
    model = load_gguf(TINY, context=200)  # llama.cpp counts context in 256s
    library = model.library
    assert (model.backend, model.depth, model.context) == ("llama.cpp", 4, 256)
    assert model.width == library.n_embd() and library.token_eos() in model.eos
    assert model.settings["quantisation"] not in ("", "unknown") and model.can.rollback
    text = model.tokenizer.decode(model.prompt("1 a+2"))
    assert text == "Q: 1 a+2\n<think>\n"
    assert model.tokenizer.encode("ok</think>")[-1] == library.tokenize(b"</think>", add_bos=False, special=True)[0]
    assert dict(model.tokenizer.pieces())[model.tokenizer.encode("</think>")[0]] == b"</think>"
    assert model.fingerprint() == load_gguf(TINY).fingerprint()
    assert load_gguf(TINY).context == int(library.metadata["llama.context_length"])


def damaged(tmp_path: Path, kind: str) -> Path:
    data, path = TINY.read_bytes(), tmp_path / f"{kind}.gguf"
    path.write_bytes(
        {
            "empty": b"",
            "text": b"hello, this is no model",
            "version": data[:4] + struct.pack("<I", 99) + data[8:],
            "cut": data[: len(data) // 2],
            "header": data[:3000],
            "counts": data[:16] + struct.pack("<Q", 1 << 60) + data[24:],
            "lengths": data[:24] + struct.pack("<Q", 1 << 50) + data[32:],
        }[kind]
    )
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "empty"), ("text", "no GGUF"), ("version", "version 99"), ("cut", "cut off"), ("header", "cut off"),
        ("counts", "damaged"), ("lengths", "damaged"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line(tmp_path, capfd, kind, words):
    with pytest.raises(ControllerError, match=words) as caught:
        load_gguf(damaged(tmp_path, kind))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    with pytest.raises(ControllerError, match="there is no file"):
        load_gguf(tmp_path / "nothing.gguf")
    with pytest.raises(ControllerError, match="folder"):
        load_gguf(tmp_path)
    with pytest.raises(ControllerError, match="-1"):
        load_gguf(TINY, context=-1)
