"""One line more: llama-cpp-python's own calls, controlled. Run: python examples/attach_llama.py [--probe FILE]"""

import argparse

from llama_cpp import Llama

from reasonctl import Controller, attach, load_exit
from reasonctl.backends import BUNDLED_PROBE, tiny_folder
from reasonctl.controller import PromptLookup

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--probe", default=BUNDLED_PROBE, help="a .probe.safetensors file [the bundled model's own]")
options.add_argument("--risk", type=float, default=0.05)
given = options.parse_args()

exit_rule = load_exit(given.probe, risk=given.risk)
llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=512, verbose=False)
with attach(llm, Controller(exit=exit_rule, drafter=PromptLookup())) as handle:
    question = [{"role": "user", "content": "52 a+3 b-6 c+8"}]
    for chunk in llm.create_chat_completion(question, max_tokens=200, temperature=0.6, seed=1, stream=True):
        print(chunk["choices"][0]["delta"].get("content", ""), end="", flush=True)
    print(f"\n[{len(handle.trace.tokens)} tokens in {handle.trace.forwards} forwards; {handle.trace.why}]")
