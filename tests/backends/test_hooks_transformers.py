"""The internals of transformers that we rely on, one test each: a failure names hook and version."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM, MambaConfig, MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin
from transformers.generation import EosTokenCriteria, GenerationMode, MaxLengthCriteria
from transformers.generation import logits_process as processors
from transformers.modeling_layers import GradientCheckpointingLayer

from reasonctl.backends.hf.attention import folded
from support.architectures import causal
from support.hf_models import PROMPT, TOKENIZER, small
from support.hooks import Seen, check_table, checks


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


def test_every_hook_has_a_test_and_stands_in_its_file():
    check_table("transformers")
