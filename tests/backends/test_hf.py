"""model.generate under the controller: attached calls against stock calls, on tiny random models."""

from __future__ import annotations

import copy
import json
import threading
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList, TextIteratorStreamer, pipeline

from reasonctl.backends.attach import attach
from reasonctl.controller import Controller, ControllerError, PromptLookup, Sampling
from support.hf_models import GREEDY, PROMPT, SAMPLED, TOKENIZER, Scripted, Twigs, both, controlled, small, unpadded


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_new_tokens": 1},
        {"max_new_tokens": None, "max_length": 30},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1, "eos_token_id": [5, 9, 20]},
        {"no_repeat_ngram_size": 1, "eos_token_id": [5, 9, 20], "min_new_tokens": 30},
        {"bad_words_ids": [[3], [7, 8]], "encoder_repetition_penalty": 1.3},
        {"suppress_tokens": [0, 1, 2, 30]},
        {"no_repeat_ngram_size": 1, "stop_strings": ["he", "7"]},
        {"encoder_no_repeat_ngram_size": 1},
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_an_attached_greedy_call_gives_the_stock_tokens(model, arguments):
    stock, ours, handle = both(model, **(GREEDY | arguments))
    assert stock.tolist() == ours.tolist() and stock.dtype == ours.dtype
    assert (
        handle.runs == 1
        and handle.trace.forwards == len(handle.trace.tokens) == stock.shape[1] - PROMPT.input_ids.shape[1]
    )
    ended = stock.shape[1] < PROMPT.input_ids.shape[1] + 40 and "max_length" not in arguments
    assert handle.trace.finish_reason == ("stop" if ended and arguments.get("max_new_tokens") != 1 else "length")


def test_the_stopping_arguments_above_really_stop(model):
    full = model.generate(**PROMPT, **GREEDY, no_repeat_ngram_size=1)
    for stop in ({"eos_token_id": [5, 9, 20]}, {"stop_strings": ["he", "7"], "tokenizer": TOKENIZER}):
        assert model.generate(**PROMPT, **GREEDY, no_repeat_ngram_size=1, **stop).shape[1] < full.shape[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"no_repeat_ngram_size": 1, "eos_token_id": [5, 9, 20]},
        {"repetition_penalty": 1.7},
        {"encoder_repetition_penalty": 1.3},
        {"encoder_no_repeat_ngram_size": 2},
        {"prefix_allowed_tokens_fn": lambda row, tokens: [row + 3, int(tokens[-1]) // 2, 11]},
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_the_rows_of_a_padded_batch_equal_the_stock_batch(model, arguments):
    batch = TOKENIZER(["so the cat<think>", "the answer 12<think>", "a"], return_tensors="pt", padding=True)
    assert (batch.attention_mask == 0).any()
    stock, ours, handle = both(model, inputs=batch, **(GREEDY | arguments))
    assert stock.tolist() == ours.tolist()
    assert handle.runs == len(handle.traces) == len(stock) and [t.run for t in handle.traces] == list(range(len(stock)))


def test_return_dict_and_its_cache(model):
    stock, ours, _ = both(model, return_dict_in_generate=True, **GREEDY)
    assert type(stock) is type(ours) and stock.sequences.tolist() == ours.sequences.tolist()
    assert ours.past_key_values.get_seq_length() == stock.past_key_values.get_seq_length()
    more = {"max_new_tokens": 10, "do_sample": False}
    with attach(model, Controller()) as handle:
        again = model.generate(**unpadded(ours.sequences), past_key_values=ours.past_key_values, **more)
        assert handle.trace.forwards == 10 and handle.trace.prompt_tokens == stock.sequences.shape[1]
        with pytest.raises(ControllerError, match="past_key_values holds"):
            model.generate(**PROMPT, past_key_values=ours.past_key_values, **more)
    assert (
        again.tolist()
        == model.generate(**unpadded(stock.sequences), past_key_values=stock.past_key_values, **more).tolist()
    )
    assert again.tolist() == model.generate(**unpadded(stock.sequences), **more).tolist()


DRAFTING = Controller(drafter=PromptLookup())
"""A controller that has something to do, and changes no token."""


def test_a_batch_s_dictionary_says_that_it_has_no_cache(model):
    batch = TOKENIZER(["so the cat<think>", "a"], return_tensors="pt", padding=True)
    stock, ours, handle = both(model, DRAFTING, inputs=batch, return_dict_in_generate=True, **GREEDY)
    assert stock.sequences.tolist() == ours.sequences.tolist()
    assert stock.past_key_values is not None and ours.past_key_values is None
    assert all(any("past_key_values is None" in note for note in trace.warnings) for trace in handle.traces)
    _, _, handle = both(model, inputs=batch, **GREEDY)
    assert not any(trace.warnings for trace in handle.traces)


@pytest.mark.parametrize("exit_at", [None, 1])
def test_a_streamer_gets_the_final_text_and_ends(model, exit_at):
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True, timeout=20)
    out = []
    with attach(model, Controller(exit=Scripted(exit_at)), tokenizer=TOKENIZER) as handle:
        torch.manual_seed(5)
        call = {**PROMPT, **SAMPLED, "streamer": streamer}
        thread = threading.Thread(target=lambda: out.append(model.generate(**call)))
        thread.start()
        text = "".join(streamer)
        thread.join()
        assert bool(handle.trace.exit) == (exit_at is not None)
    assert text == TOKENIZER.decode(out[0][0, PROMPT.input_ids.shape[1] :])


def test_a_streamer_ends_when_the_call_is_refused(model):
    streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
    with attach(model, DRAFTING), pytest.raises(ControllerError, match="num_beams"):
        model.generate(**PROMPT, num_return_sequences=1, num_beams=2, do_sample=False, streamer=None)
    exits = attach(model, Controller(exit=Scripted()), tokenizer=TOKENIZER)
    with exits, pytest.raises(ControllerError, match="Remembers"):
        model.generate(**PROMPT, **GREEDY, streamer=streamer, logits_processor=LogitsProcessorList([Remembers()]))
    assert "".join(streamer) == TOKENIZER.decode(PROMPT.input_ids[0])  # an unended one raises queue.Empty


def test_sampling_is_reproducible_and_rows_differ(model):
    inputs, short = PROMPT, SAMPLED | {"max_new_tokens": 30}
    with attach(model, Controller()) as handle:
        torch.manual_seed(3)
        first = model.generate(**inputs, **short, num_return_sequences=3)
        second = model.generate(**inputs, **short, num_return_sequences=3)
        torch.manual_seed(3)
        assert model.generate(**inputs, **short, num_return_sequences=3).tolist() == first.tolist()
        assert len({trace.seed for trace in handle.traces}) == 1
    assert len({tuple(row) for row in [*first.tolist(), *second.tolist()]}) == 6


@pytest.mark.parametrize(
    "arguments",
    [
        {"top_k": 0},
        {"temperature": 0.7, "top_k": 0, "top_p": 0.8},
        {"top_k": 6},
        {"top_k": 0, "min_p": 0.1},
        {"top_k": 0, "typical_p": 0.7},
        {"top_k": 0, "top_h": 0.5},
        {"top_k": 0, "eta_cutoff": 0.05, "repetition_penalty": 1.4},
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_tokens_follow_the_law_of_the_library_s_own_processors(model, arguments):
    """400 return sequences: rows that shared their uniforms would fail too."""
    config = dict(do_sample=True, max_new_tokens=1, **arguments)
    out = model.generate(**PROMPT, **config, output_scores=True, return_dict_in_generate=True)
    law = out.scores[0][0].double().softmax(-1).numpy()
    with attach(model, Controller()):
        torch.manual_seed(0)
        drawn = model.generate(**PROMPT, **config, num_return_sequences=400)[:, -1].numpy()
    assert set(drawn) <= set(np.flatnonzero(law))
    counts, expected = np.bincount(drawn, minlength=len(law)), 400 * law
    rare = expected < 5
    observed, wanted = [*counts[~rare], counts[rare].sum()], [*expected[~rare], expected[rare].sum()]
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize(
    "call",
    [GREEDY | {"max_new_tokens": 80}, SAMPLED, SAMPLED | {"repetition_penalty": 1.2}],
    ids=["greedy", "sampled", "penalised"],
)
@pytest.mark.parametrize("exit_at", [None, 2])
def test_drafts_change_the_speed_and_not_the_tokens(model, call, exit_at):
    plain, before = controlled(model, Controller(exit=Scripted(exit_at)), **call)
    for drafter in (PromptLookup(size=4), Twigs(plain)):
        drafted, handle = controlled(model, Controller(exit=Scripted(exit_at), drafter=drafter), **call)
        assert drafted == plain
        assert handle.trace.drafted > 0 and handle.trace.decisions == before.trace.decisions
        if isinstance(drafter, Twigs):
            assert handle.trace.accepted > 20 and handle.trace.forwards < before.trace.forwards


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("exit_at", [0, 3])
def test_an_exit_replaces_the_cue_and_the_answer_is_that_of_a_fresh_call(model, exit_at, trials):
    rule = Scripted(exit_at, trials)
    tokens, handle = controlled(model, Controller(exit=rule), **SAMPLED)
    uncut, _ = controlled(model, Controller(), **SAMPLED)
    seen, cue, _ = rule.seen[-1]
    start, length = handle.trace.forced
    assert TOKENIZER.decode(tokens).count("</think>") == 1 and handle.trace.exit.index == exit_at
    assert start == cue.first - PROMPT.input_ids.shape[1]
    forced = TOKENIZER.encode(cue.before + rule.suffix)
    assert tokens[: cue.first] == uncut[: cue.first] == seen[: cue.first]
    assert tokens[cue.first : cue.first + length] == forced
    assert uncut[cue.first : cue.last + 1] != forced[: cue.last + 1 - cue.first]  # the cue itself is gone
    prefix = unpadded(tokens[: cue.first + length])
    rest = SAMPLED | {"max_new_tokens": SAMPLED["max_new_tokens"] - start - length}
    assert tokens == controlled(model, Controller(), inputs=prefix, **rest)[0]
    if trials:
        assert len(rule.answers) == exit_at + 1 and rule.answers[-1] == tokens[cue.first + length :][:6]
        assert handle.trace.cost > len(tokens)


def test_a_greedy_answer_after_an_exit_is_the_stock_answer(model):
    closing = [[TOKENIZER.convert_tokens_to_ids("</think>")]]  # a second one would be taken back
    call = GREEDY | {"max_new_tokens": 80, "no_repeat_ngram_size": 2, "bad_words_ids": closing}
    tokens, handle = controlled(model, Controller(exit=Scripted(0)), **call)
    start, length = handle.trace.forced
    cut = PROMPT.input_ids.shape[1] + start + length
    stock = model.generate(**unpadded(tokens[:cut]), **(call | {"max_new_tokens": 80 - start - length}))
    assert tokens == stock[0].tolist() and len(tokens) > cut


def test_a_rule_that_never_exits_leaves_the_tokens_alone_and_sees_the_right_states(model):
    rule = Scripted(None)
    tokens, handle = controlled(model, Controller(exit=rule), **SAMPLED)
    assert tokens == controlled(model, Controller(), **SAMPLED)[0]
    assert len(rule.seen) == len(handle.trace.decisions) > 3
    with torch.no_grad():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    for _, cue, hidden in rule.seen:
        assert np.abs(hidden[0] - states[1][0, cue.last].numpy()).max() < 1e-4
        normed = model.model.norm(torch.from_numpy(hidden[2])).detach()
        assert (normed - states[3][0, cue.last]).abs().max() < 1e-4  # the last block, before the final norm


def test_detach_gives_the_model_back(model, tmp_path):
    stock = model.generate(**PROMPT, **GREEDY)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    handle = attach(model, Controller(), tokenizer=TOKENIZER)
    assert type(model) is not LlamaForCausalLM and type(model).__name__ == "LlamaForCausalLM"
    with pytest.raises(ControllerError, match="attached already"):
        attach(model, Controller())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    twin = copy.deepcopy(model)
    assert type(twin) is LlamaForCausalLM and twin.generate(**PROMPT, **GREEDY).tolist() == stock.tolist()
    pipe = pipeline("text-generation", model=model, tokenizer=TOKENIZER)
    text = pipe("so the", max_new_tokens=5, do_sample=False, stop_sequence="zz")[0]["generated_text"]
    assert text.startswith("so the") and handle.runs == 1
    handle.detach()
    handle.detach()
    assert type(model) is LlamaForCausalLM and "generate" not in vars(model)
    assert model.generate(**PROMPT, **GREEDY).tolist() == stock.tolist() and handle.runs == 1
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_custom_generate_is_the_attached_call(model):
    streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
    stock = model.generate(**PROMPT, **GREEDY)
    with attach(model, Controller(), tokenizer=TOKENIZER) as handle:
        ours = model.generate(**PROMPT, **GREEDY, custom_generate=handle.custom_generate, streamer=streamer)
        assert ours.tolist() == stock.tolist() and handle.runs == 1 and "".join(streamer)
        with pytest.warns(UserWarning, match="custom_generate: this call is run by the library's own loop"):
            assert model.generate(**PROMPT, **GREEDY, custom_generate=lambda *a, **k: "theirs") == "theirs"
        assert handle.runs == 1
    with (
        attach(model, Controller(budget=4), tokenizer=TOKENIZER),
        pytest.raises(ControllerError, match="custom_generate"),
    ):
        model.generate(**PROMPT, **GREEDY, custom_generate=lambda *a, **k: None)
    with pytest.raises(ControllerError, match="detached"):
        model.generate(**PROMPT, **GREEDY, custom_generate=handle.custom_generate)


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_beams", 2),
        ("assistant_model", 1),
        ("prompt_lookup_num_tokens", 3),
        ("penalty_alpha", 0.6),
        ("synced_gpus", True),
    ],
)
def test_what_cannot_be_honoured_is_named(model, name, value):
    given = {name: small() if name == "assistant_model" else value}
    given |= {"top_k": 4} if name == "penalty_alpha" else {}
    refused = pytest.raises(ControllerError, match=name)
    with attach(model, DRAFTING, tokenizer=TOKENIZER) as handle, refused as caught:
        model.generate(**PROMPT, **GREEDY, **given)
    assert "\n" not in str(caught.value) and handle.runs == 0


class Remembers(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


def test_a_processor_that_may_keep_state_is_refused_where_that_would_show(model):
    call = GREEDY | {"logits_processor": LogitsProcessorList([Remembers()])}
    stock, ours, _ = both(model, **call)
    assert stock.tolist() == ours.tolist()
    refused = pytest.raises(ControllerError, match="Remembers")
    with attach(model, Controller(exit=Scripted()), tokenizer=TOKENIZER), refused:
        model.generate(**PROMPT, **call)
    Remembers.stateless = True
    controlled(model, Controller(exit=Scripted()), **call)
    del Remembers.stateless


def test_the_controller_s_policy_wins_and_says_so_once(model):
    controller = Controller(policy=Sampling(temperature=1.5))
    with attach(model, controller, tokenizer=TOKENIZER) as handle:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(5)
            tokens = model.generate(**PROMPT, max_new_tokens=40, do_sample=True, temperature=0.2, top_k=1).tolist()
            model.generate(**PROMPT, max_new_tokens=2, do_sample=True, temperature=0.2)
        assert len([w for w in caught if "policy" in str(w.message)]) == 1
        assert "temperature=0.2" in handle.trace.warnings[0]
        kept = model.generate(**PROMPT, max_new_tokens=40, suppress_tokens=list(range(20)))
        assert min(kept[0, PROMPT.input_ids.shape[1] :]) >= 20 and handle.trace.warnings == []  # a constraint, no law
    assert tokens[0] == controlled(model, Controller(), do_sample=True, temperature=1.5, top_k=0, max_new_tokens=40)[0]


def test_an_exit_rule_needs_the_tokenizer(model):
    with pytest.raises(ControllerError, match="tokenizer"):
        attach(model, Controller(exit=Scripted()))
    assert type(model) is LlamaForCausalLM


def test_return_sequences_under_codes_are_spread_evenly(model):
    """Of 64 even codes a token of probability p holds 64 p of them, but for less than one; independent draws don't."""
    config = dict(do_sample=True, max_new_tokens=1, top_k=0)
    out = model.generate(**PROMPT, **config, output_scores=True, return_dict_in_generate=True)
    expected = 64 * out.scores[0][0].double().softmax(-1).numpy()

    def misses(controller: Controller) -> float:
        with attach(model, controller):
            drawn = model.generate(**PROMPT, **config, num_return_sequences=64, seed=3)[:, -1].numpy()
        return np.abs(np.bincount(drawn, minlength=len(expected)) - expected).max()

    assert misses(Controller(codes="arithmetic")) < 1 + 1e-3 and misses(Controller()) > 1.5
