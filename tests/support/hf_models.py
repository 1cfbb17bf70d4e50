"""Tiny random models, a byte-level tokenizer and scripted rules for the transformers tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

from reasonctl.backends.attach import attach
from reasonctl.controller import ROOT, Controller, Cues, Decision, Draft, ExitRule, Markers, Stateless

WORDS = [" Wait", " Hmm", "\n\n", "<think>", "</think>", " so", " the", " answer", "Wait", "ing"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"


def byte_level(
    letters: str = "abcdefghijklmnopqrstuvwxyz .\n0123456789é", words: Sequence[str] = WORDS
) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary of single characters, with whole words as added tokens."""
    characters = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(letters)
    alphabet = dict.fromkeys(character for piece, _ in characters for character in piece)
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


TOKENIZER = byte_level()
# Cues are to be met often in sampled calls.
BIAS = [[[TOKENIZER.convert_tokens_to_ids(word)], 2.0] for word in WORDS[:3]]
EOS, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


SHAPE = dict(
    vocab_size=len(TOKENIZER) + 3,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.25,
    eos_token_id=None,
    bos_token_id=None,
    pad_token_id=PAD,
)


def small(kind=LlamaConfig, model=LlamaForCausalLM, **changes):
    """A random model of three layers."""
    torch.manual_seed(1)
    return model(kind(**(SHAPE | changes))).eval()


def unpadded(tokens):
    """With a mask of ones: a random model may have generated the padding token, which would be masked otherwise."""
    ids = torch.as_tensor(tokens).reshape(1, -1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


PROMPT = TOKENIZER("so the cat<think>", return_tensors="pt")
GREEDY = dict(max_new_tokens=40, do_sample=False)


class Scripted(ExitRule):
    """Exits at one cue, or never; remembers what it was shown."""

    markers, suffix, max_cues = Markers("<think>", "</think>"), "</think>\n\n", 100
    cues = Cues(["wait", "hmm", "paragraph"])

    def __init__(self, exit_at=None, trials=False, form="replace"):
        self.exit_at, self.trials, self.seen, self.answers, self.form = exit_at, trials, [], [], form

    def layers(self, depth):
        return (0, depth - 1)

    def decide(self, at):
        self.seen.append((list(at.tokens), at.cue, at.hidden))
        if self.trials:
            self.answers.append(list((yield from at.answer(6)).tokens))
        leave = at.cue.index == self.exit_at
        return Decision(leave, at.cue.name, at.cue.index, at.cue.first - at.prompt, float(leave), 0.5)


class Twigs(Stateless):
    """A tree whose first branch is wrong and whose second one repeats what an earlier run generated."""

    def __init__(self, known):
        self.known = list(known)

    def propose(self, tokens, room):
        right = self.known[len(tokens) : len(tokens) + min(4, room)]
        if not right:
            return Draft()
        wrong = (right[0] + 1) % 30
        tokens = (wrong, right[0], wrong, *right[1:])
        return Draft(tokens, (ROOT, ROOT, 0, *([1, *range(3, len(tokens) - 1)] if right[1:] else [])))
        yield


def both(model, controller=None, tokenizer=TOKENIZER, inputs=PROMPT, seed=0, **arguments):
    """(stock output, attached output, handle) of one call."""
    torch.manual_seed(seed)
    stock = model.generate(**inputs, **({"tokenizer": tokenizer} if "stop_strings" in arguments else {}), **arguments)
    with attach(model, controller or Controller(), tokenizer=tokenizer) as handle:
        torch.manual_seed(seed)
        ours = model.generate(**inputs, **arguments)
    return stock, ours, handle


def controlled(model, controller, seed=5, inputs=PROMPT, **arguments):
    """The tokens of an attached call, and its handle."""
    with attach(model, controller, tokenizer=TOKENIZER) as handle:
        torch.manual_seed(seed)
        return model.generate(**inputs, **arguments)[0].tolist(), handle


SAMPLED = dict(
    max_new_tokens=90,
    do_sample=True,
    temperature=1.5,
    top_k=0,
    bad_words_ids=[[PAD], [EOS], [TOKENIZER.convert_tokens_to_ids("</think>")]],
    sequence_bias=BIAS,
)


class Shown(BaseStreamer):
    """Keeps the tokens that a streamer sees."""

    def __init__(self):
        self.tokens = []

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        pass
