"""Drafted tokens are the plain run's, in fewer forwards: `python examples/draft.py`."""

from llama_cpp import Llama

from reasonctl import Controller, attach
from reasonctl.backends import tiny_folder
from reasonctl.controller import PromptLookup

llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=512, verbose=False)
question = [{"role": "user", "content": "52 a+3 b-6 c+8"}]
written = {}
for name, drafter in (("plain", None), ("drafted", PromptLookup())):
    with attach(llm, Controller(drafter=drafter)) as handle:
        llm.create_chat_completion(question, max_tokens=300, temperature=0.6, seed=1)
        trace = handle.trace
    written[name] = trace.tokens
    print(f"{name}: {len(trace.tokens)} tokens in {trace.forwards} forwards; accepted {trace.accepted}/{trace.drafted}")
print("the same tokens:", written["plain"] == written["drafted"])
