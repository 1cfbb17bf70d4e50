"""The llama.cpp engine's limits, hidden states over split batches, and loading a GGUF file."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp as C

from reasonctl.backends.attach import attach
from reasonctl.backends.gguf import read_header
from reasonctl.backends.llama.cache_kind import SEQUENCES
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import load_gguf
from reasonctl.controller import ROOT, Controller, ControllerError, Decode, Draft, PromptLookup
from support.llama_models import PROMPT, TINY, ExitAt, open_llama


def test_hidden_rows_are_right_when_a_batch_is_split_into_ubatches():
    tokens = list(range(20, 33))
    tree = Draft(tokens=(40, 41, 42), parents=(ROOT, ROOT, 0))
    wide, narrow = (LlamaEngine(open_llama(n_batch=16, n_ubatch=size), hidden=True) for size in (16, 3))
    rows = []
    for engine in (wide, narrow):
        (step,) = engine.forward((Decode(engine.session(), tokens, tree, (0, 3)),))
        rows.append([step.hidden(node, layer).copy() for node in (ROOT, 0, 1, 2) for layer in (0, 3)])
    for a, b in zip(*rows, strict=True):
        assert np.abs(a - b).max() / np.abs(a).max() < 0.02
    assert np.abs(rows[0][0] - rows[0][2]).max() > 1e-3


def test_limits_are_named(llm):
    engine = LlamaEngine(llm, hidden=False)
    session = engine.session()
    cases = [
        (Decode(session, [5] * 300), "256"),
        (Decode(session, []), "pending"),
        (Decode(session, [5], Draft.chain(range(256))), "256"),
        (Decode(session, [5], layers=(0,)), "hidden=True"),
        (Decode(session, [5], Draft(tuple(range(20)), (ROOT,) * 20)), "fewer leaves"),
        (Decode(session, [10**6]), "token id 1000000"),
    ]
    for request, words in cases:
        with pytest.raises(ControllerError, match=words):
            engine.forward((request,))
        assert session.length == 0
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


def test_a_draft_longer_than_a_batch_is_refused_and_a_long_prompt_before_it_is_not():
    llm = open_llama(n_batch=8)
    tokens = llm.tokenize(f"{PROMPT}First a+3 55 b-6".encode(), special=True)
    engine, prompt = LlamaEngine(llm, hidden=False), tokens[:-7]
    session, chain = engine.session(), Draft.chain(tokens[-7:])
    with pytest.raises(ControllerError, match="n_batch - 1 = 7"):
        engine.forward((Decode(session, [5], Draft.chain(range(10, 18))),))
    (step,) = engine.forward((Decode(session, prompt, chain),))
    rows = [step.logits(node).copy() for node in (ROOT, 6)]
    other = engine.session()
    (step,) = engine.forward((Decode(other, tokens),))
    assert step.logits(ROOT).argmax() == rows[1].argmax() and rows[0].argmax() != rows[1].argmax()
    assert np.abs(step.logits(ROOT) - rows[1]).max() < 0.1


def test_a_request_that_failed_half_way_leaves_no_trace(monkeypatch):
    engine = LlamaEngine(open_llama(n_batch=8), hidden=False)
    session, fresh = engine.session(), engine.session()
    real, codes = C.llama_decode, iter([0, -1])
    monkeypatch.setattr(C, "llama_decode", lambda context, batch: next(codes) or real(context, batch))
    with pytest.raises(RuntimeError, match="n_vocab"):
        engine.forward((Decode(session, [20, 21, 22, 23, 24, 25, 26, 27, 28]),))
    monkeypatch.undo()
    assert session.length == 0
    (step,) = engine.forward((Decode(session, [5, 6]),))
    row = step.logits(ROOT).copy()
    (step,) = engine.forward((Decode(fresh, [5, 6]),))
    assert np.abs(step.logits(ROOT) - row).max() < 1e-3


def test_a_llama_that_its_user_closed_is_left_alone():
    llm = open_llama()
    handle, engine = attach(llm, Controller()), None
    llm.close()
    handle.detach()
    llm = open_llama()
    engine = LlamaEngine(llm, hidden=False)
    session = engine.session()
    llm.close()
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.forward((Decode(session, [5]),))
    engine.close()


def test_sequence_ids_come_back(llm):
    engine = LlamaEngine(llm, hidden=False)
    main = engine.session()
    assert main.can.branches == SEQUENCES - 1
    engine.forward((Decode(main, [5, 6], Draft((7, 8, 9), (ROOT, ROOT, 0))),))
    fork_room = main.can.branches
    main.keep([1])
    assert main.can.branches == fork_room + 1
    for _ in range(40):
        main.fork().close()
    assert main.can.branches == SEQUENCES - 1
    with pytest.raises(ControllerError, match="layers"):
        LlamaEngine(open_llama(), hidden=True).forward((Decode(engine.session(), [5], layers=(9,)),))


def test_a_cache_that_cannot_forget_is_said_so(monkeypatch):
    """A checkpoint takes a sequence, and llama.cpp gives a context no more of them than n_batch."""
    monkeypatch.setattr(C, "llama_model_is_recurrent", lambda model: True)
    llm = open_llama(n_batch=5)
    engine = LlamaEngine(llm, hidden=False)
    session = engine.session()
    assert (session.can.rollback, session.can.branches, session.can.fork) == (False, 0, False)
    engine.forward((Decode(session, [5, 6]),))
    for wrong in (lambda: session.rollback(1), session.fork):
        with pytest.raises(ControllerError, match="recurrent and its checkpoints need 6 sequences.*n_batch=6 or more"):
            wrong()
    with pytest.raises(ControllerError, match="no drafts"):
        engine.forward((Decode(session, [7], Draft.chain([8])),))
    engine.close()
    with pytest.raises(ControllerError, match="checkpoints need 6 sequences"):
        attach(llm, Controller(exit=ExitAt(0)))
    handle = attach(llm, Controller(drafter=PromptLookup()))
    first = llm(PROMPT, max_tokens=5, temperature=0.0)["choices"][0]["text"]
    assert llm(PROMPT, max_tokens=5, temperature=0.0)["choices"][0]["text"] == first
    assert "nothing is drafted" in handle.trace.warnings[0]
    handle.detach()
    monkeypatch.setattr(C, "llama_model_n_swa", lambda model: 8)
    llm = open_llama(swa_full=False)
    with pytest.raises(ControllerError, match="states and windows that forget; load it with swa_full=True"):
        attach(llm, Controller(exit=ExitAt(0)))


def test_a_loaded_model_states_its_facts():
    model = load_gguf(TINY, context=200)  # llama.cpp counts context in 256s
    library = model.library
    assert (model.backend, model.depth, model.context) == ("llama.cpp", 4, 256)
    assert model.width == library.n_embd() and library.token_eos() in model.eos
    assert model.settings["quantisation"] not in ("", "unknown") and model.can.rollback
    text = model.tokenizer.decode(model.prompt("1 a+2"))
    assert text == "Q: 1 a+2\n<think>\n"
    assert model.tokenizer.text(library.token_eos()) == "<eos>"
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
        ("empty", "empty"),
        ("text", "no GGUF"),
        ("version", "version 99"),
        ("cut", "cut off"),
        ("header", "cut off"),
        ("counts", "damaged"),
        ("lengths", "damaged"),
    ],
)
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


def test_a_tokenizer_keeps_its_model_alive():
    """A freed model is a segmentation fault, so another process is asked."""
    code = (
        "import gc; from reasonctl.backends.load import load_model; "
        "t = load_model('tiny', threads=1).tokenizer; gc.collect(); print(t.decode(t.encode('Wait ok')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Wait ok")


def test_what_would_end_the_process_or_be_read_as_another_type_is_refused(tmp_path):
    """llama.cpp aborts on two tokens of one text; a chat template is compiled when the file is opened."""
    data = TINY.read_bytes()
    vocabulary = data.index(b"tokenizer.ggml.tokens")
    token = data.index(b"\x01\x00\x00\x00\x00\x00\x00\x00s\x01", vocabulary) + 8
    number = data.index(b"llama.context_length") + len(b"llama.context_length")
    path = tmp_path / "m.gguf"
    for changed, words in (
        (data[:token] + b"t" + data[token + 1 :], "holds the token b't' twice"),
        (data.replace(b"{%- endfor -%}", b"{%- endfox -%}"), "chat template that can't be read"),
        (data[:number] + struct.pack("<If", 6, 1.5) + data[number + 8 :], "context_length is 1.5, no whole number"),
        (data.replace(b"llama.block_count\x04", b"llama.block_count\x05", 1), None),
    ):
        path.write_bytes(changed)
        if words is None:
            assert read_header(path)["llama.block_count"] == 4  # another type of whole number
            continue
        with pytest.raises(ControllerError, match=words) as caught:
            load_gguf(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
