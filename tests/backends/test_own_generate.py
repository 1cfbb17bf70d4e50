"""A model with its own `generate` is controlled where that comes to the library's loop, and refused by name else."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from reasonctl.backends.attach import attach
from reasonctl.controller import Controller, ControllerError, Greedy

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 8, "patch_size": 4}


def blip2():
    text = OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16
    )
    config = Blip2Config(
        vision_config=VISION, qformer_config=SIZES, text_config=text.to_dict(), num_query_tokens=2, image_token_index=39
    )
    return Blip2ForConditionalGeneration(config).eval()


def blip():
    text = {**SIZES, "vocab_size": 40, "encoder_hidden_size": 16, "bos_token_id": 1, "sep_token_id": 2}
    return BlipForConditionalGeneration(BlipConfig(vision_config=VISION, text_config=text)).eval()


@pytest.mark.parametrize(("make", "inner"), [(blip2, "language_model"), (blip, "text_decoder")])
def test_a_model_that_runs_another_model_s_generate_is_refused(make, inner):
    model = make()
    with pytest.raises(ControllerError, match=rf"runs the generate of its {inner}.*attach\(model.{inner}, "):
        attach(model, Controller())
    assert type(model).__name__.startswith("Blip")  # nothing is left of the attempt


def test_what_the_error_says_works():
    """The model inside is controlled, whether tokens reach it or embeddings."""
    model = blip2()
    with attach(model.language_model, Controller()) as handle:
        model.language_model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
        assert handle.trace.finish_reason is not None
        pixels, ids = torch.randn(1, 3, 8, 8), torch.tensor([[39, 39, 5, 6]])
        stock = model.generate(pixel_values=pixels, input_ids=ids, max_new_tokens=3, do_sample=False)
    with attach(model.language_model, Controller(policy=Greedy())) as handle:
        ours = model.generate(pixel_values=pixels, input_ids=ids, max_new_tokens=3, do_sample=False)
        assert torch.equal(stock, ours) and handle.runs == 1
    assert type(model.language_model) is OPTForCausalLM


class Images(LlamaForCausalLM):
    """Goes to the library's loop, but for pictures, which it makes in a loop of its own."""

    def generate(self, inputs, pictures=False, **named):
        return inputs if pictures else super().generate(inputs, **named)


class Silent(LlamaForCausalLM):
    """Runs no loop of the library's."""

    def generate(self, inputs, **named):
        return inputs


def test_a_call_that_never_came_to_the_loop_is_an_error(model):
    images, ids = Images(model.config).eval(), torch.tensor([[5, 6, 7]])
    with attach(images, Controller()) as handle:
        assert images.generate(ids, max_new_tokens=2).shape == (1, 5) and len(handle.trace.tokens) == 2
        with pytest.raises(ControllerError, match="this call of Images.generate ran a loop of its own"):
            images.generate(ids, pictures=True)
        images.generate(ids, max_new_tokens=2)
    with pytest.raises(ControllerError, match="Silent.generate is its own and runs no loop of the library's"):
        attach(Silent(model.config), Controller())
