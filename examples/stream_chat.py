"""A chat, streamed, of two turns: `python examples/stream_chat.py`."""

from llama_cpp import Llama

from reasonctl import Controller, attach, load_exit
from reasonctl.backends import BUNDLED_PROBE, tiny_folder

llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=1024, verbose=False)
messages = []
with attach(llm, Controller(exit=load_exit(BUNDLED_PROBE, risk=0.05))) as handle:
    for question in ("52 a+3 b-6 c+8", "40 a-7 b+5 c+5"):
        messages.append({"role": "user", "content": question})
        answer = ""
        # A bundled model knows single questions only; your model would get all the messages.
        for chunk in llm.create_chat_completion(messages[-1:], max_tokens=300, temperature=0.6, seed=1, stream=True):
            piece = chunk["choices"][0]["delta"].get("content", "")
            print(piece, end="", flush=True)
            answer += piece
        print(f"\n[{handle.trace.why}]")
        messages.append({"role": "assistant", "content": answer})
