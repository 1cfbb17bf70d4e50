"""An unchanged model.generate call under a controller: `python examples/attach_transformers.py [--probe FILE]`."""

from __future__ import annotations

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer, set_seed

from reasonctl import Controller, attach, load_exit
from reasonctl.backends import BUNDLED_PROBE, tiny_folder
from reasonctl.controller import PromptLookup

parser = argparse.ArgumentParser()
parser.add_argument("--probe", default=BUNDLED_PROBE, help="a probe file [the bundled model's own]")
parser.add_argument("--question", default="52 a+3 b-6 c+8", help="what the model is asked")
options = parser.parse_args()

folder = tiny_folder()
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": options.question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)

exit_rule = load_exit(options.probe, risk=0.05)
handle = attach(model, Controller(exit=exit_rule, drafter=PromptLookup()), tokenizer=tokenizer)  # the one new line
set_seed(0)
model.generate(**inputs, max_new_tokens=400, do_sample=True, temperature=0.6, streamer=TextStreamer(tokenizer))

trace = handle.trace
print(f"\n{trace.why}; {len(trace.tokens)} tokens in {trace.forwards} forwards, {trace.accepted} drafted")
