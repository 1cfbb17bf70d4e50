"""A run as a page: `python examples/page_of_a_run.py [FOLDER]` writes run.jsonl and run.html there."""

import sys
from pathlib import Path

from llama_cpp import Llama

from reasonctl import Controller, attach, load_exit, parse_policy
from reasonctl.backends import BUNDLED_PROBE, tiny_folder
from reasonctl.calibration.pages.run_page import run_page
from reasonctl.controller import PromptLookup
from reasonctl.controller.core import read_runs

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=1024, verbose=False)
rule = load_exit(BUNDLED_PROBE, risk=0.05)  # its promise is for temperature(0.6) and at most 768 tokens
controller = Controller(exit=rule, policy=parse_policy("temperature(0.6)"), drafter=PromptLookup(), record=True)
with attach(llm, controller) as handle:
    llm.create_chat_completion([{"role": "user", "content": "52 a+3 b-6 c+8"}], max_tokens=768, seed=1)
    handle.save(folder / "run.jsonl", text=True, model="tiny")
(folder / "run.html").write_text(run_page(read_runs(folder / "run.jsonl"), "run.jsonl"), encoding="utf-8")
print(f"written: {folder / 'run.html'}")
