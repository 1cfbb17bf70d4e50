"""The internals of other libraries that we rely on, one test each: a failure names the hook and the version."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch
from llama_cpp import Llama, LlamaGrammar, _internals
from llama_cpp import llama_cpp as C
from transformers import DynamicCache, LlamaForCausalLM, MambaConfig, MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin
from transformers.generation import EosTokenCriteria, GenerationMode, MaxLengthCriteria
from transformers.generation import logits_process as processors
from transformers.modeling_layers import GradientCheckpointingLayer

import reasonctl.backends
from reasonctl.backends.grammar import Compiler
from reasonctl.backends.hf.attention import folded
from reasonctl.backends.hooks import HOOKS, MADE_FOR
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.load import without_amx
from reasonctl.backends.llama.native import unlogged
from reasonctl.backends.llama.sampling import DEFAULTS, check_processors
from reasonctl.controller import ROOT, ControllerError, Decode, Draft
from support.architectures import causal
from support.hf_models import PROMPT, TOKENIZER, small
from support.llama_models import CHAT, TINY, open_llama
from support.llama_models import PROMPT as TEXT
from support.recorded_rows import BOUND, open_gguf

CHECKED: set[str] = set()
BROKEN = (
    pytest.fail.Exception,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)
"""What a test of a hook raises where the library has changed."""


def checks(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of one hook; whatever goes wrong in it is said in the hook's words."""
    (hook,) = (hook for hook in HOOKS if hook.name == name)
    CHECKED.add(name)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: object, **named: object) -> None:
            try:
                test(*args, **named)
            except BROKEN as error:
                raise AssertionError(hook.broken_by(version(hook.library))) from error

        return run

    return decorate


class Seen(Exception):
    """Raised by a hook, to show that it was asked."""


class Prepared(dict):
    """What generate() gave to `_sample`."""


def listening(**changes):
    """A model whose `_sample` returns what it was given."""

    def sample(self, input_ids, logits_processor, stopping_criteria, generation_config, streamer=None, **more):
        return Prepared(more, config=generation_config, criteria=stopping_criteria, processors=logits_processor)

    model = small(**changes)
    model.__class__ = type("Listening", (LlamaForCausalLM,), {"_sample": sample})
    return model


# transformers 5.23


@checks("_get_deprecated_gen_repo")
def test_transformers_5_23_get_deprecated_gen_repo():
    def refuse(self, mode, *args, **named):
        raise Seen(mode)

    def forward(self, *args, **named):
        raise AssertionError("a forward ran before the mode was asked for")

    model = small()
    model.__class__ = type("Refusing", (LlamaForCausalLM,), {"_get_deprecated_gen_repo": refuse, "forward": forward})
    for arguments, mode in (
        ({"num_beams": 2}, GenerationMode.BEAM_SEARCH),
        ({"penalty_alpha": 0.6, "top_k": 4}, GenerationMode.CONTRASTIVE_SEARCH),
        ({"prompt_lookup_num_tokens": 3}, GenerationMode.ASSISTED_GENERATION),
        ({"dola_layers": "low"}, GenerationMode.DOLA_GENERATION),
        ({"do_sample": True}, GenerationMode.SAMPLE),
    ):
        with pytest.raises(Seen) as caught:
            model.generate(**PROMPT, max_new_tokens=3, **arguments)
        assert caught.value.args == (mode,)


@checks("_sample")
def test_transformers_5_23_sample():
    model = listening()
    for do_sample in (False, True):
        given = model.generate(**PROMPT, max_new_tokens=3, do_sample=do_sample, temperature=0.5, repetition_penalty=2.0)
        assert type(given) is Prepared
        names = [type(processor).__name__ for processor in given["processors"]]
        warpers = ["TemperatureLogitsWarper", "TopKLogitsWarper"] if do_sample else []
        assert names == ["RepetitionPenaltyLogitsProcessor", *warpers]


@checks("_is_user_defined")
def test_transformers_5_23_is_user_defined():
    model = listening()
    cache = DynamicCache(config=model.config)
    assert model.generate(**PROMPT, max_new_tokens=3, past_key_values=cache)["past_key_values"]._is_user_defined
    own = model.generate(**PROMPT, max_new_tokens=3)["past_key_values"]
    assert not getattr(own, "_is_user_defined", False)


@checks("_mask_length")
def test_transformers_5_23_mask_length():
    model, ids = listening(), PROMPT.input_ids
    given = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)
    assert given["config"]._mask_length == ids.shape[1] and given["attention_mask"] is None
    padded = torch.ones_like(ids)
    padded[0, 0] = 0
    assert model.generate(input_ids=ids, attention_mask=padded, max_new_tokens=3)["attention_mask"] is not None


@checks("_pad_token_tensor")
def test_transformers_5_23_pad_token_tensor():
    given = listening(pad_token_id=7).generate(**PROMPT, max_new_tokens=3)
    assert int(given["config"]._pad_token_tensor) == 7


@checks("EosTokenCriteria")
def test_transformers_5_23_stopping_criteria():
    given = listening().generate(**PROMPT, max_new_tokens=3, eos_token_id=[5, 9])
    by_type = {type(criterion): criterion for criterion in given["criteria"]}
    assert by_type[EosTokenCriteria].eos_token_id.tolist() == [5, 9]
    assert by_type[MaxLengthCriteria].max_length == PROMPT.input_ids.shape[1] + 3


@checks("_supports_default_dynamic_cache")
def test_transformers_5_23_supports_default_dynamic_cache():
    assert LlamaForCausalLM._supports_default_dynamic_cache()


@checks("_prefill")
def test_transformers_5_23_prefill():
    model = small()
    cache, ids = DynamicCache(config=model.config), torch.tensor([[3, 4, 5]])
    given = {"past_key_values": cache, "position_ids": torch.arange(3)[None], "use_cache": True}
    out = model._prefill(ids, model.generation_config, given)
    assert cache.get_seq_length() == 3
    after = model._update_model_kwargs_for_generation(out, given, is_encoder_decoder=False)
    step = model.prepare_inputs_for_generation(torch.tensor([[3, 4, 5, 6]]), next_sequence_length=1, **after)
    assert step["input_ids"].tolist() == [[6]] and step["position_ids"].tolist() == [[3]]


@checks("prepare_inputs_for_generation")
def test_transformers_5_23_prepare_inputs_for_generation():
    ids = torch.zeros((1, 2), dtype=torch.long)
    assert small().prepare_inputs_for_generation(ids, next_sequence_length=1, use_cache=True)["input_ids"].shape == (
        1,
        1,
    )
    given = causal("cpmant").prepare_inputs_for_generation(ids, next_sequence_length=1, use_cache=True)
    assert given["input_ids"].shape == (1, 2)


@checks("GradientCheckpointingLayer")
def test_transformers_5_23_gradient_checkpointing_layer():
    assert isinstance(small().model.layers[0], GradientCheckpointingLayer)


@checks("altup_active_idx")
def test_transformers_5_23_altup_active_idx():
    model = causal("gemma3n_text")
    assert model.config.altup_active_idx == 0
    shapes = []
    model.model.layers[0].register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    model(torch.tensor([[3, 4, 5]]))
    assert shapes == [(model.config.altup_num_inputs, 1, 3, model.config.hidden_size)]


@checks("conv_states")
def test_transformers_5_23_conv_states():
    (state, *_) = DynamicCache(config=MambaConfig(num_hidden_layers=1)).layers
    assert isinstance(state, LinearAttentionCacheLayerMixin) and type(state.conv_states) is dict
    for update in (state.update_conv_state, state.update_recurrent_state):
        update(torch.ones(1, 2, 4))
    held = [state.conv_states[0], state.recurrent_states[0]]
    for update in (state.update_conv_state, state.update_recurrent_state):
        update(torch.zeros(1, 2, 4))
    assert held[0] is state.conv_states[0] and held[1] is state.recurrent_states[0]
    assert not held[0].any() and not held[1].any()


@checks("is_backend_compatible")
def test_transformers_5_23_is_backend_compatible():
    assert LlamaForCausalLM.is_backend_compatible()


def sliding(recording):
    model = small(MistralConfig, MistralForCausalLM, sliding_window=4)
    cache = DynamicCache(config=model.config)
    if recording:
        for layer in cache.layers:
            layer.activate_past_recording()
    with torch.inference_mode():
        for token in range(3, 12):
            model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
    return cache.layers[0]


@checks("activate_past_recording")
def test_transformers_5_23_activate_past_recording():
    assert sliding(True).keys.shape[-2] == 9 and sliding(False).keys.shape[-2] < 9


@checks("cumulative_length")
def test_transformers_5_23_cumulative_length():
    layer = sliding(True)
    assert type(layer) is DynamicSlidingWindowLayer and layer.is_initialized
    assert layer.cumulative_length == layer.keys.shape[-2] == layer.values.shape[-2] == 9


@checks("_attn_implementation")
def test_transformers_5_23_attn_implementation():
    model, seen = small(), []
    with torch.inference_mode():
        with folded(model, lambda layer, query, key: seen.append((layer, query.shape[1], key.shape[1]))):
            model(input_ids=torch.tensor([[3, 4, 5]]))
        model(input_ids=torch.tensor([[3, 4, 5]]))
    assert seen == [(layer, 4, 2) for layer in range(3)]  # query heads, key heads


@checks("_prefix_allowed_tokens_fn")
def test_transformers_5_23_processors_of_a_batch():
    ids = torch.tensor([[1, 2, 3], [3, 4, 5]])
    ignored = processors.RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=3)
    assert ignored.prompt_ignore_length == 3
    assert processors.EncoderRepetitionPenaltyLogitsProcessor(1.5, ids).encoder_input_ids.tolist() == ids.tolist()
    repeated = processors.EncoderNoRepeatNGramLogitsProcessor(1, ids)
    assert repeated.batch_size == 2 and len(repeated.generated_ngrams) == 2
    allowed = processors.PrefixConstrainedLogitsProcessor(lambda row, tokens: [row], 1)
    assert allowed._prefix_allowed_tokens_fn(1, ids[1]) == [1]


@checks("backend_tokenizer")
def test_transformers_5_23_backend_tokenizer():
    assert "ByteLevel" in str(TOKENIZER.backend_tokenizer.decoder)
    think = TOKENIZER.added_tokens_decoder[TOKENIZER.convert_tokens_to_ids("<think>")]
    assert think.content == "<think>" and not think.special


# llama-cpp-python 0.3.36


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
    assert {hook.name for hook in HOOKS} == CHECKED and len(CHECKED) == len(HOOKS)
    folder = Path(reasonctl.backends.__file__).parent
    for hook in HOOKS:
        assert hook.name in (folder / hook.used_in).read_text(encoding="utf-8"), hook
        assert hook.library in MADE_FOR


def test_a_broken_hook_is_named(monkeypatch):
    """The negative control: a library without the internal."""
    monkeypatch.setattr(C, "llama_batch", types.SimpleNamespace(_fields_=[]))
    with pytest.raises(AssertionError, match=r"llama-cpp-python \S+ breaks the hook llama_batch of backends/llama/nat"):
        test_llama_cpp_python_0_3_36_batch()
