"""Chat calls with pictures: the handler's cache is kept, on every kind of cache.

No real picture model runs here: a handler of the test's own puts embeddings into the cache, as the library's do.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp as C

from reasonctl.backends.attach import attach
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.controller import Controller, ControllerError, Markers, PromptLookup, Thinking
from support.gguf_models import WIDTH
from support.llama_models import ExitAt, bare
from support.recorded_rows import Recording, open_gguf

NAMES = ("jamba", "qwen35", "gemma3")
PICTURE = 7
"""Embeddings of one picture."""
SEEDS = (1, 2)
BEFORE, AFTER = "Q: 52 a+3 ", " b-6\n<think>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def embed(llm, rows) -> None:
    """Feed embeddings to the Llama's own sequence, after what it holds."""
    n = len(rows)
    batch = C.llama_batch_init(4 * n, rows.shape[1], 1)
    batch.n_tokens = n
    ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
    for i in range(n):
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 0
    for i in range(4 * n):  # some architectures have four positions for each embedding
        batch.pos[i] = llm.n_tokens + i % n
    assert C.llama_decode(llm.ctx, batch) == 0
    C.llama_batch_free(batch)
    llm.n_tokens += len(rows)


class Handler:
    """A chat handler in the library's manner: text, a picture of the seed in the message, and text again."""

    def __init__(self, last: str = AFTER) -> None:
        self.last, self.calls = last, 0

    def feed(self, llm, seed: int) -> list[int]:
        llm.reset()
        llm._ctx.kv_cache_clear()
        llm.eval(llm.tokenize(BEFORE.encode(), special=True))
        embed(llm, np.random.default_rng(seed).normal(size=(PICTURE, WIDTH)).astype(np.float32))
        if self.last:
            llm.eval(llm.tokenize(self.last.encode(), add_bos=False, special=True))
        return llm.input_ids[: llm.n_tokens].tolist()

    def __call__(self, *, llama, messages, max_tokens=None, temperature=0.0, stream=False, seed=None, **_):
        self.calls += 1
        prompt = self.feed(llama, int(messages[0]["content"][0]["image_url"]["url"]))
        return llama.create_completion(prompt, max_tokens=max_tokens, temperature=temperature, stream=stream)


def picture(seed: int):
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": str(seed)}}]}]


def open_seeing(folder, name, **handler):
    llm = open_gguf(folder, name)
    llm.chat_handler = Handler(**handler)
    return llm


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_seen_as_in_stock(folder, name):
    stock, llm = open_seeing(folder, name), open_seeing(folder, name)
    arguments = {"max_tokens": 14, "temperature": 0.0}
    expected = [bare(stock.create_chat_completion(picture(seed), **arguments)) for seed in SEEDS]
    assert expected[0] not in expected[1:]  # what is seen decides what is written
    for controller in (Controller(), Controller(drafter=PromptLookup())):
        with attach(llm, controller) as handle:
            for _ in range(2):
                for seed, want in zip(SEEDS, expected, strict=True):
                    assert bare(llm.create_chat_completion(picture(seed), **arguments)) == want
            assert handle.runs == 2 * len(SEEDS) and not handle.trace.warnings
            chunks = list(llm.create_chat_completion(picture(SEEDS[1]), stream=True, **arguments))
            text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
            assert text == expected[1]["choices"][0]["text"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", ["exit", "budget 0"])
def test_an_exit_and_a_budget_go_on_from_the_picture(folder, name, limit):
    """Every row is that of a Llama which was shown the same picture and fed the same tokens."""
    llm, plain = open_seeing(folder, name), open_gguf(folder, name)
    script = LlamaTokenizer(llm).encode("52 a+3 55\nWait, b-6 49\nWait, c+8 57\n\nok</think>")
    policy, rule = Recording(script), ExitAt(1, trials=True)
    rule.layers = lambda depth: (1,)
    thinking = Thinking(Markers("<think>", "</think>"), "\n</think>\n")
    limits = {"exit": rule} if limit == "exit" else {"thinking": thinking, "budget": 0}
    with attach(llm, Controller(policy=policy, **limits)) as handle:
        llm.create_chat_completion(picture(3), max_tokens=45)
        assert handle.trace.closed_by == limit.split()[0]
        recorded = policy.rows
    start = len(Handler().feed(plain, 3))
    assert len(recorded) > 8
    for tokens, row in recorded:
        Handler().feed(plain, 3)
        if len(tokens) > start:
            plain.eval(tokens[start:])
        expected = np.ctypeslib.as_array(C.llama_get_logits_ith(plain.ctx, -1), (len(row),))
        assert np.abs(row - expected).max() <= 5e-4


def test_what_stands_in_a_picture_s_places_is_no_token_that_is_written(folder):
    llm = open_seeing(folder, "lfm2")
    llm.input_ids[:] = 10**6  # whatever stood in memory
    with attach(llm, Controller()) as handle:
        llm.create_chat_completion(picture(1), max_tokens=3)
        assert handle.trace.prompt_tokens == len(llm.chat_handler.feed(llm, 1))
        before = len(llm.tokenize(BEFORE.encode(), special=True))
        assert set(llm.input_ids[before : before + PICTURE].tolist()) == {max(llm.token_bos(), 0)}


def test_what_can_not_be_had_after_a_picture_is_said_by_name(folder):
    llm = open_seeing(folder, "lfm2", last="")
    with attach(llm, Controller()), pytest.raises(ControllerError, match="ends with a picture"):
        llm.create_chat_completion(picture(1), max_tokens=3)
    llm = open_seeing(folder, "lfm2")
    policy = Recording([])
    policy.layers = lambda depth: (1,)
    with attach(llm, Controller(policy=policy)), pytest.raises(ControllerError, match="hidden states and drafts"):
        llm.create_chat_completion(picture(1), max_tokens=3)

    def other(*, llama, **_):
        llama.eval([5, 6])
        return llama.create_completion([5, 6, 7], max_tokens=2)

    llm.chat_handler = other
    with attach(llm, Controller()), pytest.raises(ControllerError, match="another prompt"):
        llm.create_chat_completion(picture(1), max_tokens=3)
    with attach(llm, Controller()):
        llm.chat_handler = lambda **_: "answer"
        assert llm.create_chat_completion(picture(1)) == "answer"
        assert llm("Q: 1", max_tokens=2)["usage"]["completion_tokens"] == 2  # the turn was given back


def test_a_handler_waits_for_the_run_that_is_read(folder):
    """Its prompt would go into the cache of a run that another thread reads."""
    llm = open_seeing(folder, "lfm2")
    arguments = {"max_tokens": 20, "temperature": 0.0}
    with attach(llm, Controller()):
        alone = "".join(chunk["choices"][0]["text"] for chunk in llm("Q: 1 ", stream=True, **arguments))
        stream = llm("Q: 1 ", stream=True, **arguments)
        text = next(stream)["choices"][0]["text"]
        seen = []
        thread = threading.Thread(target=lambda: seen.append(llm.create_chat_completion(picture(1), **arguments)))
        thread.start()
        thread.join(0.1)
        assert not seen and not llm.chat_handler.calls
        assert text + "".join(chunk["choices"][0]["text"] for chunk in stream) == alone
        thread.join(20)
        assert len(seen) == 1
