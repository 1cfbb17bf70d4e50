"""The internals of llama-cpp-python and xgrammar that we rely on, one test each: a failure names hook and version."""

from __future__ import annotations

import inspect
import types

import llama_cpp
import numpy as np
import pytest
from llama_cpp import Llama, LlamaGrammar, _internals
from llama_cpp import llama_cpp as C

from reasonctl.backends.grammar import Compiler
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import without_amx
from reasonctl.backends.llama.native import unlogged
from reasonctl.backends.llama.sampling import DEFAULTS, check_processors
from reasonctl.controller import ROOT, ControllerError, Decode, Draft
from support.hooks import Seen, check_table, checks
from support.llama_models import CHAT, TINY, open_llama
from support.llama_models import PROMPT as TEXT
from support.recorded_rows import BOUND, open_gguf


@checks("_create_completion")
def test_llama_cpp_python_0_3_36_create_completion(llm):
    def refuse(*args, **named):
        raise Seen

    llm._create_completion = refuse
    for call in (lambda: llm(TEXT), lambda: llm.create_completion(TEXT), lambda: llm.create_chat_completion(CHAT)):
        with pytest.raises(Seen):
            call()


@checks("generate")
def test_llama_cpp_python_0_3_36_generate(llm):
    given = {}

    def generate(tokens, **arguments):
        given.update(arguments)
        raise Seen

    parameters = inspect.signature(llm.generate).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    llm.generate = generate
    stream = llm.create_completion(TEXT, stream=True, temperature=0.3)
    with pytest.raises(Seen):
        next(stream)
    assert given["temp"] == 0.3 and {"stopping_criteria", *DEFAULTS} <= set(given)


@checks("_requires_eval")
def test_llama_cpp_python_0_3_36_record_of_its_cache(llm):
    prompt = llm.tokenize(TEXT.encode(), special=True)
    next(llm.generate(prompt, temp=0.0))
    assert llm.n_tokens == len(prompt) and llm.input_ids[: len(prompt)].tolist() == prompt
    assert llm._input_ids.tolist() == prompt and llm._requires_eval is False
    assert llm.last_n_tokens_size == 64 and len(llm.scores) >= 1


@checks("_seed")
def test_llama_cpp_python_0_3_36_seed(llm):
    seeds = []

    def generate(tokens, **arguments):
        seeds.append(llm._seed)
        yield llm.token_eos()

    llm.generate = generate
    llm(TEXT, max_tokens=1, seed=11)
    llm.set_seed(5)
    assert seeds == [11] and llm._seed == 5 and isinstance(llama_cpp.LLAMA_DEFAULT_SEED, int)


@checks("MinTokensLogitsProcessor")
def test_llama_cpp_python_0_3_36_processors_of_the_library(llm):
    given = []

    def generate(tokens, logits_processor=None, **arguments):
        given.extend(logits_processor or ())
        yield llm.token_eos()

    llm.generate = generate
    llm(TEXT, max_tokens=1, logit_bias={5: 1.0})
    given.append(llama_cpp.MinTokensLogitsProcessor(3, llm.token_eos()))
    assert len(given) == 2
    check_processors(given, "nothing")  # raises for a processor that it doesn't know


@checks("_grammar")
def test_llama_cpp_python_0_3_36_grammar():
    made = LlamaGrammar.from_string('root ::= "a"')
    assert made._grammar == 'root ::= "a"' and made._root == "root"


@checks("_model")
def test_llama_cpp_python_0_3_36_model(llm):
    assert C.llama_vocab_n_tokens(llm._model.vocab) == llm.n_vocab()
    assert isinstance(llm._model.vocab_type(), int) and isinstance(llm._model.add_bos_token(), bool)
    (token,) = llm._model.tokenize(b"</think>", add_bos=False, special=True)
    assert llm._model.token_get_text(token) == "</think>"


@checks("_internals.LlamaContext")
def test_llama_cpp_python_0_3_36_context(llm):
    assert type(llm._ctx) is _internals.LlamaContext and llm._ctx.ctx is llm.ctx
    context = llm._ctx
    context.close()
    assert context.ctx is None
    llm._ctx = _internals.LlamaContext(model=llm._model, params=llm.context_params, verbose=llm.verbose)
    assert llm(TEXT, max_tokens=2, temperature=0.0)["usage"]["completion_tokens"] == 2


@checks("_exit_stack")
@checks("_lora_adapter")
def test_llama_cpp_python_0_3_36_lora(llm):
    assert llm._ctx.close in [entry[1].__wrapped__ for entry in llm._model._exit_stack._exit_callbacks]
    assert llm._lora_adapter is None and llm.lora_path is None and llm.lora_scale == 1.0
    assert C.llama_set_adapters_lora and C.llama_adapter_lora_p_ctypes


@checks("llama_get_logits_ith")
def test_llama_cpp_python_0_3_36_get_logits_ith(llm):
    engine = LlamaEngine(llm, hidden=False)
    assert C._lib["llama_get_logits_ith"] is not C._lib["llama_get_logits_ith"]
    (step,) = engine.forward((Decode(engine.session(), [5, 6]),))
    theirs = C.llama_get_logits_ith(llm.ctx, 1)
    assert step.logits(ROOT)[:5].tolist() == [theirs[i] for i in range(5)]


@checks("llama_batch")
def test_llama_cpp_python_0_3_36_batch():
    names = [name for name, _ in C.llama_batch._fields_]
    assert names == ["n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"]


@checks("l_out-")
def test_llama_cpp_python_0_3_36_block_outputs(llm):
    engine = LlamaEngine(llm, hidden=True)
    (step,) = engine.forward((Decode(engine.session(), [5, 6], layers=(0, 3)),))
    states = [step.hidden(ROOT, layer) for layer in (0, 3)]
    assert [state.shape for state in states] == [(llm.n_embd(),)] * 2 and np.abs(states[0] - states[1]).max() > 1e-3


@checks("llama_memory_seq_cp")
def test_llama_cpp_python_0_3_36_shared_states(tmp_path):
    for name in ("mamba2", "gemma3"):
        session = LlamaEngine(open_gguf(tmp_path, name, n_ctx=512), hidden=False).session()

        def fed(tokens, session=session):
            (step,) = session.engine.forward((Decode(session, tokens),))
            return step.logits(ROOT).copy()

        fed([5, 6, 7] * 20)
        session.checkpoint()
        expected = fed([8])
        for token in [9, 10, 11] * 99:
            fed([token])  # a window's cells have been used for others by now
        session.rollback(298)
        assert np.abs(fed([8]) - expected).max() <= BOUND


@checks("llama_state_seq_set_data_ext")
def test_llama_cpp_python_0_3_36_parts_of_a_state(tmp_path):
    engine = LlamaEngine(open_gguf(tmp_path, "gemma3", n_ctx=512, n_batch=32), hidden=False)
    session = engine.session()
    engine.forward((Decode(session, list(range(5, 305))),))
    first = engine.sequences.first_in(session.id)
    engine.sequences.separate(session.id)
    assert first < engine.sequences.first_in(session.id) <= 300 - 23  # a window of 24 with the next token
    assert engine.sequences.tokens_in(session.id) == 300


@checks("llama_model_default_params")
def test_llama_cpp_python_0_3_36_without_amx(monkeypatch):
    monkeypatch.setattr(C, "llama_print_system_info", lambda: b"AMX_INT8 = 1 | ")
    with without_amx():
        llm = Llama(str(TINY), n_ctx=256, verbose=False)
    assert llm.model_params.use_extra_bufts is False
    llm.close()
    stock = open_llama()
    assert stock.model_params.use_extra_bufts is True
    stock.close()


@checks("llama_n_rs_seq")
def test_llama_cpp_python_0_3_36_past_states(tmp_path):
    """LFM2 keeps them and takes rejected tokens back; Jamba is given none."""
    kept = {}
    for name in ("lfm2", "jamba"):
        engine = LlamaEngine(open_gguf(tmp_path, name), hidden=False, drafted=4)
        kept[name] = C.llama_n_rs_seq(engine.context.address)
        session = engine.session()
        engine.forward((Decode(session, [5, 6], Draft.chain([7, 8, 9])),))
        session.keep([0])
        assert session.owed == (0 if kept[name] else 3)
        assert session.sequences.remove(session.id, 3) == (kept[name] > 0)
        engine.close()
    assert kept == {"lfm2": 4, "jamba": 0}


@checks("llama_log_get")
def test_llama_cpp_python_0_3_36_log(capfd):
    """The library's own log is back afterwards, and prints its warning where it is to be silent."""
    large = dict(n_ctx=2048, verbose=False)  # tiny was trained on 1024
    with unlogged():
        Llama(str(TINY), **large).close()
    assert capfd.readouterr().err == ""
    Llama(str(TINY), **large).close()
    assert "n_ctx_train (1024)" in capfd.readouterr().err


# xgrammar 0.2.8


@checks("fill_next_token_bitmask")
def test_xgrammar_0_2_8_masks_and_errors():
    texts = [f"<{i}>" for i in range(70)]
    compiler = Compiler(lambda: enumerate(text.encode() for text in texts))
    position = compiler.matcher('root ::= "<40>"', "ebnf", frozenset({69}))
    assert np.flatnonzero(position.allowed()).tolist() == [40]
    after = position.after(40)
    assert after is not None and np.flatnonzero(after.allowed()).tolist() == [69]
    with pytest.raises(ControllerError, match="grammar can't be read: EBNF") as caught:
        compiler.matcher("root ::= nothing", "ebnf", frozenset({69}))
    assert ".cc" not in str(caught.value)


# The table


def test_every_hook_has_a_test_and_stands_in_its_file():
    check_table("llama-cpp-python", "xgrammar")


def test_a_broken_hook_is_named(monkeypatch):
    """The negative control: a library without the internal."""
    monkeypatch.setattr(C, "llama_batch", types.SimpleNamespace(_fields_=[]))
    with pytest.raises(AssertionError, match=r"llama-cpp-python \S+ breaks the hook llama_batch of backends/llama/nat"):
        test_llama_cpp_python_0_3_36_batch()
