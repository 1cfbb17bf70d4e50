"""DiffusionGemma's own generate under a budget of forwards, traced; a tiny random one."""

from __future__ import annotations

import pytest
import torch

from reasonctl.backends.hf.masked.diffusion_gemma import generate_with_budget
from reasonctl.controller import ControllerError

transformers = pytest.importorskip("transformers", minversion="5.20")
if not hasattr(transformers, "DiffusionGemmaConfig"):
    pytest.skip("this transformers has no DiffusionGemma", allow_module_level=True)

CANVAS = 8


@pytest.fixture(scope="module")
def model():
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation

    torch.manual_seed(0)
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
        num_experts=2,
        top_k_experts=1,
        moe_intermediate_size=16,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=16,
    )
    vision = transformers.Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
    )
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=CANVAS)
    found = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    found.generation_config = generation.DiffusionGemmaGenerationConfig(
        max_denoising_steps=6,
        sampler_config=generation.EntropyBoundSamplerConfig(entropy_bound=0.5),
        t_min=0.5,
        t_max=1.0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return found


PROMPT = torch.tensor([[2, 5, 9, 7]])


@pytest.mark.parametrize("budget, canvases, steps", [(100, 3, 18), (13, 2, 12), (4, 1, 4)])
def test_forwards_stay_within_the_budget(model, budget, canvases, steps):
    torch.manual_seed(1)
    tokens, (trace,) = generate_with_budget(model, PROMPT, budget=budget, max_new_tokens=3 * CANVAS)
    assert trace.forwards == steps <= budget and tokens.shape[1] == 4 + canvases * CANVAS
    places = [place for step in trace.order for place in step]
    assert sorted(places) == list(range(canvases * CANVAS)) and len(trace.order) == steps


def test_the_budget_changes_nothing_while_it_is_not_reached(model):
    torch.manual_seed(1)
    own = model.generate(input_ids=PROMPT, max_new_tokens=2 * CANVAS)
    torch.manual_seed(1)
    ours, _ = generate_with_budget(model, PROMPT, budget=50, max_new_tokens=2 * CANVAS)
    assert torch.equal(getattr(own, "sequences", own), ours)


def test_mistakes_are_said(model):
    with pytest.raises(ControllerError, match="at least 1"):
        generate_with_budget(model, PROMPT, budget=0)
    with pytest.raises(ControllerError, match="isn't transformers'"):
        generate_with_budget(torch.nn.Linear(1, 1), PROMPT, budget=1)
