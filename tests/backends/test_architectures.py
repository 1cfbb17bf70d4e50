"""Architectures as they are: what each family showed once, and models that see or hear.

`tests/every_architecture.py` runs all of them; its table is in docs/architectures.md.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from transformers import DynamicCache

from reasonctl.backends.attach import attach
from reasonctl.backends.hf import attach as attach_module
from reasonctl.backends.hf import prompts
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.controller import Controller, ControllerError, PromptLookup
from support.architecture_cells import APART, CELLS, LENGTH, Bench, Cell, Forcing, Sink, check
from support.architectures import NAMES, VARIANTS, causal
from support.hf_models import TOKENIZER, Scripted, unpadded
from support.pictures import KINDS, MEDIA, seeing
from support.source import ROOT

ONCE_WRONG = [
    ("afmoe", "rows"),
    ("bart", "rows"),
    ("deepseek_v4", "hidden"),
    ("falcon (ALiBi)", "tree"),
    ("gemma3n_text", "hidden"),
    ("git", "hidden"),
    ("gpt_neo", "tree"),
    ("hrm_text", "hidden"),
    ("longcat_flash", "hidden"),
    ("modernbert-decoder", "hidden"),
    ("phimoe", "rows"),
]
OTHERS = [
    ("bloom", "chain"),
    ("gptj", "re-open"),
    ("lfm2", "append"),
    ("mamba", "replace"),
    ("olmo", "budget"),
    ("opt", "inert"),
    ("qwen2", "every(k)"),
]


@pytest.mark.parametrize(("name", "cell"), ONCE_WRONG + OTHERS)
def test_a_cell_of_the_table(name, cell):
    found = check(Bench(causal(name)), cell)
    assert found.result == "equal", found


def test_a_wrong_text_is_seen(monkeypatch):
    """The negative control of every cell: a session that keeps the wrong branch of a tree."""
    from reasonctl.backends.hf.session import HFSession

    monkeypatch.setattr(HFSession, "_gather", lambda self, path: None)
    assert check(Bench(causal("llama")), "tree").result == "wrong"


def test_a_batch_with_nothing_to_do_is_stock_s_also_where_its_rows_are_others_alone(monkeypatch):
    """And as a negative control: rows without padding, which are no such batch."""
    bench = Bench(causal("bart"))
    assert check(bench, "batch") == Cell("equal", APART) and check(Bench(causal("llama")), "batch") == Cell("equal")
    monkeypatch.setattr(attach_module, "nothing_to_do", lambda *given: False)
    assert check(bench, "batch").result == "wrong"


def test_rows_that_read_their_padding_are_seen(monkeypatch):
    monkeypatch.setattr(prompts, "_shown", lambda mask, recurrent: list(range(len(mask))))
    assert check(Bench(causal("llama")), "rows").result == "wrong"


def test_the_page_has_every_architecture_and_every_column():
    table = re.findall(r"^\| (.*) \|$", (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8"), re.M)
    head, *rows = [line.split(" | ") for line in table]
    pictured = [f"{name} + {kind.medium}" for name, kind in KINDS.items()]
    assert head == ["architecture", *CELLS] and sorted(row[0] for row in rows) == sorted([*NAMES, *VARIANTS, *pictured])
    assert {cell for row in rows for cell in row[1:]} <= {"=", "≈", "×", "idle", "–"}


def test_trees_are_asked_of_a_model_once():
    calls = []
    for name, honours in (("llama", True), ("gpt_neo", False), ("falcon (ALiBi)", False)):
        model = causal(name)
        hook = model.register_forward_hook(lambda *args: calls.append(1))
        engine = HFEngine(model)
        assert (engine.can.branches > 1, engine.no_trees == "") == (honours, honours), engine.no_trees
        asked = len(calls)
        HFEngine(model)
        assert len(calls) == asked
        hook.remove()
    assert calls


def test_who_drafts_nothing_asks_nothing():
    """Attaching runs no forward: of a large model four of them take seconds."""
    model, calls = causal("olmo2"), []
    model.register_forward_hook(lambda *args: calls.append(1))
    with attach(model, Controller()) as handle:
        assert handle.trace is None and calls == []
    with attach(model, Controller(drafter=PromptLookup())):
        assert calls


def test_a_model_that_reads_the_whole_text_at_every_step_is_refused():
    with pytest.raises(ControllerError, match="whole text at every step"):
        attach(causal("cpmant"), Controller())


@pytest.mark.parametrize("name", ["llama", "mistral", "lfm2"])
@pytest.mark.parametrize("own", [False, True])
def test_two_turns_over_one_cache(name, own):
    model = causal(name)
    bench = Bench(model)
    named = dict(do_sample=False, no_repeat_ngram_size=2, return_dict_in_generate=True, streamer=None)
    named |= {"logits_processor": [Forcing(bench.cues)]}
    given = {"past_key_values": DynamicCache(config=model.config)} if own else {}
    with attach(model, Controller(exit=Scripted(0), budget=9), tokenizer=TOKENIZER) as handle:
        first = model.generate(**unpadded(bench.prompt), **named, **given, max_new_tokens=LENGTH)
        assert handle.trace.forced
        cache = given.get("past_key_values") or first.past_key_values
        text = first.sequences[0].tolist() + TOKENIZER(" and now 7<think>")["input_ids"]
        second = model.generate(**unpadded(text), **named, past_key_values=cache, max_new_tokens=LENGTH)
        assert handle.trace.forced
        again = model.generate(**unpadded(text), **named, max_new_tokens=LENGTH)
    assert second.sequences.tolist() == again.sequences.tolist()


def test_a_cache_without_a_length_is_refused():
    model = causal("mamba")
    cache = DynamicCache(config=model.config)
    with attach(model, Controller()), pytest.raises(ControllerError, match="cache_params"):
        model.generate(**unpadded([3, 4, 5]), cache_params=cache, max_new_tokens=2, do_sample=False)


PICTURED = [
    ("gemma3", "replace"),
    ("idefics3", "append"),
    ("llava", "every(k)"),
    ("qwen2_5_vl", "budget"),
    ("qwen2_audio", "replace"),
    ("qwen2_vl", "tree"),
    ("qwen3_5", "replace"),
    ("qwen3_vl", "re-open"),
    ("voxtral", "chain"),
]


@pytest.mark.parametrize(("name", "cell"), PICTURED)
def test_a_prompt_with_a_picture_or_a_sound(name, cell):
    bench = seeing(name)
    assert [check(bench, each).result for each in ("inert", cell)] == ["equal", "equal"]
    bench.prompt = [token for token in bench.prompt if token != MEDIA]  # a text alone
    bench.start = len(bench.prompt)
    assert check(Bench(bench.model, bench.prompt), "inert") == Cell("equal")


def test_the_picture_is_seen():
    bench = seeing("llava")
    seen = bench.stock()
    given = bench.media(bench.prompt)
    bench.media = lambda tokens: {"pixel_values": -3 * given["pixel_values"]}
    assert bench.call(Controller(budget=500), bench.prompt, bench.cues, LENGTH)[0] != seen


@pytest.mark.parametrize(
    ("name", "prompt", "message"),
    [
        ("mllama", None, "columns"),
        ("llava", [5, *[MEDIA] * 4], "ends in a picture"),
        ("llava", [[5, *[MEDIA] * 4, 6]] * 2, "of a batch"),
    ],
)
def test_what_a_picture_can_not_do_is_named(name, prompt, message):
    bench = seeing(name)
    rows = torch.tensor(prompt if prompt and isinstance(prompt[0], list) else [prompt or bench.prompt])
    media = {key: torch.cat([value] * len(rows)) for key, value in bench.media(bench.prompt).items()}
    with (
        attach(bench.model, Controller(drafter=PromptLookup()), tokenizer=TOKENIZER),
        pytest.raises(ControllerError, match=message) as caught,
    ):
        bench.model.generate(input_ids=rows, **media, do_sample=False, max_new_tokens=3, streamer=Sink())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_nothing_is_wrong_on_any_architecture(tmp_path):
    script = ROOT / "tests" / "every_architecture.py"
    command = [sys.executable, str(script), "--jsonl", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
