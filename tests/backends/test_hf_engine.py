"""The transformers engine beyond the contract suite, its tokenizer port and its loader."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.load import load_transformers, wrap_transformers
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.controller import ROOT, Controller, ControllerError, Decode, Draft, PromptLookup
from support.hf_models import (
    EOS,
    GREEDY,
    PROMPT,
    SAMPLED,
    TOKENIZER,
    Scripted,
    Twigs,
    both,
    byte_level,
    controlled,
    small,
    unpadded,
)


def test_a_state_that_takes_one_token_at_a_time_goes_back_to_checkpoints_and_verifies_no_draft():
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.3
    )
    config.eos_token_id = None
    mamba = MambaForCausalLM(config).eval()
    engine = HFEngine(mamba)
    assert (engine.can.rollback, engine.can.branches, engine.can.fork, engine.can.layers) == (True, 0, True, 2)
    inputs = unpadded(PROMPT.input_ids)
    stock, ours, handle = both(
        mamba, Controller(drafter=PromptLookup()), inputs=inputs, no_repeat_ngram_size=2, **GREEDY
    )
    assert stock.tolist() == ours.tolist() and handle.runs == 1 and handle.trace.drafted == 0
    assert any("one token at a time" in warning for warning in handle.trace.warnings)
    session = engine.session()
    engine.forward([Decode(session, [1, 2, 3])])
    with pytest.raises(ControllerError, match="the last checkpoint is at 3"):
        session.rollback(1)
    fork = session.fork()
    engine.forward([Decode(fork, [9, 8])])
    (step,) = engine.forward([Decode(session, [4, 5])])
    with torch.no_grad():
        fresh = mamba(torch.tensor([[1, 2, 3, 4, 5]])).logits[0, -1].numpy()
    assert np.abs(step.logits(ROOT) - fresh).max() < 1e-4


def test_a_sliding_window_rolls_back_past_its_window():
    mistral = small(MistralConfig, MistralForCausalLM, sliding_window=8)
    engine = HFEngine(mistral)
    assert engine.can.rollback and engine.can.branches == 1
    plain, _ = controlled(mistral, Controller(exit=Scripted(2)), **SAMPLED)
    assert plain == controlled(mistral, Controller(exit=Scripted(2), drafter=PromptLookup(size=4)), **SAMPLED)[0]
    stock, ours, _ = both(mistral, **(GREEDY | {"no_repeat_ngram_size": 2}))
    assert stock.tolist() == ours.tolist()
    session, tokens = engine.session(), [*range(3, 33)]
    for token in tokens:
        engine.forward([Decode(session, [token])])
    for n in (2, 12, 3):
        session.rollback(n)
    (step,) = engine.forward([Decode(session, [7, 7], Draft.chain([9, 9]))])
    session.keep([0])
    (step,) = engine.forward([Decode(session, [5])])
    with torch.no_grad():
        fresh = mistral(torch.tensor([[*tokens[:13], 7, 7, 9, 5]])).logits[0, -1].numpy()
    assert np.abs(step.logits(ROOT) - fresh).max() < 1e-4


def test_hidden_rows_are_the_last_pending_token_s_and_the_draft_s(model):
    session = HFEngine(model).session()
    (step,) = session.engine.forward([Decode(session, [4, 5, 6], Draft((7, 8), (ROOT, ROOT)), (1,))])
    with torch.no_grad():
        states = [
            model(torch.tensor([[4, 5, 6, token]]), output_hidden_states=True).hidden_states[2] for token in (7, 8)
        ]
    for node, expected in ((ROOT, states[0][0, 2]), (0, states[0][0, 3]), (1, states[1][0, 3])):
        assert np.abs(step.hidden(node, 1) - expected.numpy()).max() < 1e-4
    with pytest.raises(ControllerError, match="layer 2"):
        step.hidden(ROOT, 2)


def test_bfloat16_and_eager_attention(model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    session = HFEngine(half).session()
    (step,) = session.engine.forward([Decode(session, [1, 2, 3], Draft((4, 5), (ROOT, ROOT)), (1,))])
    assert step.logits(1).dtype == step.hidden(1, 1).dtype == np.float32
    eager = small(attn_implementation="eager")
    tokens, _ = controlled(eager, Controller(), **SAMPLED)
    assert tokens == controlled(eager, Controller(drafter=Twigs(tokens)), **SAMPLED)[0]


def test_byte_level_tokens_are_spelled_exactly():
    port = HFTokenizer(TOKENIZER)
    text = "so é\n\n Wait the<think> 12.</think>"
    tokens = port.encode(text)
    assert port.decode(tokens) == text and TOKENIZER.convert_tokens_to_ids("<think>") in tokens
    assert "".join(map(port.text, tokens)) != text and "\ufffd" in "".join(map(port.text, tokens))  # é has two bytes
    pieces = dict(port.pieces())
    assert list(pieces) == sorted(pieces) and len(pieces) == len(TOKENIZER) and pieces[EOS] == b"<eos>"
    assert pieces[TOKENIZER.convert_tokens_to_ids("\u0120")] == b" " and port.text(len(TOKENIZER) + 1) == ""


def test_a_texts_tokens_are_the_callers_own_and_follow_a_vocabulary_that_grows():
    library = byte_level()
    port = HFTokenizer(library)
    tokens = port.encode("so cat")
    before = list(tokens)
    tokens.append(0)
    assert port.encode("so cat") == before
    library.add_tokens(["cat"])
    assert port.encode("so cat") == [*before[:-3], library.convert_tokens_to_ids("cat")]


def test_sentencepiece_tokens_are_spelled_exactly():
    vocabulary = ["<unk>", "\u2581", "\u2581so", "so", "a", "<0x0A>", "<0xC3>", "<0xA9>"]
    inner = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(vocabulary)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    port = HFTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>"))
    assert port.text(2) == " so" and port.text(5) == "\n" and port.decode([6, 7]) == "é"
    assert port.encode("\n\na é") == [5, 5, 4, 1, 6, 7]  # no space in front
    assert dict(port.pieces())[1] == b" "


def test_loading_a_folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_transformers(str(tmp_path))
    assert (loaded.depth, loaded.width, loaded.context, loaded.backend) == (3, 32, 512, "transformers")
    assert loaded.settings == {"dtype": "float32", "attention": "sdpa", "format": "safetensors"}
    assert loaded.tokenizer.decode(loaded.prompt("the cat")) == "the cat<think>"
    assert loaded.fingerprint() == wrap_transformers("x", model, TOKENIZER).fingerprint()
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    for name in (str(tmp_path), f"hf:{tmp_path}/bad.gguf", f"hf:{tmp_path}/none.gguf", "/no/such/folder"):
        with pytest.raises(ControllerError) as caught:
            load_transformers(name)
        assert "\n" not in str(caught.value)


def test_attach_imports_no_library_it_does_not_need():
    code = (
        "import sys; from reasonctl.backends.attach import attach; from reasonctl.controller import Controller\n"
        "try: attach(3, Controller())\n"
        "except ValueError as error: print(error, bool({'torch', 'llama_cpp'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "attach to an object of type int; give" in out and out.strip().endswith("False")
